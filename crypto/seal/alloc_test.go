//go:build !purego

package seal

import (
	"bytes"
	"testing"

	"golang.org/x/sys/cpu"
)

// Seal and Open allocate no more than the library's cipher, which allocates
// nothing where it has assembly: always for AES-256-GCM, on amd64 with AVX2 for
// ChaCha20-Poly1305.
func TestSealAndOpenDoNotAllocate(t *testing.T) {
	for _, s := range []Suite{ChaCha20Poly1305, AES256GCM} {
		for _, size := range []int{34, 1200, 8192} {
			k := NewKey(s, &[32]byte{1})
			good, work := make([]byte, size), make([]byte, size)
			if !k.Seal(good) {
				t.Fatal("not sealed")
			}
			damaged := bytes.Clone(good)
			damaged[size-1] ^= 1

			aead, n := k.cipher.Load().aead, new(nonce)
			header, body := work[:HeaderSize], work[HeaderSize:size-TagSize]
			library := testing.AllocsPerRun(200, func() { aead.Seal(body[:0], n[:], body, header) })
			if library != 0 && (s == AES256GCM && Offer()&AES256GCM != 0 || cpu.X86.HasAVX2 && cpu.X86.HasBMI2) {
				t.Errorf("%v, %d bytes: the cipher allocates %v times", s, size, library)
			}

			for name, use := range map[string]func(){
				"Seal": func() {
					if !k.Seal(work) {
						t.Fatal("not sealed")
					}
				},
				"Open": func() {
					copy(work, good)
					if _, err := k.Open(work); err != nil {
						t.Fatal(err)
					}
				},
				"Open, damaged": func() {
					copy(work, damaged)
					if _, err := k.Open(work); err == nil {
						t.Fatal("opened")
					}
				},
			} {
				if got := testing.AllocsPerRun(200, use); got > library {
					t.Errorf("%v, %d bytes: %s allocates %v times, the cipher %v", s, size, name, got, library)
				}
			}
		}
	}
}
