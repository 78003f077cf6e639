package config

import (
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"lewes/router/textfile"
)

// maxFile limits the length of a configuration file, in bytes.
const maxFile = 1 << 20

// maxProblems limits the problems in an Error.
const maxProblems = 20

// ErrInvalid is wrapped by every Error.
var ErrInvalid = errors.New("invalid configuration")

// Problem is one mistake in a configuration.
type Problem struct {
	Line   int    // in the file, from 1; 0 if unknown
	Column int    // in the line, from 1; 0 if unknown
	Key    string // such as "listen.port"; empty for unknown keys and syntax errors
	Reason string // the wrong value and the valid ones

	at             string // the key, with its index in lists
	unknown, table string // an unknown key and the table it is in
}

// String returns the problem in one line.
func (p Problem) String() string {
	s := p.Reason
	if p.Key != "" {
		s = p.Key + ": " + s
	}
	if p.Line > 0 && p.Column > 1 {
		return fmt.Sprintf("line %d, column %d: %s", p.Line, p.Column, s)
	}
	if p.Line > 0 {
		s = fmt.Sprintf("line %d: %s", p.Line, s)
	}
	return s
}

// Error lists the mistakes in a configuration. It wraps ErrInvalid.
type Error struct {
	File     string // empty for a text without a file
	Problems []Problem
	More     int // further problems that are not listed
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("configuration")
	if e.File != "" {
		b.WriteString(" " + e.File)
	}
	if len(e.Problems) == 1 {
		return b.String() + ": " + e.Problems[0].String()
	}
	b.WriteString(":")
	for _, p := range e.Problems {
		b.WriteString("\n  " + p.String())
	}
	if e.More > 0 {
		fmt.Fprintf(&b, "\n  and %d more", e.More)
	}
	return b.String()
}

// Unwrap returns ErrInvalid.
func (e *Error) Unwrap() error { return ErrInvalid }

// invalid returns an Error, or nil if the list is empty.
func invalid(list []Problem) error {
	if len(list) == 0 {
		return nil
	}
	listed := slices.Clone(list[:min(len(list), maxProblems)])
	for i, p := range listed {
		if p.unknown != "" {
			listed[i].Reason += "; " + suggest(p.table, p.unknown)
		}
	}
	return &Error{Problems: listed, More: len(list) - len(listed)}
}

//go:embed default.toml
var defaultText string

// DefaultText returns a configuration file that explains every key and sets it to its default.
func DefaultText() string { return defaultText }

// Default returns the configuration of a gateway without a configuration file: that of DefaultText.
func Default() *Config {
	c := new(Config)
	if err := c.read([]byte(defaultText)); err != nil {
		panic(err) // the tests parse this text
	}
	return c
}

// Load reads a configuration file. The error is an *Error if the text is invalid.
func Load(path string) (*Config, error) {
	c, _, err := load(path)
	return c, err
}

// Check reads a configuration file as Load does, and returns its warnings with their lines.
func Check(path string) (warnings []Problem, err error) {
	c, text, err := load(path)
	if err != nil {
		return nil, err
	}
	if warnings = c.Warnings(); len(warnings) > 0 {
		sortByPosition(warnings, textfile.TrimBOM(text))
	}
	return warnings, nil
}

func load(path string) (*Config, []byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the configuration %s: %w", path, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read the configuration %s: %w", path, err)
	}
	c, err := Parse(text)
	if e := (*Error)(nil); errors.As(err, &e) {
		e.File = path
	}
	return c, text, err
}

// Parse parses the text of a configuration file. Missing keys have their defaults. The error is an *Error.
func Parse(text []byte) (*Config, error) {
	if len(text) > maxFile {
		return nil, invalid([]Problem{{Reason: fmt.Sprintf("the text is longer than %d bytes; is this the right file?", maxFile)}})
	}
	c := Default()
	if err := c.read(textfile.TrimBOM(text)); err != nil {
		return nil, err
	}
	return c, nil
}

// read sets the keys in a text and checks the result. Unknown keys, values of the wrong type and invalid
// values are reported together.
func (c *Config) read(text []byte) error {
	var values map[string]any
	if err := toml.Unmarshal(text, &values); err != nil {
		return invalid([]Problem{syntaxProblem(err)})
	}
	var d decoder
	d.table("", reflect.ValueOf(c).Elem(), values)
	list := d.problems
	for _, p := range c.problems() {
		// A wrong value was not decoded, so its key has another value here.
		if !slices.ContainsFunc(d.problems, func(q Problem) bool { return inside(q.at, p.at) || inside(p.at, q.at) }) {
			list = append(list, p)
		}
	}
	if len(list) == 0 {
		return nil
	}
	sortByPosition(list, text)
	return invalid(list)
}

// sortByPosition sets the positions of problems in a valid TOML text, and sorts the problems by them.
func sortByPosition(list []Problem, text []byte) {
	positions := locate(text)
	for i := range list {
		p := positions.of(list[i].at)
		list[i].Line, list[i].Column = p.line, p.column
	}
	slices.SortStableFunc(list, func(a, b Problem) int { return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column)) })
}

// syntaxProblem returns the problem for an error of the TOML library.
func syntaxProblem(err error) Problem {
	var e *toml.DecodeError
	if !errors.As(err, &e) {
		return Problem{Reason: err.Error()}
	}
	p := Problem{Reason: strings.TrimPrefix(e.Error(), "toml: ")}
	p.Line, p.Column = e.Position()
	if key := strings.Join(e.Key(), "."); key != "" {
		p.Key = shownKey(key)
	}
	return p
}
