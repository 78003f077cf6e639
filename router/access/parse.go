package access

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"lewes/crypto/identity"
)

// lineForm ends every error about a line.
const lineForm = `a line is an identity, a name of one word and "# " with a comment, such as: 9qAx…3kF  anna-phone  # since May`

// minIdentity is the length of the shortest identity in base58.
const minIdentity = identity.PublicKeySize

var (
	errUTF8        = errors.New("it is not UTF-8 text")
	errUnprintable = errors.New("it has a character that is not printable")
	errLong        = fmt.Errorf("it is longer than %d bytes", MaxLine)
	errName        = errors.New("not a name")
	errWords       = errors.New(`only a comment, with "# " before it, may follow the name`)
	errTwice       = errors.New("the identity is in the file twice")
)

// LineError is a line that cannot be read.
type LineError struct {
	Path  string
	Line  int    // from 1
	Value string // the part that is wrong, at most 64 bytes of it
	Err   error
}

func (e *LineError) Error() string {
	return fmt.Sprintf("access: list of clients %s, line %d: %q: %v; %s", e.Path, e.Line, e.Value, e.Err, lineForm)
}

// Unwrap returns what is wrong.
func (e *LineError) Unwrap() error { return e.Err }

// parse reads a file's text, with most clients in it or fewer. path is for the
// errors.
func parse(path string, text []byte, most int) (*List, error) {
	// Names and comments share this one string.
	all := string(text)
	room := min(bytes.Count(text, []byte("\n"))+1, len(text)/minIdentity, most)
	l := &List{entries: make([]Entry, 0, room), index: make(map[identity.PublicKey]int32, room)}
	for n := 1; all != ""; n++ {
		var line string
		line, all, _ = strings.Cut(all, "\n")
		e, found, value, err := parseLine(line)
		if err != nil {
			return nil, &LineError{Path: path, Line: n, Value: shorten(value), Err: err}
		}
		if !found {
			continue
		}
		if i, twice := l.index[e.Identity]; twice {
			return nil, &LineError{Path: path, Line: n, Value: e.Identity.String(), Err: fmt.Errorf("%w: it stands in line %d already; remove one of them", errTwice, l.entries[i].Line)}
		}
		if len(l.entries) == most {
			return nil, fmt.Errorf("access: list of clients %s has more than %d clients: %w; split them among gateways", path, most, ErrTooLarge)
		}
		e.Line = n
		l.index[e.Identity] = int32(len(l.entries))
		l.entries = append(l.entries, e)
	}
	return l, nil
}

// parseLine reads a line without its end. found is false for a line without a
// client. With an error comes the part that is wrong.
func parseLine(line string) (e Entry, found bool, wrong string, err error) {
	line = strings.TrimSuffix(line, "\r")
	if len(line) > MaxLine {
		return Entry{}, false, line, errLong
	}
	if err := printable(line); err != nil {
		return Entry{}, false, line, err
	}
	id, rest := cutWord(line)
	if id == "" || id[0] == '#' {
		return Entry{}, false, "", nil
	}
	if e.Identity, err = identity.ParsePublicKey(id); err != nil {
		return Entry{}, false, id, err
	}
	if !strings.HasPrefix(rest, "#") {
		e.Name, rest = cutWord(rest)
		if err := checkName(e.Name); err != nil && e.Name != "" {
			return Entry{}, false, e.Name, err
		}
	}
	comment, isComment := strings.CutPrefix(rest, "#")
	if rest != "" && !isComment {
		return Entry{}, false, rest, errWords
	}
	e.Comment = strings.Trim(comment, " \t")
	return e, true, "", nil
}

// cutWord returns the first word of s, and what follows it from the next word on.
func cutWord(s string) (word, rest string) {
	s = strings.TrimLeft(s, " \t")
	if i := strings.IndexAny(s, " \t"); i >= 0 {
		return s[:i], strings.TrimLeft(s[i:], " \t")
	}
	return s, ""
}

// checkName tells what keeps a word from being a client's name.
func checkName(name string) error {
	switch {
	case len(name) > MaxName:
		return fmt.Errorf("%w: it is longer than %d bytes", errName, MaxName)
	case strings.ContainsAny(name, " \t"):
		return fmt.Errorf("%w: a name is one word", errName)
	case strings.Contains(name, "#"):
		return fmt.Errorf("%w: it has a # in it; put a space before the # of a comment", errName)
	}
	if err := printable(name); err != nil {
		return fmt.Errorf("%w: %w", errName, err)
	}
	if _, err := identity.ParsePublicKey(name); err == nil {
		return fmt.Errorf("%w: it is an identity; a line holds one client", errName)
	}
	return nil
}

// printable tells what keeps a text from being shown on a terminal as it is.
func printable(s string) error {
	if !utf8.ValidString(s) {
		return errUTF8
	}
	for _, r := range s {
		if !unicode.IsPrint(r) && r != '\t' {
			return fmt.Errorf("%w, %U", errUnprintable, r)
		}
	}
	return nil
}

// shorten cuts a value for an error.
func shorten(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "")
}
