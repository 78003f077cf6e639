// Package wipe overwrites secrets that are no longer needed and that a library keeps in a structure
// of its own without a way to erase them: the round keys of a cipher, the polynomials of an ML-KEM
// key, the state of a Noise handshake. For secrets that a package holds itself, clear suffices.
//
// The tests check for each of those libraries that Deep reaches everything.
//
// Copies on a stack or in a register are out of reach in Go. Wiping removes the
// copies that would otherwise live as long as the heap object.
package wipe

import (
	"reflect"
	"slices"
	"unsafe"
)

// Deep sets every number reachable from ptr to zero, slices up to their capacity. It follows
// pointers, slices and interfaces and keeps these themselves, so that a later method call does not
// meet a nil pointer. It skips strings, maps, channels, functions, non-pointer values inside an
// interface, and values of the types in shared.
//
// The value must own everything it points to, except for the types in shared:
// Deep would zero a shared table for its other users too. Nothing else may use
// that memory while Deep runs. Deep panics if ptr is not a pointer.
func Deep(ptr any, shared ...reflect.Type) {
	v := reflect.ValueOf(ptr)
	if v.Kind() != reflect.Pointer {
		panic("wipe: Deep needs a pointer, not a " + v.Kind().String())
	}
	e := eraser{shared, make(map[unsafe.Pointer]bool)}
	e.erase(v)
}

type eraser struct {
	shared  []reflect.Type
	visited map[unsafe.Pointer]bool // pointers already followed, to end cycles
}

func (e *eraser) erase(v reflect.Value) {
	t := v.Type()
	if slices.Contains(e.shared, t) {
		return
	}
	if numeric(t) {
		if v.CanAddr() {
			clear(unsafe.Slice((*byte)(v.Addr().UnsafePointer()), t.Size()))
		}
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if p := v.UnsafePointer(); p != nil && !e.visited[p] {
			e.visited[p] = true
			e.erase(v.Elem())
		}
	case reflect.Interface:
		if !v.IsNil() {
			e.erase(v.Elem())
		}
	case reflect.Slice:
		if v = v.Slice(0, v.Cap()); numeric(t.Elem()) {
			clear(unsafe.Slice((*byte)(v.UnsafePointer()), uintptr(v.Len())*t.Elem().Size()))
			return
		}
		for i := range v.Len() {
			e.erase(v.Index(i))
		}
	case reflect.Array:
		for i := range v.Len() {
			e.erase(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			e.erase(v.Field(i))
		}
	}
}

// numeric reports whether values of type t hold numbers only. Memory that
// contains pointers must not be overwritten behind the garbage collector's back.
func numeric(t reflect.Type) bool {
	switch k := t.Kind(); k {
	case reflect.Array:
		return numeric(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if !numeric(t.Field(i).Type) {
				return false
			}
		}
		return true
	default:
		return reflect.Bool <= k && k <= reflect.Complex128
	}
}
