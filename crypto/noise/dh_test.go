package noise

import (
	"bytes"
	"crypto/ecdh"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"testing"

	"pgregory.net/rapid"
)

// keys draws 32 bytes, sometimes at the boundaries of the field.
func keys() *rapid.Generator[[32]byte] {
	random := rapid.Map(rapid.SliceOfN(rapid.Byte(), 32, 32), func(b []byte) [32]byte { return [32]byte(b) })
	edges := rapid.SampledFrom(lowOrder())
	return rapid.OneOf(random, random, edges)
}

// lowOrder lists all encodings of points of low order, on the curve and on its
// twist: canonical, not reduced, and with the top bit set, which X25519 ignores.
func lowOrder() [][32]byte {
	var points [][32]byte
	for _, s := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
		"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	} {
		b, err := hex.DecodeString(s)
		if err != nil {
			panic(err)
		}
		p := [32]byte(b)
		points = append(points, p)
		p[31] |= 0x80
		points = append(points, p)
	}
	return points
}

// standardDH returns the result of crypto/ecdh, nil for zeros.
func standardDH(t fataler, private, public [32]byte) []byte {
	priv, err := ecdh.X25519().NewPrivateKey(private[:])
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ecdh.X25519().NewPublicKey(public[:])
	if err != nil {
		t.Fatal(err)
	}
	secret, err := priv.ECDH(pub)
	if err != nil {
		return nil
	}
	return secret
}

func TestDHAgreesWithStandardLibrary(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		private, public := keys().Draw(t, "private"), keys().Draw(t, "public")
		got, err := DH(&private, &public)
		want := standardDH(t, private, public)
		switch {
		case want == nil && !errors.Is(err, ErrLowOrder):
			t.Fatalf("got %x, %v; the standard library rejects", got, err)
		case want == nil && got != [32]byte{}:
			t.Fatalf("rejected, but returned %x", got)
		case want != nil && err != nil:
			t.Fatalf("got %v, the standard library %x", err, want)
		case want != nil && !bytes.Equal(got[:], want):
			t.Fatalf("got %x, the standard library %x", got, want)
		}
	})
}

func TestKeyPairFromAgreesWithStandardLibrary(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		private := keys().Draw(t, "private")
		k, err := ecdh.X25519().NewPrivateKey(private[:])
		if err != nil {
			t.Fatal(err)
		}
		if got := KeyPairFrom(private); got.Private != private || !bytes.Equal(got.Public[:], k.PublicKey().Bytes()) {
			t.Fatalf("public key %x, the standard library %x", got.Public, k.PublicKey().Bytes())
		}
	})
}

// Shows R3.3.
func TestDHRejectsLowOrder(t *testing.T) {
	private := KeyPairFrom([32]byte{1, 2, 3}).Private
	for _, p := range lowOrder() {
		if got, err := DH(&private, &p); !errors.Is(err, ErrLowOrder) || got != [32]byte{} {
			t.Errorf("%x: got %x, %v; want ErrLowOrder", p, got, err)
		}
	}
}

func TestGenerateKeyPair(t *testing.T) {
	private := bytes.Repeat([]byte{7}, 32)
	k, err := GenerateKeyPair(bytes.NewReader(private))
	if err != nil {
		t.Fatal(err)
	}
	if want := KeyPairFrom([32]byte(private)); k != want {
		t.Error("not the pair of the random bytes")
	}
	if _, err := GenerateKeyPair(bytes.NewReader(private[:31])); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short of randomness: got %v", err)
	}
}

func TestKeysAreNeverPrinted(t *testing.T) {
	k := KeyPairFrom([32]byte(bytes.Repeat([]byte{0xab}, 32)))
	s := Split{InitiatorToResponder: k.Private, ResponderToInitiator: k.Private, Hash: k.Private}
	for _, v := range []any{k, &k, s, &s, struct{ K KeyPair }{k}, []Split{s}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%d", "%q"} {
			out := fmt.Sprintf(verb, v)
			for _, leak := range []string{"abab", "ABAB", "171 171", "0xab, 0xab"} {
				if bytes.Contains([]byte(out), []byte(leak)) {
					t.Errorf("%s of %T prints the key: %s", verb, v, out)
				}
			}
		}
	}
}
