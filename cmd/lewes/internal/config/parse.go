package config

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// maxFile bounds the text of a configuration, in bytes.
const maxFile = 1 << 20

// maxProblems is how many problems an Error tells.
const maxProblems = 20

// ErrInvalid is what every Error wraps.
var ErrInvalid = errors.New("configuration not usable")

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	Line   int    // in the file, from 1; 0 where there is no file
	Key    string // such as "listen.port"; empty where the text is no TOML
	Reason string // what is wrong, with the value, and what is allowed

	at string // the key, with its place in each list
}

// String returns the problem in one line.
func (p Problem) String() string {
	s := p.Reason
	if p.Key != "" {
		s = p.Key + ": " + s
	}
	if p.Line > 0 {
		s = fmt.Sprintf("line %d: %s", p.Line, s)
	}
	return s
}

// Error is what is wrong with a configuration. It wraps ErrInvalid.
type Error struct {
	File     string // empty if it came from none
	Problems []Problem
	More     int // problems that were left out
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

// invalid returns an Error, or nil where there is no problem.
func invalid(list []Problem) error {
	if len(list) == 0 {
		return nil
	}
	told := min(len(list), maxProblems)
	return &Error{Problems: list[:told], More: len(list) - told}
}

//go:embed default.toml
var defaultText string

// DefaultText returns the text of a configuration file with every key, its default
// and what it is for. It says what Default returns.
func DefaultText() string { return defaultText }

// Load reads the configuration in a file. What is wrong with its text is an *Error.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("configuration %s cannot be read: %w", path, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("configuration %s cannot be read: %w", path, err)
	}
	c, err := Parse(text)
	if e := (*Error)(nil); errors.As(err, &e) {
		e.File = path
	}
	return c, err
}

// Parse reads a configuration's text; keys that are not in it have their defaults.
// The error is an *Error.
func Parse(text []byte) (*Config, error) {
	if len(text) > maxFile {
		return nil, invalid([]Problem{{Reason: fmt.Sprintf("the text is longer than %d bytes; is this the right file?", maxFile)}})
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	d := readDocument(text)
	if d.broken {
		var anything map[string]any
		return nil, invalid([]Problem{decodeProblem(toml.Unmarshal(text, &anything))})
	}
	if len(d.problems) > 0 {
		return nil, invalid(d.problems)
	}
	c := Default()
	if err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(c); err != nil {
		return nil, invalid([]Problem{decodeProblem(err)})
	}
	if list := c.problems(); len(list) > 0 {
		for i := range list {
			list[i].Line = d.lines[list[i].at]
		}
		return nil, invalid(list)
	}
	return c, nil
}

// decodeProblem returns what the TOML library found.
func decodeProblem(err error) Problem {
	var e *toml.DecodeError
	if !errors.As(err, &e) {
		return Problem{Reason: fmt.Sprint(err)}
	}
	p := Problem{Reason: strings.TrimPrefix(e.Error(), "toml: ")}
	p.Line, _ = e.Position()
	if key := strings.Join(e.Key(), "."); key != "" {
		p.Key = shownKey(key)
	}
	return p
}
