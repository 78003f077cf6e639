package identity_test

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"filippo.io/edwards25519"
	"pgregory.net/rapid"

	"lewes/crypto/identity"
)

func seeds() *rapid.Generator[[32]byte] {
	return rapid.Custom(func(t *rapid.T) [32]byte {
		return [32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "seed"))
	})
}

func TestSignAndVerify(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := seeds().Draw(t, "seed")
		msg := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "msg")
		key := identity.FromSeed(&seed)
		sig := key.Sign(msg)
		if !key.Public().Verify(msg, sig) {
			t.Fatal("own signature rejected")
		}
		bit := rapid.IntRange(0, 64*8-1).Draw(t, "bit")
		sig[bit/8] ^= 1 << (bit % 8)
		if key.Public().Verify(msg, sig) {
			t.Fatalf("signature with bit %d flipped taken", bit)
		}
		sig[bit/8] ^= 1 << (bit % 8)
		if key.Public().Verify(append(msg, 0), sig) {
			t.Fatal("signature over another message taken")
		}
		for _, cut := range [][]byte{nil, sig[:63], append(sig, 0)} {
			if key.Public().Verify(msg, cut) {
				t.Fatalf("signature of %d bytes taken", len(cut))
			}
		}
	})
}

// A key is usable if and only if it decodes, encodes to itself, and is not zero
// times the cofactor.
//
// Shows R3.2.
func TestUsableKeys(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := identity.PublicKey(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key"))
		if rapid.Bool().Draw(t, "near p") { // where spellings stop being canonical
			for i := 1; i < 31; i++ {
				k[i] = 0xff
			}
			k[0] |= 0xe0
			k[31] |= 0x7f
		}
		p, err := new(edwards25519.Point).SetBytes(k[:])
		want := err == nil && bytes.Equal(p.Bytes(), k[:]) &&
			new(edwards25519.Point).MultByCofactor(p).Equal(edwards25519.NewIdentityPoint()) == 0
		_, err = k.X25519()
		if want != (err == nil) {
			t.Fatalf("%x: error %v, want it usable: %v", k, err, want)
		}
	})
}

func TestPublicKeyText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := seeds().Draw(t, "seed")
		k := identity.FromSeed(&seed).Public()
		got, err := identity.ParsePublicKey(k.String())
		if err != nil || got != k {
			t.Fatalf("ParsePublicKey(%q) = %v, %v", k, got, err)
		}
		var in struct {
			Keys map[identity.PublicKey]identity.PublicKey
		}
		text, err := json.Marshal(map[string]any{"Keys": map[identity.PublicKey]identity.PublicKey{k: k}})
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &in); err != nil || in.Keys[k] != k {
			t.Fatalf("through JSON: %v, %v", in, err)
		}
	})
}

func TestInvalidPublicKeyTextIsRejected(t *testing.T) {
	good := identity.FromSeed(&[32]byte{1}).Public().String()
	for _, c := range []struct {
		name, text string
		want       error
	}{
		{"empty", "", identity.ErrKeyText},
		{"a character that base58 lacks", "0" + good[1:], identity.ErrKeyText},
		{"cut", good[:len(good)-2], identity.ErrKeyText},
		{"too long by a zero byte", "1" + good, identity.ErrKeyText},
		{"a space behind", good + " ", identity.ErrKeyText},
		{"far too long", strings.Repeat("z", 1<<20), identity.ErrKeyText},
		{"not ASCII", "ключ", identity.ErrKeyText},
		{"all zero", strings.Repeat("1", 32), identity.ErrWeakKey},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := identity.PublicKey{9}
			err := k.UnmarshalText([]byte(c.text))
			if !errors.Is(err, c.want) {
				t.Fatalf("error %v, want %v", err, c.want)
			}
			if len(err.Error()) > 400 {
				t.Errorf("the message has %d bytes", len(err.Error()))
			}
			if k != (identity.PublicKey{9}) {
				t.Error("the key changed with an invalid text")
			}
		})
	}
}

