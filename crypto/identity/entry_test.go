package identity_test

import (
	"slices"
	"testing"

	"github.com/zeebo/blake3"

	"lewes/crypto/identity"
)

// The derivation, made anew, and its value for one seed and one entry.
//
// Shows R3.12.
func TestForEntry(t *testing.T) {
	seed, other := [32]byte(slices.Repeat([]byte{1}, 32)), [32]byte(slices.Repeat([]byte{2}, 32))
	key, entry := identity.FromSeed(&seed), identity.FromSeed(&other).Public()
	var want [32]byte
	blake3.DeriveKey("lewes/2 entry identity", append(seed[:], entry[:]...), want[:])
	got := key.ForEntry(entry).Public()
	if got != identity.FromSeed(&want).Public() {
		t.Errorf("derived %s", got)
	}
	if got.String() != "91PNEhiZwQAwGiWEuLKQs2PFLjnYrWKufSoYGKrjKUqN" {
		t.Errorf("derived %s", got)
	}
	if got == key.Public() || got == key.ForEntry(key.Public()).Public() {
		t.Error("two entries see one identity")
	}
}
