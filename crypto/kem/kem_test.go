package kem_test

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/zeebo/blake3"
	"pgregory.net/rapid"

	"lewes/crypto/kem"
)

var all = []kem.ID{kem.MLKEM768, kem.XWing, kem.X25519}

func generate(t testing.TB, id kem.ID) *kem.KeyPair {
	t.Helper()
	pair, err := kem.Generate(id, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func encapsulate(t testing.TB, pair *kem.KeyPair) (ct []byte, ss [32]byte) {
	t.Helper()
	ct, ss, err := kem.Encapsulate(pair.ID(), pair.Public(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return ct, ss
}

// Shows R3.6.
func TestRoundTrip(t *testing.T) {
	for _, id := range all {
		t.Run(id.String(), func(t *testing.T) {
			pair := generate(t, id)
			seen := map[[32]byte]bool{}
			for range 20 {
				ct, ss := encapsulate(t, pair)
				got, err := pair.Decapsulate(ct)
				if err != nil || got != ss {
					t.Fatalf("decapsulation: %v", err)
				}
				if ss == [32]byte{} || seen[ss] {
					t.Fatal("a secret is zero or repeated")
				}
				seen[ss] = true
			}
			hash := blake3.Sum256(pair.Public())
			if want := binary.LittleEndian.Uint32(hash[:4]); pair.KeyID() != want || kem.KeyID(pair.Public()) != want {
				t.Errorf("key id %08x, want %08x", pair.KeyID(), want)
			}
			if pair.ID() != id {
				t.Errorf("id %v", pair.ID())
			}
		})
	}
}

// A changed ciphertext never gives the original secret, and never panics.
func TestDamagedCiphertextGivesOtherSecret(t *testing.T) {
	for _, id := range all {
		t.Run(id.String(), func(t *testing.T) {
			pair := generate(t, id)
			ct, ss := encapsulate(t, pair)
			rapid.Check(t, func(t *rapid.T) {
				bad := bytes.Clone(ct)
				bit := rapid.IntRange(0, len(bad)*8-1).Draw(t, "bit")
				bad[bit/8] ^= 1 << (bit % 8)
				got, err := pair.Decapsulate(bad)
				if got == ss {
					t.Fatalf("the same secret with bit %d flipped", bit)
				}
				if err != nil && (!errors.Is(err, kem.ErrCiphertext) || got != [32]byte{}) {
					t.Fatalf("error %v", err)
				}
			})
			for _, n := range []int{0, 1, len(ct) - 1, len(ct) + 1} {
				if _, err := pair.Decapsulate(make([]byte, n)); !errors.Is(err, kem.ErrCiphertext) {
					t.Errorf("ciphertext of %d bytes: error %v", n, err)
				}
			}
		})
	}
}

func TestInvalidPublicKeyIsRejected(t *testing.T) {
	for _, id := range all {
		for _, n := range []int{0, 1, id.PublicKeySize() - 1, id.PublicKeySize() + 1} {
			if _, _, err := kem.Encapsulate(id, make([]byte, n), rand.Reader); !errors.Is(err, kem.ErrPublicKey) {
				t.Errorf("%v key of %d bytes: error %v", id, n, err)
			}
		}
	}
	// FIPS 203, section 7.2: a coefficient of q or more is invalid.
	for _, id := range []kem.ID{kem.MLKEM768, kem.XWing} {
		pair := generate(t, id)
		pk := bytes.Clone(pair.Public())
		pk[0], pk[1] = 0xff, pk[1]|0x0f // first coefficient 4095
		if _, _, err := kem.Encapsulate(id, pk, rand.Reader); !errors.Is(err, kem.ErrPublicKey) {
			t.Errorf("%v key that is not reduced: error %v", id, err)
		}
	}
}

func TestUnsupportedMechanism(t *testing.T) {
	for _, id := range []kem.ID{kem.McEliece, 3, 254} {
		if id.Supported() || id.PublicKeySize() != 0 || id.CiphertextSize() != 0 {
			t.Errorf("%v has a size", id)
		}
		if _, err := kem.Generate(id, rand.Reader); !errors.Is(err, kem.ErrUnsupported) {
			t.Errorf("Generate(%v): error %v", id, err)
		}
		if _, err := kem.FromSeed(id, make([]byte, 32)); !errors.Is(err, kem.ErrUnsupported) {
			t.Errorf("FromSeed(%v): error %v", id, err)
		}
		if _, _, err := kem.Encapsulate(id, nil, rand.Reader); !errors.Is(err, kem.ErrUnsupported) {
			t.Errorf("Encapsulate(%v): error %v", id, err)
		}
	}
}

func TestSeedOfWrongSize(t *testing.T) {
	for id, want := range seedSize {
		for n := range 130 {
			_, err := kem.FromSeed(id, make([]byte, n))
			if (n == want) != (err == nil) || (err != nil && !errors.Is(err, kem.ErrSeed)) {
				t.Errorf("%v: seed of %d bytes: error %v", id, n, err)
			}
		}
	}
}

// A failing random source gives an error, never a weaker key or secret.
func TestRandomSourceFails(t *testing.T) {
	for _, id := range all {
		if _, err := kem.Generate(id, bytes.NewReader(make([]byte, seedSize[id]-1))); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("Generate(%v): error %v", id, err)
		}
		pair := generate(t, id)
		if ct, ss, err := kem.Encapsulate(id, pair.Public(), bytes.NewReader(make([]byte, 31))); !errors.Is(err, io.ErrUnexpectedEOF) || ct != nil || ss != [32]byte{} {
			t.Errorf("Encapsulate(%v): error %v", id, err)
		}
	}
}

func TestParseID(t *testing.T) {
	for _, c := range []struct {
		text string
		id   kem.ID
	}{
		{"X-Wing", kem.XWing}, {"xwing", kem.XWing}, {"ML-KEM-768", kem.MLKEM768},
		{"mlkem768", kem.MLKEM768}, {"ml-kem-768", kem.MLKEM768}, {"x25519", kem.X25519},
	} {
		if got, err := kem.ParseID(c.text); err != nil || got != c.id {
			t.Errorf("ParseID(%q) = %v, %v", c.text, got, err)
		}
	}
	for n := range 256 {
		id := kem.ID(n)
		got, err := kem.ParseID(id.String())
		if id.Supported() != (err == nil && got == id) {
			t.Errorf("%v is read as %v, %v", id, got, err)
		}
	}
	if _, err := kem.ParseID("classic mceliece"); !errors.Is(err, kem.ErrUnsupported) {
		t.Errorf("McEliece: error %v", err)
	}
	_, err := kem.ParseID("kyber")
	if !errors.Is(err, kem.ErrUnknownName) || !strings.Contains(err.Error(), `"kyber"`) || !strings.Contains(err.Error(), "ML-KEM-768, X-Wing, X25519") {
		t.Errorf("unknown name: %v", err)
	}
	if got := kem.ID(7).String(); got != "KEM 7" {
		t.Errorf("ID 7 is %q", got)
	}
}

func TestWipedKeyPairDecapsulatesNothing(t *testing.T) {
	for _, id := range all {
		pair := generate(t, id)
		ct, ss := encapsulate(t, pair)
		// Renewal wipes a key while other shards may be decapsulating with it:
		// each call gives the right secret or ErrWiped, never a wrong secret.
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				for {
					got, err := pair.Decapsulate(ct)
					if errors.Is(err, kem.ErrWiped) {
						return
					}
					if err != nil || got != ss {
						t.Errorf("%v: a wrong secret, error %v", id, err)
						return
					}
				}
			})
		}
		public, keyID := bytes.Clone(pair.Public()), pair.KeyID()
		pair.Wipe()
		pair.Wipe()
		group.Wait()
		if _, err := pair.Decapsulate(ct); !errors.Is(err, kem.ErrWiped) {
			t.Errorf("%v: error %v after Wipe", id, err)
		}
		if !bytes.Equal(pair.Public(), public) || pair.KeyID() != keyID {
			t.Errorf("%v: the public part changed", id)
		}
	}
}

