package kem

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"lewes/crypto/kdf"
	"lewes/crypto/wipe"
)

// SecretSize is the length of a shared secret in bytes, for every mechanism.
const SecretSize = 32

var (
	// ErrPublicKey means that a public key has the wrong length or encodes no usable key.
	ErrPublicKey = errors.New("unusable KEM public key")

	// ErrCiphertext means that a ciphertext has the wrong length or encoding. A ciphertext for
	// another key is no error with ML-KEM: it gives a secret that the peer does not have.
	ErrCiphertext = errors.New("unusable KEM ciphertext")

	// ErrSeed means that a seed has the wrong length, or that its key id is 0.
	ErrSeed = errors.New("unusable KEM seed")

	// ErrWiped means that a key pair was used after Wipe.
	ErrWiped = errors.New("KEM key pair is wiped")
)

// KeyPair is a key pair of one mechanism. It is safe for concurrent use, Wipe included.
type KeyPair struct {
	id     ID
	scheme *scheme
	public []byte
	keyID  uint32

	mu      sync.RWMutex // write-locked by Wipe only
	private decapsulator // nil when wiped
	seed    *[]byte      // a pointer, so that printing an enclosing struct does not show it
}

// Generate makes a key pair from rand. Its key id is never 0, which in a
// ClientHello means that the client has no key: such a key is discarded.
func Generate(id ID, rand io.Reader) (*KeyPair, error) {
	return generate(id, rand, KeyID)
}

func generate(id ID, rand io.Reader, keyID func(pk []byte) uint32) (*KeyPair, error) {
	s := schemeOf(id)
	if s == nil {
		return nil, fmt.Errorf("kem: %w: %v", ErrUnsupported, id)
	}
	seed := make([]byte, s.seedSize)
	defer clear(seed)
	for {
		if _, err := io.ReadFull(rand, seed); err != nil {
			return nil, fmt.Errorf("kem: no randomness for a %v key: %w", id, err)
		}
		if pair := newKeyPair(id, s, seed, keyID); pair.keyID != 0 {
			return pair, nil
		}
	}
}

// FromSeed derives the key pair of a seed, which it copies: d ‖ z (64 bytes) for
// ML-KEM-768, 32 bytes for X-Wing, the scalar before clamping for X25519.
func FromSeed(id ID, seed []byte) (*KeyPair, error) {
	s := schemeOf(id)
	if s == nil {
		return nil, fmt.Errorf("kem: %w: %v", ErrUnsupported, id)
	}
	if len(seed) != s.seedSize {
		return nil, fmt.Errorf("kem: %w: %d bytes for %v, not %d", ErrSeed, len(seed), id, s.seedSize)
	}
	pair := newKeyPair(id, s, seed, KeyID)
	if pair.keyID == 0 {
		return nil, fmt.Errorf("kem: %w: the key id is 0", ErrSeed)
	}
	return pair, nil
}

func newKeyPair(id ID, s *scheme, seed []byte, keyID func(pk []byte) uint32) *KeyPair {
	public, private := s.newKey(seed)
	kept := bytes.Clone(seed)
	return &KeyPair{id: id, scheme: s, public: public, keyID: keyID(public), private: private, seed: &kept}
}

// ID returns the mechanism.
func (k *KeyPair) ID() ID { return k.id }

// Public returns the raw public key. It belongs to the key pair and must not be modified.
func (k *KeyPair) Public() []byte { return k.public }

// KeyID returns the id of this key in a ClientHello, never 0.
func (k *KeyPair) KeyID() uint32 { return k.keyID }

// Decapsulate returns the shared secret in ct. The caller wipes it. The errors
// are ErrCiphertext and ErrWiped.
func (k *KeyPair) Decapsulate(ct []byte) (ss [SecretSize]byte, err error) {
	if len(ct) != k.scheme.ciphertextSize {
		return ss, fmt.Errorf("kem: %w: %d bytes for %v, not %d", ErrCiphertext, len(ct), k.id, k.scheme.ciphertextSize)
	}
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.private == nil {
		return ss, fmt.Errorf("kem: %w: %v key %08x", ErrWiped, k.id, k.keyID)
	}
	if ss, err = k.private.decapsulate(ct); err != nil {
		return ss, fmt.Errorf("kem: %v: %w", k.id, err)
	}
	return ss, nil
}

// AppendSeed appends the seed for FromSeed to dst, for a snapshot. The caller
// wipes it. The error is ErrWiped.
func (k *KeyPair) AppendSeed(dst []byte) ([]byte, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.private == nil {
		return dst, fmt.Errorf("kem: %w: %v key %08x", ErrWiped, k.id, k.keyID)
	}
	return append(dst, *k.seed...), nil
}

// Wipe waits for running decapsulations and overwrites the private key. From
// then on Decapsulate returns ErrWiped; Public and KeyID still work.
func (k *KeyPair) Wipe() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.private != nil {
		wipe.Deep(k.private)
		clear(*k.seed)
		k.private = nil
	}
}

// Format writes the mechanism and the key id for every verb, so that a private
// key is never printed.
func (k *KeyPair) Format(s fmt.State, _ rune) {
	_, _ = fmt.Fprintf(s, "kem.KeyPair(%v %08x, redacted)", k.id, k.keyID)
}

// Encapsulate returns a shared secret and its ciphertext for the public key pk. The caller wipes
// the secret. The errors are ErrPublicKey, ErrUnsupported and those of rand.
func Encapsulate(id ID, pk []byte, rand io.Reader) (ct []byte, ss [SecretSize]byte, err error) {
	s := schemeOf(id)
	if s == nil {
		return nil, ss, fmt.Errorf("kem: %w: %v", ErrUnsupported, id)
	}
	if len(pk) != s.publicKeySize {
		return nil, ss, fmt.Errorf("kem: %w: %d bytes for %v, not %d", ErrPublicKey, len(pk), id, s.publicKeySize)
	}
	coins := make([]byte, s.encapsSize)
	defer clear(coins)
	if _, err := io.ReadFull(rand, coins); err != nil {
		return nil, ss, fmt.Errorf("kem: no randomness to encapsulate to a %v key: %w", id, err)
	}
	if ct, ss, err = s.encapsulate(pk, coins); err != nil {
		return nil, ss, fmt.Errorf("kem: %v: %w", id, err)
	}
	return ct, ss, nil
}

// KeyID returns the id of a public key: the first four bytes of its BLAKE3, little-endian.
func KeyID(pk []byte) uint32 {
	h := kdf.Hash(pk)
	return binary.LittleEndian.Uint32(h[:])
}
