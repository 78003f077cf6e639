package noise

import (
	"io"
	"reflect"

	flynn "github.com/flynn/noise"
)

var (
	suiteType  = reflect.TypeFor[flynn.CipherSuite]()
	readerType = reflect.TypeFor[io.Reader]()
)

// erase overwrites every byte array and byte slice that a value of the library
// holds: chaining key, cipher keys, preshared key, transcript hash. The library
// has no way of its own to do so, and section 5 asks for all of Noise's
// intermediates to be wiped. It does not enter the cipher suite, whose name is
// shared and whose secrets suite wipes.
//
// What the hash functions and the stack held in passing is out of reach.
func erase(value any) { eraseValue(reflect.ValueOf(value)) }

func eraseValue(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			eraseValue(v.Elem())
		}
	case reflect.Interface:
		if t := v.Type(); t != suiteType && t != readerType && !v.IsNil() {
			eraseValue(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			eraseValue(v.Field(i))
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			b := v.Bytes()
			clear(b[:cap(b)])
		}
	case reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 && v.CanAddr() {
			clear(v.Bytes())
		}
	}
}