func BenchmarkDecapsulate(b *testing.B) {
	for _, id := range all {
		b.Run(id.String(), func(b *testing.B) {
			pair := generate(b, id)
			ct, _ := encapsulate(b, pair)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := pair.Decapsulate(ct); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkEncapsulate(b *testing.B) {
	for _, id := range all {
		b.Run(id.String(), func(b *testing.B) {
			pair := generate(b, id)
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := kem.Encapsulate(id, pair.Public(), rand.Reader); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkGenerate(b *testing.B) {
	for _, id := range all {
		b.Run(id.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := kem.Generate(id, rand.Reader); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestFromSeedRestoresKeyPair(t *testing.T) {
	for _, id := range []kem.ID{kem.MLKEM768, kem.XWing, kem.X25519} {
		pair := generate(t, id)
		seed, err := pair.AppendSeed(nil)
		if err != nil {
			t.Fatal(err)
		}
		again, err := kem.FromSeed(id, seed)
		if err != nil {
			t.Fatal(err)
		}
		ct, ss := encapsulate(t, pair)
		if got, err := again.Decapsulate(ct); err != nil || got != ss || again.KeyID() != pair.KeyID() {
			t.Errorf("%v: the restored pair differs: %v", id, err)
		}
		pair.Wipe()
		if _, err := pair.AppendSeed(nil); !errors.Is(err, kem.ErrWiped) {
			t.Errorf("%v: the seed of a wiped pair: %v", id, err)
		}
	}
}
