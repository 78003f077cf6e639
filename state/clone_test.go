package state

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"lewes/crypto/kem"
	"lewes/crypto/noise"
	"lewes/crypto/seal"
	"lewes/state/wire"
)

// cloned returns a copy of v and of everything that it points to, so that
// whatever is done to the one, wiping included, leaves the other alone. What is
// reached by several ways is copied once. Interfaces and functions are shared,
// and so are the types in cloneShared.
//
// Copying what is there, field by field, whatever the fields are, is exact where
// a copy built by constructors is only as good as its author's memory: a new
// field is copied too.
func cloned[T any](v *T) *T {
	c := cloner{}
	return (*T)(c.pointee(unsafe.Pointer(v), reflect.TypeFor[T]()))
}

// cloneShared are types that are not copied. Expanded ciphers never change and
// are erased when unreferenced. Configurations are not changed by a session.
// A Noise state points into itself and cannot be copied from outside, nor has it
// a meaning without its KEM key: whoever is about to use or wipe these two on a
// copy has to make them anew first (see exploreRun.renewOffer).
func cloneShared(t reflect.Type) bool {
	switch t {
	case reflect.TypeFor[SessionConfig](), reflect.TypeFor[noise.KKInitiator](), reflect.TypeFor[kem.KeyPair]():
		return true
	}
	return t.String() == "seal.expanded"
}

// cloner maps copied values to their copies.
type cloner map[unsafe.Pointer]unsafe.Pointer

func (c cloner) pointee(p unsafe.Pointer, t reflect.Type) unsafe.Pointer {
	if to := c[p]; to != nil {
		return to
	}
	v := reflect.New(t)
	v.Elem().Set(reflect.NewAt(t, p).Elem())
	to := v.UnsafePointer()
	c[p] = to
	if mend := clonePlan(t); mend != nil {
		mend(c, to)
	}
	return to
}

// mending replaces the pointers in a bitwise copy by pointers to copies.
type mending func(c cloner, at unsafe.Pointer)

var clonePlans sync.Map // of mending by reflect.Type

// clonePlan returns how values of a type are mended, nil for those that hold no
// pointer to follow.
func clonePlan(t reflect.Type) mending {
	if plan, ok := clonePlans.Load(t); ok {
		return plan.(mending)
	}
	plan := newClonePlan(t)
	clonePlans.Store(t, plan)
	return plan
}

func newClonePlan(t reflect.Type) mending {
	switch t.Kind() {
	case reflect.Pointer:
		return clonePointer(t.Elem())
	case reflect.Slice:
		return cloneSlice(t)
	case reflect.Array:
		return cloneArray(t)
	case reflect.Struct:
		return cloneStruct(t)
	case reflect.Map, reflect.Chan, reflect.UnsafePointer:
		panic(fmt.Sprintf("state: no way to copy a %v", t))
	}
	return nil
}

func clonePointer(elem reflect.Type) mending {
	if cloneShared(elem) {
		return nil
	}
	return func(c cloner, at unsafe.Pointer) {
		if p := (*unsafe.Pointer)(at); *p != nil {
			*p = c.pointee(*p, elem)
		}
	}
}

// cloneSlice cuts the copy's capacity, so that nothing is appended to the
// original's memory.
func cloneSlice(t reflect.Type) mending {
	return func(c cloner, at unsafe.Pointer) {
		s := reflect.NewAt(t, at).Elem()
		if s.IsNil() {
			return
		}
		n := reflect.MakeSlice(t, s.Len(), s.Len())
		reflect.Copy(n, s)
		s.Set(n)
		if mend := clonePlan(t.Elem()); mend != nil {
			for i := range n.Len() {
				mend(c, unsafe.Add(n.UnsafePointer(), uintptr(i)*t.Elem().Size()))
			}
		}
	}
}

func cloneArray(t reflect.Type) mending {
	mend := clonePlan(t.Elem())
	if mend == nil {
		return nil
	}
	return func(c cloner, at unsafe.Pointer) {
		for i := range t.Len() {
			mend(c, unsafe.Add(at, uintptr(i)*t.Elem().Size()))
		}
	}
}

func cloneStruct(t reflect.Type) mending {
	switch {
	case t == reflect.TypeFor[time.Time](), t == reflect.TypeFor[netip.Addr]():
		return nil // their targets never change
	case t.PkgPath() == "sync/atomic" && strings.HasPrefix(t.Name(), "Pointer["):
		return clonePointer(t.Field(0).Type.Elem().Elem()) // one pointer; field 0 is [0]*T
	}
	type field struct {
		offset uintptr
		mend   mending
	}
	var fields []field
	for i := range t.NumField() {
		f := t.Field(i)
		if mend := clonePlan(f.Type); mend != nil {
			fields = append(fields, field{f.Offset, mend})
		}
	}
	if fields == nil {
		return nil
	}
	return func(c cloner, at unsafe.Pointer) {
		for _, f := range fields {
			f.mend(c, unsafe.Add(at, f.offset))
		}
	}
}

// TestCloneIsIndependent changes and wipes a copy of a session in the middle of a
// subsession, at both ends, and finds the original as it was.
func TestCloneIsIndependent(t *testing.T) {
	c, g := established(t)
	c.session.Rekey(epoch, &c.out)
	request := c.take()
	g.handle(epoch, request[0].Data, clientAt) // one part of two waits

	client, gateway := cloned(c.session), cloned(g.only())
	var out Output
	client.end(ErrClosed, &out)
	gateway.end(ErrClosed, &out)
	if seals(client.keys.current) || seals(gateway.keys.current) || client.rekey.seed != [32]byte{} {
		t.Fatal("the copies do not wipe their keys")
	}
	gateway.rekey.responder = nil

	if !seals(c.session.keys.current) || !seals(g.only().keys.current) {
		t.Error("wiping a copy has wiped the original's keys")
	}
	if c.session.rekey.seed == [32]byte{} || c.session.rekey.seed != g.only().rekey.seed {
		t.Error("wiping a copy has wiped the original's seed")
	}
	if g.only().rekey.responder.kk1Parts.Kept() != 1 {
		t.Error("the original has lost its part")
	}
	if client.keys.current.session != client || client.keys.sender.Load() != client.keys.current.sender || client.keys.current.sender == c.session.keys.current.sender {
		t.Error("the copy points to its original")
	}
}

// TestCloneContinues carries a session on by its copies, of which the originals
// learn nothing.
func TestCloneContinues(t *testing.T) {
	c, g := established(t)
	sealed, newest := c.session.keys.current.sender.Sealed(), g.only().lastOpened
	client, gateway := cloned(c.session), cloned(g.only())
	var out Output
	sendData(t, client, &out, "on")
	again := append([]byte(nil), out.Packets[0].Data...)
	later := epoch.Add(time.Second)
	kind, content, err := gateway.keys.current.Open(later, out.Packets[0].Data, clientAt, &out)
	if err != nil || kind != wire.TypeEncryptedData || payloads([]string{string(content)})[0] != "on" {
		t.Fatalf("%v %q %v", kind, content, err)
	}
	if c.session.keys.current.sender.Sealed() != sealed || g.only().lastOpened != newest {
		t.Error("the originals have gone on with their copies")
	}
	if _, _, err := g.only().keys.current.Open(later, again, clientAt, &out); err != nil {
		t.Errorf("the original's window is its copy's: %v", err)
	}
}

// seals reports whether a generation's sending key is still there.
func seals(g *KeySet) bool { return g.sender.key.Seal(make([]byte, seal.Overhead)) }
