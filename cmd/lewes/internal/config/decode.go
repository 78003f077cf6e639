package config

import (
	"encoding"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"lewes/router/policy"
	"lewes/transport/uri"
)

// maxText limits the length of each string in a file, in bytes.
const maxText = 1 << 10

// decoder copies decoded TOML into a Config and collects all problems. The TOML library would stop at the
// first wrong value and name Go's types in its error.
type decoder struct{ problems problems }

// decode stores v, the value of the key at, in dst. A wrong value leaves dst unchanged.
func (d *decoder) decode(at string, dst reflect.Value, v any) {
	if isText(dst.Type()) {
		if s, ok := v.(string); ok {
			d.text(at, dst, s)
			return
		}
		if n, ok := v.(int64); ok && dst.Type() == reflect.TypeFor[Size]() {
			dst.SetInt(n)
			return
		}
		d.mismatch(at, dst, v)
		return
	}
	switch v := v.(type) {
	case map[string]any:
		if dst.Kind() == reflect.Struct {
			d.table(at, dst, v)
			return
		}
	case []any:
		if dst.Kind() == reflect.Slice {
			list := reflect.MakeSlice(dst.Type(), len(v), len(v))
			for i, entry := range v {
				d.decode(indexed(at, i+1), list.Index(i), entry)
			}
			dst.Set(list)
			return
		}
	case string:
		if dst.Kind() == reflect.String {
			d.text(at, dst, v)
			return
		}
	case bool:
		if dst.Kind() == reflect.Bool {
			dst.SetBool(v)
			return
		}
	case int64:
		if dst.Kind() == reflect.Int && !dst.OverflowInt(v) {
			dst.SetInt(v)
			return
		}
		if dst.Kind() == reflect.Float64 {
			dst.SetFloat(float64(v))
			return
		}
	case float64:
		if dst.Kind() == reflect.Float64 {
			dst.SetFloat(v)
			return
		}
	}
	d.mismatch(at, dst, v)
}

func (d *decoder) table(at string, dst reflect.Value, values map[string]any) {
	fields := make(map[string]reflect.Value, dst.NumField())
	for i := range dst.NumField() {
		fields[dst.Type().Field(i).Tag.Get("toml")] = dst.Field(i)
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if field, known := fields[name]; known {
			d.decode(join(at, name), field, values[name])
			continue
		}
		table := withoutIndexes(at)
		key := join(table, shownKey(name))
		d.problems = append(d.problems, Problem{
			Reason: "there is no key " + key, at: join(at, name), unknown: key, table: table,
		})
	}
}

func (d *decoder) text(at string, dst reflect.Value, s string) {
	if len(s) > maxText {
		d.problems.add(at, "%q is longer than %d bytes", shorten(s), maxText)
		return
	}
	switch v := dst.Addr().Interface().(type) {
	case *netip.Addr: // its UnmarshalText accepts the empty string
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			d.mismatch(at, dst, s)
			return
		}
		*v = a
	case encoding.TextUnmarshaler:
		if err := v.UnmarshalText([]byte(s)); err != nil {
			d.problems.add(at, "%v", err)
		}
	default:
		dst.SetString(s)
	}
}

func (d *decoder) mismatch(at string, dst reflect.Value, v any) {
	d.problems.add(at, "%s is not %s", shown(v), describe(withoutIndexes(at), dst.Type()))
}

// isText reports whether values of a type are strings in a file that the type parses itself.
func isText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// describe returns the valid form of a key's value, to follow "is not".
func describe(path string, t reflect.Type) string {
	switch t {
	case reflect.TypeFor[Duration]():
		return `a duration in quotes, such as "30s"`
	case reflect.TypeFor[Size]():
		return `a size, such as "64MiB" or a number of bytes`
	case reflect.TypeFor[netip.Addr]():
		return `an IP address in quotes, such as "203.0.113.7"`
	case reflect.TypeFor[Address]():
		return `an IP address in quotes, with an optional port, such as "192.0.2.1" or "[2001:db8::1]:443"`
	case reflect.TypeFor[Network]():
		return `a network in quotes, such as "10.77.0.0/16"`
	case reflect.TypeFor[Host]():
		return `a host name or an IP address in quotes, such as "gw.example.com"`
	case reflect.TypeFor[Issuer]():
		return `an issuer in quotes, such as "https://issuer.example#PIN"`
	case reflect.TypeFor[policy.Rule]():
		return `a rule in quotes, such as "10.0.0.0/8" or "*:25"`
	case reflect.TypeFor[uri.Gateway]():
		return `a gateway's URI in quotes, such as "lewes://IDENTITY@gw.example.com:51264"`
	case reflect.TypeFor[KEM]():
		return `the name of a key exchange in quotes, such as "ML-KEM-768"`
	}
	switch t.Kind() {
	case reflect.Struct:
		return fmt.Sprintf("a table: write [%s] on a line of its own and its keys below", path)
	case reflect.Slice:
		if e := t.Elem(); e.Kind() == reflect.Struct && !isText(e) {
			return fmt.Sprintf("a list of tables: write [[%s]] on a line of its own before the keys of each", path)
		}
		return "a list in brackets, [], of which each entry is " + describe(path, t.Elem())
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	default:
		return "a string in quotes"
	}
}

// shown formats a value for an error.
func shown(v any) string {
	switch v := v.(type) {
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	case string:
		return strconv.Quote(shorten(v))
	case float64:
		s := strconv.FormatFloat(v, 'g', -1, 64)
		if !strings.ContainsAny(s, ".eIN") {
			s += ".0"
		}
		return s
	case time.Time:
		return v.Format(time.RFC3339Nano)
	default:
		return shorten(fmt.Sprint(v))
	}
}

// shownKey formats a key for an error.
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

// shorten truncates a string for an error.
func shorten(s string) string {
	const limit = 100
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "…"
}
