package config

import (
	"bytes"
	"encoding"
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// maxText bounds each text in a file, in bytes.
const maxText = 1 << 10

// document is where everything stands in a file, and what of it cannot be what it
// should be. The TOML library would stop at the first such thing, know the lines of
// some of them, and speak of Go's types.
type document struct {
	lines    map[string]int // by key, with its place in each list
	problems []Problem
	broken   bool // it is no TOML
}

// place is where the file says something.
type place struct {
	node *node  // nil: nothing may stand there, and that is told already
	at   string // its key, with its place in each list
	line int
}

type documentReader struct {
	document
	parser unstable.Parser
	counts map[string]int // entries of each list of tables so far

	offset, line int // a byte of the text and its line: the last ones asked for
}

// readDocument holds a text against the schema.
func readDocument(text []byte) *document {
	r := &documentReader{document: document{lines: make(map[string]int)}, counts: make(map[string]int), line: 1}
	r.parser.Reset(text)
	root := place{node: schema}
	here := root
	for r.parser.NextExpression() {
		switch e := r.parser.Expression(); e.Kind {
		case unstable.Table, unstable.ArrayTable:
			here = r.header(r.follow(root, e.Key()), e.Kind == unstable.ArrayTable)
		case unstable.KeyValue:
			r.check(r.follow(here, e.Key()), e.Value())
		}
	}
	r.broken = r.parser.Error() != nil
	return &r.document
}

// follow returns the place that a key leads to from another.
func (r *documentReader) follow(p place, key unstable.Iterator) place {
	for p.node != nil && key.Next() {
		if p.node.kind == tables {
			if r.counts[p.at] == 0 {
				r.tell(p, "it is "+p.node.form())
				return place{}
			}
			p = r.entry(p)
		}
		name := string(key.Node().Data)
		p.line = r.lineOf(key.Node())
		if p.node.kind != table {
			r.tell(p, fmt.Sprintf("it is no table and cannot hold %s; it is %s", shownKey(name), p.node.form()))
			return place{}
		}
		next := p.node.keys[name]
		if next == nil {
			r.unknown(p, name)
			return place{}
		}
		p.node, p.at = next, join(p.at, name)
	}
	if p.node != nil {
		r.lines[p.at] = p.line
	}
	return p
}

// header returns the place where the keys below a header stand.
func (r *documentReader) header(p place, double bool) place {
	switch {
	case p.node == nil:
		return p
	case p.node.kind == table && !double:
		return p
	case p.node.kind == tables && double:
		r.counts[p.at]++
		p = r.entry(p)
		r.lines[p.at] = p.line
		return p
	}
	r.tell(p, "it is not what its header says, but "+p.node.form())
	return place{}
}

// entry returns the last entry of a list of tables.
func (r *documentReader) entry(p place) place {
	return place{p.node.elem, indexed(p.at, r.counts[p.at]), p.line}
}

// check tells whether a value can be what it should be.
func (r *documentReader) check(p place, v *unstable.Node) {
	if p.node == nil {
		return
	}
	switch {
	case p.node.kind == table && v.Kind == unstable.InlineTable:
		for it := v.Children(); it.Next(); {
			r.check(r.follow(p, it.Node().Key()), it.Node().Value())
		}
	case (p.node.kind == list || p.node.kind == tables) && v.Kind == unstable.Array:
		n := 0
		for it := v.Children(); it.Next(); {
			n++
			entry := place{p.node.elem, indexed(p.at, n), p.line}
			if it.Node().Raw.Length > 0 {
				entry.line = r.lineOf(it.Node())
			}
			r.lines[entry.at] = entry.line
			r.check(entry, it.Node())
		}
	case p.node.kind == value && p.node.takes(v.Kind):
		if v.Kind == unstable.String {
			r.checkText(p, v.Data)
		}
	default:
		r.tell(p, fmt.Sprintf("%s is not %s", r.shown(v), p.node.form()))
	}
}

// takes tells whether a value may be written as this kind of TOML.
func (n *node) takes(k unstable.Kind) bool {
	switch {
	case n.typ == reflect.TypeFor[Size]():
		return k == unstable.Integer || k == unstable.String
	case textValue(n.typ):
		return k == unstable.String
	}
	switch n.typ.Kind() {
	case reflect.Bool:
		return k == unstable.Bool
	case reflect.Int:
		return k == unstable.Integer
	case reflect.Float64:
		return k == unstable.Integer || k == unstable.Float
	default:
		return k == unstable.String
	}
}

func (r *documentReader) checkText(p place, text []byte) {
	if len(text) > maxText {
		r.tell(p, fmt.Sprintf("%q is longer than %d bytes", shorten(string(text)), maxText))
		return
	}
	v := reflect.New(p.node.typ).Interface()
	if _, isAddr := v.(*netip.Addr); isAddr {
		// It reads nothing as no address, which nobody writes on purpose.
		if a, err := netip.ParseAddr(string(text)); err != nil || a.Zone() != "" {
			r.tell(p, fmt.Sprintf("%q is not %s", shorten(string(text)), p.node.form()))
		}
		return
	}
	if u, ok := v.(encoding.TextUnmarshaler); ok {
		if err := u.UnmarshalText(text); err != nil {
			r.tell(p, err.Error())
		}
	}
}

func (r *documentReader) tell(p place, reason string) {
	r.problems = append(r.problems, Problem{Line: p.line, Key: p.node.path, Reason: reason, at: p.at})
}

// unknown tells that the table p has no such key.
func (r *documentReader) unknown(p place, name string) {
	path := join(p.node.path, shownKey(name))
	reason := fmt.Sprintf("there is no key %s", path)
	if len(r.problems) < maxProblems { // more are not told anyway
		reason += "; " + p.node.instead(path)
	}
	r.problems = append(r.problems, Problem{Line: p.line, Reason: reason})
}

// lineOf returns the line that a part of the text stands in.
func (r *documentReader) lineOf(n *unstable.Node) int {
	at := int(n.Raw.Offset)
	if at < r.offset {
		r.offset, r.line = 0, 1
	}
	r.line += bytes.Count(r.parser.Data()[r.offset:at], []byte("\n"))
	r.offset = at
	return r.line
}

// shown returns a value as an error shows it.
func (r *documentReader) shown(v *unstable.Node) string {
	switch v.Kind {
	case unstable.Array:
		return "a list"
	case unstable.InlineTable:
		return "a table"
	case unstable.String:
		return strconv.Quote(shorten(string(v.Data)))
	default:
		return shorten(string(v.Data))
	}
}

// indexed returns the key of a list's entry, counted from 1.
func indexed(at string, n int) string { return at + "[" + strconv.Itoa(n) + "]" }

// shownKey returns a key as an error shows it.
func shownKey(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-.", r)
	}
	s = shorten(s)
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return strconv.Quote(s)
	}
	return s
}

// shorten cuts a text for an error.
func shorten(s string) string {
	const most = 100
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
