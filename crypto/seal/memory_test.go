package seal

import (
	"bytes"
	"crypto/cipher"
	"reflect"
	"runtime"
	"testing"
	"time"
	"unsafe"
)

// The doc comment's promise: 64 bytes and nothing behind them.
func TestKeyAtRestIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(Key{}) + KeySize; size > 64 {
		t.Errorf("a Key and its secret have %d bytes", size)
	}
	for _, s := range []Suite{ChaCha20Poly1305, AES256GCM} {
		k := NewKey(s, &[32]byte{1})
		if k.cipher.Load() != nil {
			t.Errorf("%v: a new key is expanded", s)
		}
		packet := make([]byte, 64)
		k.Seal(packet)
		if k.cipher.Load() == nil {
			t.Errorf("%v: a key in use is not expanded", s)
		}
		k.Compact()
		if k.cipher.Load() != nil {
			t.Errorf("%v: a key at rest is expanded", s)
		}
		if _, err := k.Open(packet); err != nil {
			t.Errorf("%v: after Rest: %v", s, err)
		}
	}
}

// What Rest and Wipe drop is overwritten once nobody uses it. The test keeps a
// hold of the cipher inside and looks at its memory.
func TestDroppedCipherIsErased(t *testing.T) {
	for _, s := range []Suite{ChaCha20Poly1305, AES256GCM} {
		for name, drop := range map[string]func(*Key){"Rest": (*Key).Compact, "Wipe": (*Key).Wipe} {
			k := NewKey(s, &[32]byte{1})
			if !k.Seal(make([]byte, 64)) {
				t.Fatal("not sealed")
			}
			aead := k.cipher.Load().aead
			before := memory(aead)
			if bytes.Equal(before, make([]byte, len(before))) {
				t.Fatalf("%v: zero before %s", s, name)
			}
			if s == ChaCha20Poly1305 && !bytes.Contains(before, append([]byte{1}, make([]byte, 31)...)) {
				t.Fatalf("%v: the key is not in %x", s, before)
			}
			drop(k)
			deadline := time.Now().Add(10 * time.Second)
			for {
				if left := memory(aead); bytes.Equal(left, make([]byte, len(left))) {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%v: the cipher is not erased after %s", s, name)
				}
				runtime.GC()
				time.Sleep(time.Millisecond)
			}
		}
	}
}

// memory returns a copy of the struct that a points to.
func memory(a cipher.AEAD) []byte {
	v := reflect.ValueOf(a)
	return bytes.Clone(unsafe.Slice((*byte)(v.UnsafePointer()), v.Type().Elem().Size()))
}

func TestWipeOverwritesTheKey(t *testing.T) {
	k := NewKey(AES256GCM, &[32]byte{1, 31: 2})
	k.Wipe()
	if *k.secret != [KeySize]byte{} {
		t.Errorf("%x is left", *k.secret)
	}
}
