package kdf

import (
	"sync"

	"github.com/zeebo/blake3"
)

// hasherPool reuses hashers of one mode and key. A hasher holds 10 KB, most of
// it a buffer for its input: too much to make, and to leave to the garbage
// collector with key material in it, for each key of 32 bytes.
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
