package kem

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/cloudflare/circl/dh/x25519"
	"github.com/cloudflare/circl/kem/mlkem/mlkem768"
	"pgregory.net/rapid"
)

// After Wipe the encoding of the library's private key is zero.
func TestWipeErasesLibraryKey(t *testing.T) {
	packed := func(p decapsulator) []byte {
		switch k := p.(type) {
		case *mlkem768Key:
			b := make([]byte, mlkem768.PrivateKeySize)
			k.private.Pack(b)
			return b
		case *xwingKey:
			b := make([]byte, 32)
			k.private.Pack(b)
			return b
		case *x25519Key:
			return bytes.Clone(k.private[:])
		}
		t.Fatalf("unknown key %T", p)
		return nil
	}
	for _, id := range []ID{MLKEM768, XWing, X25519} {
		pair, err := FromSeed(id, bytes.Repeat([]byte{0x5a}, schemeOf(id).seedSize))
		if err != nil {
			t.Fatal(err)
		}
		ct, ss, err := Encapsulate(id, pair.public, bytes.NewReader(bytes.Repeat([]byte{3}, 64)))
		if err != nil {
			t.Fatal(err)
		}
		private := pair.private
		if before := packed(private); bytes.Equal(before, make([]byte, len(before))) {
			t.Fatalf("%v: the key is zero before Wipe", id)
		}
		pair.Wipe()
		if after := packed(private); !bytes.Equal(after, make([]byte, len(after))) {
			t.Errorf("%v: part of the key is left", id)
		}
		if got, err := private.decapsulate(ct); err == nil && got == ss {
			t.Errorf("%v: the wiped key still decapsulates", id)
		}
	}
}

func TestKeyPairIsNeverPrinted(t *testing.T) {
	for _, id := range []ID{MLKEM768, XWing, X25519} {
		seed := []byte("0123456789abcdefghijklmnopqrstuv0123456789abcdefghijklmnopqrstuv")[:schemeOf(id).seedSize]
		pair, err := FromSeed(id, seed)
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("kem.KeyPair(%v %08x, redacted)", id, pair.KeyID())
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
			if got := fmt.Sprintf(verb, pair); got != want {
				t.Errorf("%s prints %q", verb, got)
			}
			got := fmt.Sprintf(verb, struct{ pair *KeyPair }{pair})
			if strings.Contains(got, "23456789") || strings.Contains(got, "52 53 54 55") || strings.Contains(got, "34353637") {
				t.Errorf("%s of a struct around it prints %q", verb, got)
			}
		}
	}
}

// A key with id 0 cannot be found by trial, so the test chooses the ids.
//
// Shows R3.6.
func TestKeyIDIsNeverZero(t *testing.T) {
	seeds := bytes.NewReader([]byte{95: 1, 32: 2})
	asked := 0
	pair, err := generate(X25519, seeds, func(pk []byte) uint32 {
		asked++
		if asked < 3 {
			return 0
		}
		return KeyID(pk)
	})
	if err != nil {
		t.Fatal(err)
	}
	want, err := FromSeed(X25519, []byte{31: 1})
	if err != nil {
		t.Fatal(err)
	}
	if asked != 3 || !bytes.Equal(pair.Public(), want.Public()) {
		t.Errorf("%d keys made, want the third seed's key", asked)
	}
}

// usablePoint agrees with circl on low order and with the definition on
// canonical encoding.
func TestUsablePoint(t *testing.T) {
	scalar := x25519.Key{0: 8, 31: 64}
	rapid.Check(t, func(t *rapid.T) {
		u := x25519.Key(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "u"))
		switch rapid.IntRange(0, 2).Draw(t, "kind") {
		case 1: // near p and 2^255
			for i := 1; i < 31; i++ {
				u[i] = 0xff
			}
			u[0] |= 0xe0
			u[31] |= 0x7f
		case 2: // a small order, perhaps with the top bit
			u = x25519.Key(lowOrderU[rapid.IntRange(0, len(lowOrderU)-1).Draw(t, "low")])
			u[31] |= byte(rapid.IntRange(0, 1).Draw(t, "top")) << 7
		}
		var ss x25519.Key
		contributory := x25519.Shared(&ss, &scalar, &u)
		canonical := u[31]&0x80 == 0 && !(u[31] == 0x7f && u[0] >= 0xed && bytes.Count(u[1:31], []byte{0xff}) == 30)
		if got := usablePoint(u[:]); got != (contributory && canonical) {
			t.Fatalf("%x: usable %v, contributory %v, canonical %v", u, got, contributory, canonical)
		}
		if contributory == (ss == x25519.Key{}) {
			t.Fatalf("%x: secret %x, contributory %v", u, ss, contributory)
		}
	})
}
