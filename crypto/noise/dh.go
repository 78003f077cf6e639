package noise

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"io"

	"github.com/cloudflare/circl/dh/x25519"
)

// KeySize is the length in bytes of an X25519 key, private or public, and of a shared secret.
const KeySize = x25519.Size

// ErrLowOrder means that a peer's public key is a point of low order, for which
// X25519 returns zeros with every private key.
var ErrLowOrder = errors.New("X25519 public key is of low order, the shared secret would be all zero")

// KeyPair is an X25519 key pair. Public must belong to Private; KeyPairFrom computes it.
type KeyPair struct {
	Private, Public [KeySize]byte
}

// GenerateKeyPair makes a key pair from the next 32 bytes of rand.
func GenerateKeyPair(rand io.Reader) (KeyPair, error) {
	var private [KeySize]byte
	if _, err := io.ReadFull(rand, private[:]); err != nil {
		return KeyPair{}, fmt.Errorf("noise: drawing an X25519 private key: %w", err)
	}
	pair := KeyPairFrom(private)
	clear(private[:])
	return pair, nil
}

// KeyPairFrom returns the key pair of a private key, which need not be clamped.
func KeyPairFrom(private [KeySize]byte) KeyPair {
	pair := KeyPair{Private: private}
	x25519.KeyGen((*x25519.Key)(&pair.Public), (*x25519.Key)(&pair.Private))
	return pair
}

// Wipe overwrites both keys.
func (k *KeyPair) Wipe() { *k = KeyPair{} }

// Format writes a fixed text for every verb, so that the key is never printed.
func (KeyPair) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "noise.KeyPair(redacted)") }

// DH returns the X25519 shared secret, or ErrLowOrder if it would be zero.
func DH(private, public *[KeySize]byte) ([KeySize]byte, error) {
	var shared [KeySize]byte
	if err := dh(&shared, private, public); err != nil {
		return shared, fmt.Errorf("noise: %w", err)
	}
	return shared, nil
}

// dh writes the shared secret to out, or zeros with ErrLowOrder.
func dh(out, private, public *[KeySize]byte) error {
	ok := x25519.Shared((*x25519.Key)(out), (*x25519.Key)(private), (*x25519.Key)(public))
	var zero [KeySize]byte
	if !ok || subtle.ConstantTimeCompare(out[:], zero[:]) == 1 {
		*out = zero
		return ErrLowOrder
	}
	return nil
}
