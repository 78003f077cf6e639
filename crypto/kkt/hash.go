package kkt

import (
	"crypto/sha3"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/zeebo/blake3"
)

// Hash is a hash function of KKT, for the hash of a KEM public key.
type Hash uint8

// The hash functions by their numbers in a context. LP/2 uses BLAKE3.
const (
	BLAKE3   Hash = 0
	SHAKE256 Hash = 1
	SHAKE128 Hash = 2

	// SHA256 bears the name that KKT gives it. What the reference computes
	// under that name, and so this package, is SHA3-256.
	SHA256 Hash = 3
)

const (
	defaultHashLength = 32
	minHashLength     = 16
	maxHashLength     = 255
)

var (
	// ErrHashLength says that a key hash of that length cannot be made.
	ErrHashLength = errors.New("KKT key hash of an impossible length")

	// ErrPin says that a KEM public key is not the one that was pinned.
	ErrPin = errors.New("KEM public key is not the pinned one")
)

var hashNames = [...]string{"BLAKE3", "SHAKE256", "SHAKE128", "SHA-256"}

// String returns the function's name in KKT.
func (h Hash) String() string {
	if int(h) < len(hashNames) {
		return hashNames[h]
	}
	return fmt.Sprintf("hash %d", uint8(h))
}

// KeyHash returns the hash of a raw KEM public key, of length bytes: 16 to 255,
// but at most 32 with SHA256, which is no extendable function. (The reference
// goes on squeezing its sponge there. No context of LP/2 asks for it.)
func KeyHash(h Hash, length int, pk []byte) ([]byte, error) {
	if length < minHashLength || length > maxHashLength || h == SHA256 && length > defaultHashLength {
		return nil, fmt.Errorf("kkt: %v of %d bytes: %w", h, length, ErrHashLength)
	}
	out := make([]byte, length)
	switch h {
	case BLAKE3:
		x := blake3.New()
		_, _ = x.Write(pk) // a hash.Hash never fails
		_, _ = x.Digest().Read(out)
	case SHAKE256:
		return sha3.SumSHAKE256(pk, length), nil
	case SHAKE128:
		return sha3.SumSHAKE128(pk, length), nil
	case SHA256:
		sum := sha3.Sum256(pk)
		copy(out, sum[:])
	default:
		return nil, fmt.Errorf("kkt: %v: %w", h, ErrSuite)
	}
	return out, nil
}

// VerifyPin compares a gateway's KEM public key with the hash of it that the
// client has pinned: BLAKE3, 32 bytes. A pin of any other length is ErrPin too.
func VerifyPin(pk, pin []byte) error {
	sum := blake3.Sum256(pk)
	if subtle.ConstantTimeCompare(sum[:], pin) != 1 {
		return fmt.Errorf("kkt: its hash is %x: %w", sum, ErrPin)
	}
	return nil
}
