package identity

import (
	"crypto/ed25519"
	"crypto/sha512"
	"fmt"
	"io"

	"lewes/crypto/kdf"
)

// SeedSize is the length of an Ed25519 seed in bytes.
const SeedSize = 32

// redacted is the printed form of every private key.
const redacted = "identity.PrivateKey(redacted)"

// PrivateKey is an Ed25519 private key. Printing it never shows the key. It is
// safe for concurrent use, except for Wipe, which must be the last call.
type PrivateKey struct {
	// secret is a function because functions are opaque to reflection: fmt follows
	// pointers in unexported fields, where it cannot call Format.
	secret func() *secret
	public PublicKey
}

type secret struct {
	ed25519 [ed25519.PrivateKeySize]byte
	x25519  [32]byte // clamped
	xpublic [32]byte
	wiped   bool
}

// Generate makes a new key from 32 bytes of rand.
func Generate(rand io.Reader) (*PrivateKey, error) {
	var seed [SeedSize]byte
	defer clear(seed[:])
	if _, err := io.ReadFull(rand, seed[:]); err != nil {
		return nil, fmt.Errorf("identity: no randomness for a new key: %w", err)
	}
	return FromSeed(&seed), nil
}

// FromSeed derives the key of a 32-byte Ed25519 seed, which it copies.
func FromSeed(seed *[SeedSize]byte) *PrivateKey {
	expanded := ed25519.NewKeyFromSeed(seed[:])
	defer clear(expanded)
	s := &secret{ed25519: [ed25519.PrivateKeySize]byte(expanded)}
	public := PublicKey(expanded[SeedSize:])

	h := sha512.Sum512(seed[:])
	defer clear(h[:])
	copy(s.x25519[:], h[:])
	s.x25519[0] &= 0xf8
	s.x25519[31] = s.x25519[31]&0x7f | 0x40

	xpublic, err := public.X25519()
	if err != nil { // a clamped scalar times the base point has a large order
		panic("identity: Ed25519 made a weak public key: " + err.Error())
	}
	s.xpublic = xpublic
	return &PrivateKey{secret: func() *secret { return s }, public: public}
}

// ForEntry derives the key that a client uses towards an entry gateway, so that entry and exit see
// different identities (section 3 of PROTOCOL.md).
func (k *PrivateKey) ForEntry(entry PublicKey) *PrivateKey {
	seed := kdf.DeriveKey("lewes/2 entry identity", k.live().ed25519[:SeedSize], entry[:])
	defer clear(seed[:])
	return FromSeed(&seed)
}

// LedgerKey derives the key that seals secrets in a gateway's ledger (section 9). The caller wipes it.
func (k *PrivateKey) LedgerKey() [32]byte {
	return kdf.DeriveKey("lewes/2 ledger", k.live().ed25519[:SeedSize])
}

// Public returns the public key.
func (k *PrivateKey) Public() PublicKey { return k.public }

// Sign returns the 64-byte Ed25519 signature over msg.
func (k *PrivateKey) Sign(msg []byte) []byte {
	return ed25519.Sign(k.live().ed25519[:], msg)
}

// X25519 returns the static key pair for Noise: the first 32 bytes of the seed's SHA-512, clamped,
// and the Montgomery form of the public key. The caller wipes it.
func (k *PrivateKey) X25519() (private, public [32]byte) {
	s := k.live()
	return s.x25519, s.xpublic
}

// Wipe overwrites the key. Public still works; Sign and X25519 panic rather than
// use a key of zeros.
func (k *PrivateKey) Wipe() {
	*k.secret() = secret{wiped: true}
}

func (k *PrivateKey) live() *secret {
	s := k.secret()
	if s.wiped {
		panic("identity: use of a private key after Wipe")
	}
	return s
}

// String returns a fixed text that shows nothing of the key.
func (k PrivateKey) String() string { return redacted }

// Format writes a fixed text for every verb, %x and %d included.
func (k PrivateKey) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, redacted) }
