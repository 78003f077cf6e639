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

// SecretSize is the length of a shared secret in bytes, whatever the
// mechanism.
const SecretSize = 32

var (
	// ErrPublicKey means a public key that has the wrong length or encodes no
	// usable key.
	ErrPublicKey = errors.New("unusable KEM public key")

	// ErrCiphertext means a ciphertext that has the wrong length or encoding.
	// A ciphertext that merely belongs to another key is no error with ML-KEM:
	// it gives a secret that the peer does not have.
	ErrCiphertext = errors.New("unusable KEM ciphertext")

	// ErrSeed means a seed of the wrong length, or one whose key id is 0.
	ErrSeed = errors.New("unusable KEM seed")

	// ErrWiped means a key pair that was used after Wipe.
	ErrWiped = errors.New("KEM key pair is wiped")
)

// KeyPair is a key pair of one mechanism. Its methods may be called by several
// goroutines at once, Wipe included.
type KeyPair struct {
	id     ID
	scheme *scheme
	public []byte
	keyID  uint32

	mu      sync.RWMutex // held for writing by Wipe alone
	private decapsulator // nil once wiped
	seed    *[]byte      // that it was made from; behind a pointer, where printing does not reach
}

// Generate makes a key pair from rand. Its key id is never 0, which in a
// ClientHello means that the client has no key: such a key is thrown away and
// another is made.
func Generate(id ID, rand io.Reader) (*KeyPair, error) {
	return generate(id, rand, KeyID)
}

func generate(id ID, rand io.Reader, keyID func(pk []byte) uint32) (*KeyPair, error) {
	s := schemeOf(id)
	if s == nil {
		return nil, fmt.Errorf("kem: %w: %v", ErrUnsupported, id)
	}
	seed := make([]byte, s.seedSize)
	defer wipe.Bytes(seed)
	for {
		if _, err := io.ReadFull(rand, seed); err != nil {
			return nil, fmt.Errorf("kem: no randomness for a %v key: %w", id, err)
		}
		if pair := newKeyPair(id, s, seed, keyID); pair.keyID != 0 {
			return pair, nil
		}
	}
}

// FromSeed makes the key pair of a seed, which it copies: d ‖ z (64 bytes) for
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

// Public returns the raw public key. It belongs to the key pair and must not
// be modified.
func (k *KeyPair) Public() []byte { return k.public }

// KeyID returns the id by which a client names this key, never 0.
func (k *KeyPair) KeyID() uint32 { return k.keyID }

// Decapsulate returns the secret that ct holds for this key. The caller wipes
// it. The errors are ErrCiphertext and ErrWiped.
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

// AppendSeed appends the secret that FromSeed makes the pair from again, for a
// process that goes on in this one's place. The caller wipes it. It fails with
// ErrWiped.
func (k *KeyPair) AppendSeed(dst []byte) ([]byte, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if k.private == nil {
		return dst, fmt.Errorf("kem: %w: %v key %08x", ErrWiped, k.id, k.keyID)
	}
	return append(dst, *k.seed...), nil
}

// Wipe waits for decapsulations that run and overwrites the private key. From
// then on Decapsulate fails with ErrWiped; Public and KeyID go on working.
func (k *KeyPair) Wipe() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.private != nil {
		wipe.Deep(k.private)
		wipe.Bytes(*k.seed)
		k.private = nil
	}
}

// Format writes the mechanism and the key id, for every verb: a private key is
// never printed.
func (k *KeyPair) Format(s fmt.State, _ rune) {
	_, _ = fmt.Fprintf(s, "kem.KeyPair(%v %08x, redacted)", k.id, k.keyID)
}

// Encapsulate makes a secret for the owner of the public key pk, and the
// ciphertext that brings it there. The caller owns both, and wipes the secret.
// The errors are ErrPublicKey, ErrUnsupported and those of rand.
func Encapsulate(id ID, pk []byte, rand io.Reader) (ct []byte, ss [SecretSize]byte, err error) {
	s := schemeOf(id)
	if s == nil {
		return nil, ss, fmt.Errorf("kem: %w: %v", ErrUnsupported, id)
	}
	if len(pk) != s.publicKeySize {
		return nil, ss, fmt.Errorf("kem: %w: %d bytes for %v, not %d", ErrPublicKey, len(pk), id, s.publicKeySize)
	}
	coins := make([]byte, s.encapsSize)
	defer wipe.Bytes(coins)
	if _, err := io.ReadFull(rand, coins); err != nil {
		return nil, ss, fmt.Errorf("kem: no randomness to encapsulate to a %v key: %w", id, err)
	}
	if ct, ss, err = s.encapsulate(pk, coins); err != nil {
		return nil, ss, fmt.Errorf("kem: %v: %w", id, err)
	}
	return ct, ss, nil
}

// KeyID returns the id of a public key: the first four bytes of its BLAKE3,
// little-endian.
func KeyID(pk []byte) uint32 {
	h := kdf.Hash(pk)
	return binary.LittleEndian.Uint32(h[:])
}