// No verb, wrapper or encoder shows part of the key.
func TestPrivateKeyIsNeverPrinted(t *testing.T) {
	seed := [32]byte([]byte("0123456789abcdefghijklmnopqrstuv"))
	key := identity.FromSeed(&seed)
	xprivate, _ := key.X25519()
	wrapped := struct {
		Exported   identity.PrivateKey
		unexported identity.PrivateKey
		pointer    *identity.PrivateKey
	}{*key, *key, key}

	var shown []string
	for _, v := range []any{key, *key, wrapped, &wrapped, []any{key}, map[string]any{"k": *key}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%b", "%o", "% x", "%c", "%U", "%t", "%T"} {
			shown = append(shown, fmt.Sprintf(verb, v))
		}
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		shown = append(shown, string(text), fmt.Sprint(v))
	}
	shown = append(shown, key.String())
	for _, s := range shown {
		for _, part := range [][]byte{seed[:8], seed[24:], xprivate[:8], xprivate[24:]} {
			numbers := strings.Trim(fmt.Sprint(part[:4]), "[]")
			if strings.Contains(s, string(part)) || strings.Contains(strings.ToLower(s), hex.EncodeToString(part)) || strings.Contains(s, numbers) {
				t.Fatalf("%q shows the key", s)
			}
		}
	}
	if got := fmt.Sprintf("%x", key); got != "identity.PrivateKey(redacted)" {
		t.Errorf("%%x prints %q", got)
	}
}

func TestGenerate(t *testing.T) {
	a, err := identity.Generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b, err := identity.Generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if a.Public() == b.Public() {
		t.Error("two keys are equal")
	}
	seed := bytes.Repeat([]byte{7}, 32)
	c, err := identity.Generate(bytes.NewReader(seed))
	if err != nil || c.Public() != identity.FromSeed((*[32]byte)(seed)).Public() {
		t.Errorf("the key is not that of the reader's bytes: %v", err)
	}
	if _, err := identity.Generate(bytes.NewReader(seed[:31])); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("with 31 bytes of randomness: error %v", err)
	}
}

func TestWipedKeyPanics(t *testing.T) {
	key := identity.FromSeed(&[32]byte{1})
	public := key.Public()
	key.Wipe()
	if key.Public() != public {
		t.Error("the public key is gone")
	}
	for name, use := range map[string]func(){
		"Sign":   func() { key.Sign(nil) },
		"X25519": func() { key.X25519() },
		"Save":   func() { _ = key.Save(t.TempDir() + "/key") },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s works with a wiped key", name)
				}
			}()
			use()
		}()
	}
}

func BenchmarkSign(b *testing.B) {
	key := identity.FromSeed(&[32]byte{1})
	msg := make([]byte, 1207)
	b.ReportAllocs()
	for b.Loop() {
		key.Sign(msg)
	}
}

func BenchmarkVerify(b *testing.B) {
	key := identity.FromSeed(&[32]byte{1})
	msg := make([]byte, 1123)
	sig := key.Sign(msg)
	b.ReportAllocs()
	for b.Loop() {
		if !key.Public().Verify(msg, sig) {
			b.Fatal("rejected")
		}
	}
}

func BenchmarkPublicX25519(b *testing.B) {
	k := identity.FromSeed(&[32]byte{1}).Public()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.X25519(); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzParsePublicKey(f *testing.F) {
	f.Add(identity.FromSeed(&[32]byte{1}).Public().String())
	f.Add(strings.Repeat("1", 32))
	f.Add("")
	f.Add("0OIl")
	f.Fuzz(func(t *testing.T, s string) {
		k, err := identity.ParsePublicKey(s)
		if err != nil {
			return
		}
		if k.String() != s {
			t.Fatalf("%q and %q are one key", s, k)
		}
		if _, err := k.X25519(); err != nil {
			t.Fatalf("%q parses and is not usable: %v", s, err)
		}
	})
}
