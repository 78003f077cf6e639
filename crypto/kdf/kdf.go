package kdf

import (
	"sync"

	"github.com/zeebo/blake3"
)

const (
	// HashSize is the length of a hash, and of a derived key, in bytes.
	HashSize = 32

	// MACSize is the length of a MAC in bytes.
	MACSize = 16
)

// derivations keeps a hasher pool for each context. Contexts are the
// protocol's own constants, so the map stays small.
var derivations sync.Map // string → *hasherPool

// DeriveKey returns B3(context, parts...): BLAKE3's derive_key mode, 32 bytes.
// The context is one of the protocol's own strings, never input from outside.
// It keeps no copy of the parts.
func DeriveKey(context string, parts ...[]byte) [HashSize]byte {
	pool, ok := derivations.Load(context)
	if !ok {
		pool, _ = derivations.LoadOrStore(context, &hasherPool{
			make: func() *blake3.Hasher { return blake3.NewDeriveKey(context) },
		})
	}
	return pool.(*hasherPool).sum(parts)
}

// Hash returns the plain BLAKE3-256 of the parts, which must not be secret:
// nothing is done to overwrite what the hasher held.
func Hash(parts ...[]byte) (out [HashSize]byte) {
	h := blake3.New()
	for _, p := range parts {
		_, _ = h.Write(p) // a hash.Hash never fails
	}
	h.Sum(out[:0])
	return out
}

// MAC returns keyed BLAKE3 of the parts, cut to its first 16 bytes. It is
// compared with crypto/subtle, never with ==. Who uses one key often makes a
// MACKey of it.
func MAC(key *[32]byte, parts ...[]byte) [MACSize]byte {
	return NewMACKey(key).MAC(parts...)
}

// MACKey is a key for MAC made ready for many messages: each costs no memory.
// It is safe for concurrent use.
type MACKey struct{ pool hasherPool }

// NewMACKey makes a MACKey of key, which it copies.
func NewMACKey(key *[32]byte) *MACKey {
	k := *key
	return &MACKey{hasherPool{make: func() *blake3.Hasher {
		h, err := blake3.NewKeyed(k[:])
		if err != nil {
			panic("kdf: BLAKE3 refused a key of 32 bytes: " + err.Error())
		}
		return h
	}}}
}

// MAC returns what the function MAC returns for this key.
func (k *MACKey) MAC(parts ...[]byte) [MACSize]byte {
	full := k.pool.sum(parts)
	return [MACSize]byte(full[:MACSize])
}
