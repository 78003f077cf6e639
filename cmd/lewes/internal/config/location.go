package config

import (
	"bytes"
	"errors"
	"regexp"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// maxExpressionLines limits the lines of one value for which locate finds positions.
const maxExpressionLines = 1 << 12

// location is a position in a file, counted from 1. Column is 0 for entries of a list.
type location struct{ line, column int }

// locations maps each key in a file, with its index in lists, to its position.
type locations map[string]location

// locate returns the positions of the keys in a valid TOML text. Strict decoding into a struct without
// fields reports each key as missing, with its position. locate decodes one header or key at a time, since
// each report costs time proportional to the length of the text.
func locate(text []byte) locations {
	found := make(locations)
	tables := make(map[string]int) // entries so far of each list of tables
	current, line := "", 1
	for len(text) > 0 {
		e, ok := readExpression(text)
		if !ok {
			break
		}
		if e.key != nil {
			header := bytes.TrimLeft(text, " \t")[0] == '['
			path := current
			if header {
				path = ""
			}
			for i, name := range e.key {
				path = join(path, name)
				if header && i == len(e.key)-1 && bytes.HasPrefix(bytes.TrimLeft(text, " \t"), []byte("[[")) {
					tables[path]++
				}
				found.add(path, location{line + e.at.line - 1, e.at.column})
				if n := tables[path]; n > 0 {
					path = indexed(path, n)
					found.add(path, location{line + e.at.line - 1, e.at.column})
				}
			}
			for i, l := range e.entries {
				found.add(indexed(path, i+1), location{line: line + l})
			}
			if header {
				current = path
			}
		}
		text, line = text[e.length:], line+e.lines
	}
	return found
}

func (l locations) add(at string, p location) {
	if _, known := l[at]; !known {
		l[at] = p
	}
}

// of returns the position of a key, or of the closest list or table around it.
func (l locations) of(at string) location {
	for {
		p, found := l[at]
		i := strings.LastIndexAny(at, ".[")
		if found || i < 0 {
			return p
		}
		at = at[:i]
	}
}

// expression is a header, a key with its value, or an empty line.
type expression struct {
	length, lines int
	key           toml.Key // nil for an empty line
	at            location // of the key
	entries       []int    // the line of each entry of a list, from 0
}

// readExpression reads the expression at the start of a text: the fewest lines that are valid TOML.
func readExpression(text []byte) (e expression, ok bool) {
	for e.lines < maxExpressionLines && e.length < len(text) {
		if n := bytes.IndexByte(text[e.length:], '\n'); n >= 0 {
			e.length += n + 1
		} else {
			e.length = len(text)
		}
		e.lines++
		part := text[:e.length:e.length]
		err := toml.NewDecoder(bytes.NewReader(part)).DisallowUnknownFields().Decode(&struct{}{})
		var missing *toml.StrictMissingError
		if errors.As(err, &missing) {
			e.key = missing.Errors[0].Key()
			e.at.line, e.at.column = missing.Errors[0].Position()
		}
		complete := err == nil || missing != nil
		if e.lines > 1 || !complete {
			e.addEntries(part, complete)
		}
		if complete {
			return e, true
		}
	}
	return e, false
}

// addEntries notes the line of the list entries that end in the last line of part.
func (e *expression) addEntries(part []byte, complete bool) {
	if !complete {
		part = append(part, "\n]"...)
	}
	var values map[string]any
	if toml.Unmarshal(part, &values) != nil {
		return
	}
	var v any = values
	for table, isTable := v.(map[string]any); isTable; table, isTable = v.(map[string]any) {
		v = nil
		for _, v = range table { // of one key
		}
	}
	list, _ := v.([]any)
	for len(e.entries) < len(list) {
		e.entries = append(e.entries, e.lines-1)
	}
}

// join returns the path of a key in the table at path.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// inside reports whether a key is the other one, or in the table or list that the other one names.
func inside(at, other string) bool {
	rest, found := strings.CutPrefix(at, other)
	return found && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// indexed returns the key of a list's entry, counted from 1.
func indexed(at string, n int) string { return at + "[" + strconv.Itoa(n) + "]" }

var indexes = regexp.MustCompile(`\[\d+\]`)

// withoutIndexes returns the key without the indexes of list entries: "gateway.uri" for "gateway[2].uri".
func withoutIndexes(at string) string { return indexes.ReplaceAllString(at, "") }
