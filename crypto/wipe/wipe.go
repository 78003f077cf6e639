package wipe

import (
	"reflect"
	"unsafe"
)

// Bytes sets every byte of b to zero.
func Bytes(b []byte) { clear(b) }

// Deep sets every number, and every array, slice or struct of numbers, that
// can be reached from ptr to zero. It follows pointers, slices and interfaces
// and leaves these themselves as they are, so the value keeps its shape and a
// method called on it does not meet a nil pointer. Strings, maps, channels and
// functions are left alone, and so is a value that stands in an interface
// without a pointer: Go gives no hold of it.
//
// Nobody else may use what ptr reaches while Deep runs. It is an error of the
// program, answered by a panic, to pass something that is not a pointer, and
// the value must own all it points to: a table shared with others would be
// zeroed for them too.
func Deep(ptr any) {
	v := reflect.ValueOf(ptr)
	if v.Kind() != reflect.Pointer {
		panic("wipe: Deep needs a pointer, not a " + v.Kind().String())
	}
	erase(v, make(map[unsafe.Pointer]bool))
}

// erase zeroes what v holds; seen are the pointers that were followed, so that
// a cycle ends.
func erase(v reflect.Value, seen map[unsafe.Pointer]bool) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() || seen[v.UnsafePointer()] {
			return
		}
		seen[v.UnsafePointer()] = true
		erase(v.Elem(), seen)
	case reflect.Interface:
		if !v.IsNil() {
			erase(v.Elem(), seen)
		}
	case reflect.Slice:
		if plain(v.Type().Elem()) {
			clearBytes(v.UnsafePointer(), uintptr(v.Len())*v.Type().Elem().Size())
			return
		}
		for i := range v.Len() {
			erase(v.Index(i), seen)
		}
	case reflect.Struct, reflect.Array:
		if plain(v.Type()) && v.CanAddr() {
			clearBytes(v.Addr().UnsafePointer(), v.Type().Size())
			return
		}
		if v.Kind() == reflect.Array {
			for i := range v.Len() {
				erase(v.Index(i), seen)
			}
			return
		}
		for i := range v.NumField() {
			erase(v.Field(i), seen)
		}
	default:
		if plain(v.Type()) && v.CanAddr() {
			clearBytes(v.Addr().UnsafePointer(), v.Type().Size())
		}
	}
}

// plain tells whether a value of type t holds numbers only. Memory with
// pointers in it must not be overwritten behind the garbage collector's back.
func plain(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Bool,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr,
		reflect.Float32, reflect.Float64, reflect.Complex64, reflect.Complex128:
		return true
	case reflect.Array:
		return plain(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if !plain(t.Field(i).Type) {
				return false
			}
		}
		return true
	default:
		return false
	}
}

func clearBytes(p unsafe.Pointer, size uintptr) {
	clear(unsafe.Slice((*byte)(p), size))
}
