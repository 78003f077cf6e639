// Package kdf holds the three uses of BLAKE3 in the Lewes Protocol: key derivation with a context
// string, a short keyed MAC, and a plain hash (the notation at the head of PROTOCOL.md).
//
//	tk := kdf.DeriveKey("lewes/2 transport c2g", root[:])
//	tag := kdf.NewMACKey(&key).MAC(header, body)
//	sid := kdf.Hash(hello)
//
// All functions hash the concatenation of their parts, without lengths in
// between. Where bytes could move from one part to the next, the caller adds the
// length, as the protocol does with len32.
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

// derivations maps each context to its hasher pool. Contexts are constants of
// the protocol, so the map stays small.
var derivations sync.Map // string → *hasherPool

// DeriveKey returns B3(context, parts...): 32 bytes in BLAKE3's derive_key mode. The context must
// be one of the protocol's strings, never external input. DeriveKey keeps no copy of the parts.
func DeriveKey(context string, parts ...[]byte) [HashSize]byte {
	pool, ok := derivations.Load(context)
	if !ok {
		pool, _ = derivations.LoadOrStore(context, &hasherPool{
			make: func() *blake3.Hasher { return blake3.NewDeriveKey(context) },
		})
	}
	return pool.(*hasherPool).sum(parts)
}

// Hash returns the plain BLAKE3-256 of the parts. They must not be secret: the
// hasher is not erased.
func Hash(parts ...[]byte) (out [HashSize]byte) {
	h := blake3.New()
	for _, p := range parts {
		_, _ = h.Write(p) // a hash.Hash never fails
	}
	h.Sum(out[:0])
	return out
}

// MACKey is a key of keyed BLAKE3, safe for concurrent use.
type MACKey struct{ pool hasherPool }

// NewMACKey returns a MACKey with a copy of key.
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

// MAC returns keyed BLAKE3 of the parts, truncated to 16 bytes. It does not allocate.
// Compare MACs with crypto/subtle, never with ==.
func (k *MACKey) MAC(parts ...[]byte) [MACSize]byte {
	full := k.pool.sum(parts)
	return [MACSize]byte(full[:MACSize])
}

// hasherPool reuses hashers of one mode and key. A hasher takes 10 KB, most of
// it an input buffer: too much to allocate for each 32-byte key, and to leave to
// the garbage collector with key material in it.
type hasherPool struct {
	make func() *blake3.Hasher
	free sync.Pool
}

// zeros overwrites a hasher's input buffer.
var zeros [8192]byte

func (p *hasherPool) sum(parts [][]byte) (out [HashSize]byte) {
	h, _ := p.free.Get().(*blake3.Hasher)
	if h == nil {
		h = p.make()
	}
	n := 0
	for _, part := range parts {
		_, _ = h.Write(part) // a hash.Hash never fails
		n += len(part)
	}
	h.Sum(out[:0])

	h.Reset() // keeps the mode and the key
	_, _ = h.Write(zeros[:min(n, len(zeros))])
	h.Reset()
	p.free.Put(h)
	return out
}
