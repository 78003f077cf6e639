package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"lewes/router/textfile"
)

// key is a key of the file with the type of its value.
type key struct {
	path string // such as "listen.port"
	typ  reflect.Type
}

func (k key) isTable() bool { return k.typ.Kind() == reflect.Struct && !isText(k.typ) }

// keys are all keys of a file, in order.
var keys = keysOf("", reflect.TypeFor[Config]())

func keysOf(table string, t reflect.Type) (list []key) {
	for i := range t.NumField() {
		k := key{join(table, t.Field(i).Tag.Get("toml")), t.Field(i).Type}
		list = append(list, k)
		elem := k.typ
		if elem.Kind() == reflect.Slice {
			elem = elem.Elem()
		}
		if elem.Kind() == reflect.Struct && !isText(elem) {
			list = append(list, keysOf(k.path, elem)...)
		}
	}
	slices.SortFunc(list, func(a, b key) int { return strings.Compare(a.path, b.path) })
	return list
}

// suggest returns the nearest key to an unknown one in a table, or the keys of the table if none is near.
func suggest(table, unknown string) string {
	name := lastPart(unknown)
	best, distance := "", 0
	for _, k := range keys {
		d := textfile.EditDistance(strings.ToLower(unknown), k.path)
		if lastPart(k.path) == name && !k.isTable() {
			d = min(d, 2) // the right name in the wrong table
		}
		if best == "" || d < distance {
			best, distance = k.path, d
		}
	}
	if distance <= 1+len(name)/3 {
		return fmt.Sprintf("did you mean %s?", best)
	}
	var names []string
	for _, k := range keys {
		if k.path == join(table, lastPart(k.path)) {
			names = append(names, lastPart(k.path))
		}
	}
	where := "the file"
	if table != "" {
		where = "[" + table + "]"
	}
	return fmt.Sprintf("%s may contain %s", where, strings.Join(names, ", "))
}

func lastPart(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }
