package wgkey

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"testing"

	"lewes/crypto/identity"
)

func generate(t *testing.T) (gateway *identity.PrivateKey, private, public Key, exporter [32]byte) {
	gateway, err := identity.Generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = rand.Read(private[:]) // never fails
	_, _ = rand.Read(exporter[:])
	return gateway, private, Public(&private), exporter
}

// TestProofShowsOwnership refuses proofs of another key, session or gateway, and of keys for which the
// shared secret is known.
//
// Shows R9.31.
func TestProofShowsOwnership(t *testing.T) {
	gateway, private, public, exporter := generate(t)
	proof, err := Prove(&private, gateway.Public(), &exporter)
	if err != nil || !Verify(gateway, &public, &exporter, proof[:]) {
		t.Fatalf("the owner's proof is refused: %v", err)
	}
	other, _, stranger, session := generate(t)
	long := append(proof[:], 0)
	for name, accepted := range map[string]bool{
		"another's key":   Verify(gateway, &stranger, &exporter, proof[:]),
		"another session": Verify(gateway, &public, &session, proof[:]),
		"another gateway": Verify(other, &public, &exporter, proof[:]),
		"cut":             Verify(gateway, &public, &exporter, proof[:15]),
		"extended":        Verify(gateway, &public, &exporter, long),
		"empty":           Verify(gateway, &public, &exporter, nil),
	} {
		if accepted {
			t.Error("accepted a proof:", name)
		}
	}
	// With a key of low order everybody knows the shared secret.
	for _, low := range []Key{{}, {1}} {
		known, _ := derive(&private, &low, &exporter)
		if Verify(gateway, &low, &exporter, known[:]) {
			t.Errorf("accepted a proof for %x, a point of low order", low)
		}
	}
}

// TestPresharedKey compares with the vector of appendix A of PROTOCOL.md.
//
// Shows R9.6.
func TestPresharedKey(t *testing.T) {
	exporter := unhex(t, "91837ae00e2c0041005d93c5f48e25a777a5dcc3e63e8ef5ae077607cc9d656b")
	client, gateway := Key(bytes.Repeat([]byte{0xcc}, 32)), Key(bytes.Repeat([]byte{0xdd}, 32))
	if got, want := PresharedKey(&exporter, &client, &gateway), unhex(t, "bf59e54d03bbbb983ba2f088ee8176c0c9fee7f2d0e9def3548e0547af74e3b1"); got != want {
		t.Errorf("preshared key %x, want %x", got, want)
	}
}

// TestProofVector compares with the vector of appendix A of PROTOCOL.md.
func TestProofVector(t *testing.T) {
	seed, private := Key(bytes.Repeat([]byte{0x11}, 32)), Key(bytes.Repeat([]byte{0x88}, 32))
	exporter := unhex(t, "91837ae00e2c0041005d93c5f48e25a777a5dcc3e63e8ef5ae077607cc9d656b")
	if got, want := Public(&private), unhex(t, "30d3c865a48fceb3d6118577cf2e5f228d6ff69866264757785b253cb7a4806a"); got != want {
		t.Errorf("public key %x, want %x", got, want)
	}
	proof, err := Prove(&private, identity.FromSeed(&seed).Public(), &exporter)
	if got := hex.EncodeToString(proof[:]); err != nil || got != "f1600ea29a7bc027133aaa98771b26b0" {
		t.Errorf("proof %s, %v", got, err)
	}
}

func unhex(t *testing.T, text string) [32]byte {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != 32 {
		t.Fatalf("%q is not 32 bytes in hex", text)
	}
	return [32]byte(b)
}
