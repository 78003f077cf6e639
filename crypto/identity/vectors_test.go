package identity_test

import (
	"bytes"
	"crypto/ecdh"
	"errors"
	"strings"
	"testing"

	"lewes/crypto/identity"
	"lewes/crypto/internal/vectors"
)

type rows struct {
	Convert []struct {
		Seed     vectors.Hex `json:"ed25519_seed"`
		Public   vectors.Hex `json:"ed25519_public"`
		XPrivate vectors.Hex `json:"x25519_private_clamped"`
		XPublic  vectors.Hex `json:"x25519_public"`
		PeerU    vectors.Hex `json:"peer_u"`
		DH       vectors.Hex `json:"dh"`
	} `json:"convert"`
	Odd []struct {
		What      string      `json:"what"`
		Public    vectors.Hex `json:"ed25519_public"`
		FromBytes string      `json:"from_bytes"`
		ToX25519  *struct {
			Public vectors.Hex `json:"x25519_public"`
			DH     vectors.Hex `json:"dh_with_scalar_4242"`
		} `json:"to_x25519"`
	} `json:"ed25519_odd_points"`
}

// Shows R3.1.
func TestConversionVectors(t *testing.T) {
	vectors.Each(t, "kdf.json", func(t *testing.T, v rows) {
		if len(v.Convert) == 0 {
			t.Fatal("no rows")
		}
		for i, r := range v.Convert {
			key := identity.FromSeed((*[32]byte)(r.Seed))
			public := key.Public()
			if !bytes.Equal(public[:], r.Public) {
				t.Errorf("row %d: public key %x, want %x", i, public, r.Public)
			}
			xprivate, xpublic := key.X25519()
			if !bytes.Equal(xprivate[:], r.XPrivate) {
				t.Errorf("row %d: X25519 private key differs", i)
			}
			if !bytes.Equal(xpublic[:], r.XPublic) {
				t.Errorf("row %d: X25519 public key %x, want %x", i, xpublic, r.XPublic)
			}
			if got, err := public.X25519(); err != nil || got != xpublic {
				t.Errorf("row %d: from the public key %x, %v, want %x", i, got, err, xpublic)
			}
			if got := dh(t, xprivate[:], r.PeerU); !bytes.Equal(got, r.DH) {
				t.Errorf("row %d: DH %x, want %x", i, got, r.DH)
			}
		}
	})
}

// The reference accepts every row that is a point; this package only those that
// are canonical and not of low order.
//
// Shows R3.2.
func TestUnusualPointVectors(t *testing.T) {
	vectors.Each(t, "kdf.json", func(t *testing.T, v rows) {
		if len(v.Odd) == 0 {
			t.Fatal("no rows")
		}
		taken := 0
		for _, r := range v.Odd {
			k := identity.PublicKey(r.Public)
			low := r.ToX25519 != nil && bytes.Equal(r.ToX25519.DH, make([]byte, 32))
			odd := strings.Contains(r.What, "canonical") || strings.Contains(r.What, "all ff") || strings.Contains(r.What, "y = p")
			want := r.FromBytes == "accepted" && !low && !odd

			got, err := k.X25519()
			if want != (err == nil) {
				t.Errorf("%s: error %v, want it taken: %v", r.What, err, want)
				continue
			}
			if err != nil {
				if !errors.Is(err, identity.ErrWeakKey) {
					t.Errorf("%s: %v is not ErrWeakKey", r.What, err)
				}
				if _, err := identity.ParsePublicKey(k.String()); !errors.Is(err, identity.ErrWeakKey) {
					t.Errorf("%s: ParsePublicKey returned %v, want ErrWeakKey", r.What, err)
				}
				continue
			}
			taken++
			if !bytes.Equal(got[:], r.ToX25519.Public) {
				t.Errorf("%s: %x, want %x", r.What, got, r.ToX25519.Public)
			}
			if got := dh(t, bytes.Repeat([]byte{0x42}, 32), got[:]); !bytes.Equal(got, r.ToX25519.DH) {
				t.Errorf("%s: DH %x, want %x", r.What, got, r.ToX25519.DH)
			}
		}
		if taken != 1 { // the base point with a torsion point added: of large order, and canonical
			t.Errorf("%d rows taken, want 1", taken)
		}
	})
}

// For a low-order key, R = [S]B with any S is a signature over any message.
func TestWeakKeyVerifiesNothing(t *testing.T) {
	identityPoint := identity.PublicKey{1}
	sig := make([]byte, 64)
	sig[0] = 1 // R = the neutral point, S = 0
	if identityPoint.Verify([]byte("anything"), sig) {
		t.Error("a signature by the neutral point was accepted")
	}
}

func dh(t *testing.T, private, public []byte) []byte {
	t.Helper()
	p, err := ecdh.X25519().NewPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	q, err := ecdh.X25519().NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	ss, err := p.ECDH(q)
	if err != nil {
		t.Fatal(err)
	}
	return ss
}
