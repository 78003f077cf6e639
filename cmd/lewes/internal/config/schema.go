package config

import (
	"encoding"
	"fmt"
	"net/netip"
	"reflect"

	"lewes/router/policy"
	"lewes/transport/uri"
)

// node is what may stand at a place of the file.
type node struct {
	kind nodeKind
	path string           // its key, such as "listen.port"
	keys map[string]*node // of a table
	elem *node            // of a list: what is in it
	typ  reflect.Type     // of a value
}

type nodeKind uint8

const (
	value nodeKind = iota
	list           // of values
	table
	tables
)

// schema is the file as Config lays it out.
var schema = nodeOf("", reflect.TypeFor[Config]())

// textValue tells whether a type's value is written as a text of its own.
func textValue(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

func nodeOf(path string, t reflect.Type) *node {
	n := &node{path: path, typ: t}
	switch {
	case textValue(t):
	case t.Kind() == reflect.Slice:
		n.elem = nodeOf(path, t.Elem())
		n.kind = list
		if n.elem.kind == table {
			n.kind = tables
		}
	case t.Kind() == reflect.Struct:
		n.kind, n.keys = table, make(map[string]*node)
		for i := range t.NumField() {
			name := t.Field(i).Tag.Get("toml")
			n.keys[name] = nodeOf(join(path, name), t.Field(i).Type)
		}
	}
	return n
}

// form says what may stand at a place, as in "it is not …".
func (n *node) form() string {
	switch n.kind {
	case list:
		return fmt.Sprintf("a list in brackets, [], of which each entry is %s", n.elem.form())
	case table:
		return fmt.Sprintf("a table: write [%s] on a line of its own and its keys below", n.path)
	case tables:
		return fmt.Sprintf("a list of tables: write [[%s]] on a line of its own before the keys of each", n.path)
	}
	switch n.typ {
	case reflect.TypeFor[Duration]():
		return `a duration in quotes, such as "30s"`
	case reflect.TypeFor[Size]():
		return `a size, such as "64MiB" or a number of bytes`
	case reflect.TypeFor[netip.Addr]():
		return `an IP address in quotes, such as "203.0.113.7"`
	case reflect.TypeFor[Address]():
		return `an IP address in quotes, perhaps with a port, such as "192.0.2.1" or "[2001:db8::1]:443"`
	case reflect.TypeFor[Host]():
		return `a host name or an IP address in quotes, such as "gw.example.com"`
	case reflect.TypeFor[policy.Rule]():
		return `a rule in quotes, such as "10.0.0.0/8" or "*:25"`
	case reflect.TypeFor[uri.Gateway]():
		return `a gateway's URI in quotes, such as "lewes://IDENTITY@gw.example.com:51264"`
	case reflect.TypeFor[KEM]():
		return `the name of a key exchange in quotes, such as "ML-KEM-768"`
	}
	switch n.typ.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	default:
		return "a text in quotes"
	}
}

// join returns the path of a key in the table at path.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
