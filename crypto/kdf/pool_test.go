package kdf

import (
	"bytes"
	"testing"
	"unsafe"

	"github.com/zeebo/blake3"
)

// What was hashed must not stay in the hasher that waits for its next use.
func TestPooledHasherHoldsNoInput(t *testing.T) {
	for _, size := range []int{32, 64, 100, 1024} {
		var used *blake3.Hasher
		pool := hasherPool{make: func() *blake3.Hasher {
			used = blake3.NewDeriveKey("lewes/2 root")
			return used
		}}
		secret := bytes.Repeat([]byte("0123456789abcdef"), (size+15)/16)[:size]
		pool.sum([][]byte{secret[:size/2], secret[size/2:]})

		memory := unsafe.Slice((*byte)(unsafe.Pointer(used)), unsafe.Sizeof(*used))
		if bytes.Contains(memory, secret[:16]) || bytes.Contains(memory, secret[size-16:]) {
			t.Errorf("of %d bytes, some are left in the hasher", size)
		}
	}
}
