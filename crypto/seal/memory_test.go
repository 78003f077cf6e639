package seal

import (
	"bytes"
	"crypto/cipher"
	"fmt"
	"reflect"
	"runtime"
	"testing"
	"time"
	"unsafe"
)

// The package comment promises 64 bytes.
func TestCompactedKeyIsSmall(t *testing.T) {
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
			t.Errorf("%v: a compacted key is expanded", s)
		}
		if _, err := k.Open(packet); err != nil {
			t.Errorf("%v: after Compact: %v", s, err)
		}
	}
}

// A dropped cipher is overwritten once unreachable. The test holds the AEAD, but
// not the expanded key around it, and reads its memory.
func TestDroppedCipherIsErased(t *testing.T) {
	for _, s := range []Suite{ChaCha20Poly1305, AES256GCM} {
		for name, drop := range map[string]func(*Key){"Compact": (*Key).Compact, "Wipe": (*Key).Wipe} {
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
			for range 1000 { // cleanups run some time after the collection
				runtime.GC()
				if bytes.Equal(memory(aead), make([]byte, len(before))) {
					break
				}
				time.Sleep(time.Millisecond)
			}
			if left := memory(aead); !bytes.Equal(left, make([]byte, len(left))) {
				t.Errorf("%v: the cipher is not erased after %s", s, name)
			}
		}
	}
}

// memory returns a copy of the struct that a points to.
func memory(a cipher.AEAD) []byte {
	v := reflect.ValueOf(a)
	return bytes.Clone(unsafe.Slice((*byte)(v.UnsafePointer()), v.Type().Elem().Size()))
}

func TestWipeOverwritesKey(t *testing.T) {
	k := NewKey(AES256GCM, &[32]byte{1, 31: 2})
	k.Wipe()
	if *k.secret != [KeySize]byte{} {
		t.Errorf("%x is left", *k.secret)
	}
}

// BenchmarkDropKeys makes and drops both keys of 100,000 sessions, with and
// without the cleanup that erases them, and waits for two collections.
func BenchmarkDropKeys(b *testing.B) {
	for _, s := range []Suite{ChaCha20Poly1305, AES256GCM} {
		for _, erased := range []bool{false, true} {
			b.Run(fmt.Sprintf("%v/erased=%v", s, erased), func(b *testing.B) {
				b.ReportAllocs()
				keys := make([]*expanded, 200_000)
				for b.Loop() {
					for i := range keys {
						keys[i] = expand(s, &[KeySize]byte{1})
						if erased {
							keys[i].eraseUnreachable()
						}
					}
					clear(keys)
					runtime.GC()
					runtime.GC()
				}
			})
		}
	}
}
