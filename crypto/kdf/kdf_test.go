package kdf

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"sync"
	"testing"
	"unsafe"

	"lewes/crypto/internal/vectors"

	"github.com/zeebo/blake3"
	"pgregory.net/rapid"
)

type rows struct {
	DeriveKey []struct {
		Context string      `json:"context"`
		Input   vectors.Hex `json:"input"`
		Output  vectors.Hex `json:"output"`
	} `json:"derive_key"`
	Keyed []struct {
		Key      vectors.Hex `json:"key"`
		Input    vectors.Hex `json:"input"`
		InputLen int         `json:"input_len"`
		Keyed    vectors.Hex `json:"keyed_32"`
		KeyedXOF vectors.Hex `json:"keyed_xof_64"`
		HashXOF  vectors.Hex `json:"hash_xof_64"`
	} `json:"keyed"`
	Subsession []struct {
		Secret vectors.Hex `json:"pq_shared_secret"`
		Index  string      `json:"index"`
		PSK    vectors.Hex `json:"psk"`
	} `json:"subsession"`
}

// A MAC is the first half of keyed BLAKE3, and a hash is the first 32 bytes of
// the extendable output, so these rows cover both.
func TestReferenceVectors(t *testing.T) {
	vectors.Each(t, "kdf.json", func(t *testing.T, v rows) {
		if len(v.DeriveKey) == 0 || len(v.Keyed) == 0 || len(v.Subsession) == 0 {
			t.Fatal("a table of the file is empty")
		}
		for _, r := range v.DeriveKey {
			if got := DeriveKey(r.Context, r.Input); !bytes.Equal(got[:], r.Output) {
				t.Errorf("DeriveKey(%q, %d bytes) = %x, want %x", r.Context, len(r.Input), got, r.Output)
			}
		}
		for _, r := range v.Keyed {
			input := make([]byte, r.InputLen)
			for i := range input {
				input[i] = byte(i % 251)
			}
			if len(r.Input) != 0 && !bytes.Equal(input, r.Input) {
				t.Fatalf("row of %d bytes: input is not the pattern", r.InputLen)
			}
			if got := newMAC((*[32]byte)(r.Key), input); !bytes.Equal(got[:], r.Keyed[:MACSize]) {
				t.Errorf("MAC of %d bytes = %x, want %x", r.InputLen, got, r.Keyed[:MACSize])
			}
			if got := NewMACKey((*[32]byte)(r.Key)).MAC(input); !bytes.Equal(got[:], r.Keyed[:MACSize]) {
				t.Errorf("MACKey over %d bytes = %x, want %x", r.InputLen, got, r.Keyed[:MACSize])
			}
			if got := Hash(input); !bytes.Equal(got[:], r.HashXOF[:HashSize]) {
				t.Errorf("Hash of %d bytes = %x, want %x", r.InputLen, got, r.HashXOF[:HashSize])
			}
		}
		for _, r := range v.Subsession {
			index, err := strconv.ParseUint(r.Index, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			got := DeriveKey("lp-subsession-psk-v1", r.Secret, binary.LittleEndian.AppendUint64(nil, index))
			if !bytes.Equal(got[:], r.PSK) {
				t.Errorf("subsession psk %d = %x, want %x", index, got, r.PSK)
			}
		}
	})
}

func TestPartsAreConcatenated(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOf(rapid.SliceOfN(rapid.Byte(), 0, 3000)).Draw(t, "parts")
		whole := bytes.Join(parts, nil)
		key := [32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key"))
		if Hash(parts...) != Hash(whole) {
			t.Fatal("Hash differs")
		}
		if newMAC(&key, parts...) != newMAC(&key, whole) {
			t.Fatal("MAC differs")
		}
		if DeriveKey("lewes/2 root", parts...) != DeriveKey("lewes/2 root", whole) {
			t.Fatal("DeriveKey differs")
		}
	})
}

// Results do not depend on earlier calls, earlier sizes or concurrent use.
func TestReusedHashersKeepNoState(t *testing.T) {
	key := NewMACKey(&[32]byte{1})
	input := bytes.Repeat([]byte("lewes"), 4000)
	var group sync.WaitGroup
	for g := range 4 {
		group.Go(func() {
			for i := range 200 {
				part := input[:(i*7919+g*131)%len(input)]
				if key.MAC(part) != newMAC(&[32]byte{1}, part) {
					t.Errorf("MACKey over %d bytes differs when it is used again", len(part))
				}
				var want [32]byte
				blake3.DeriveKey("lewes/2 root", part, want[:])
				if DeriveKey("lewes/2 root", part) != want {
					t.Errorf("DeriveKey over %d bytes differs when it is used again", len(part))
				}
			}
		})
	}
	group.Wait()
}

// No context, key or mode gives the result of another.
func TestModesAreSeparate(t *testing.T) {
	input := []byte("the same input")
	var key [32]byte
	derived := DeriveKey("lewes/2 root", input)
	other := DeriveKey("lewes/2 psk", input)
	hash := Hash(input)
	mac := newMAC(&key, input)
	key[31] = 1
	mac2 := newMAC(&key, input)
	seen := map[string]bool{}
	for _, b := range [][]byte{derived[:], other[:], hash[:], mac[:], mac2[:]} {
		seen[string(b[:MACSize])] = true
	}
	if len(seen) != 5 {
		t.Fatalf("%d different results of 5", len(seen))
	}
}

// Clear packets are hashed before the sender is known, so hashing must not
// allocate.
func TestHashingDoesNotAllocate(t *testing.T) {
	packet := make([]byte, 1200)
	key := NewMACKey(new([32]byte))
	var sink byte
	for name, f := range map[string]func(){
		"DeriveKey": func() { k := DeriveKey("lewes/2 mac1", packet[:32]); sink += k[0] },
		"MACKey":    func() { m := key.MAC(packet[:12], packet[12:]); sink += m[0] },
		"Hash":      func() { h := Hash(packet); sink += h[0] },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

func BenchmarkMAC(b *testing.B) {
	key := NewMACKey(new([32]byte))
	for _, size := range []int{42, 1000, 1184} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			packet := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				key.MAC(packet)
			}
		})
	}
}

func BenchmarkDeriveKey(b *testing.B) {
	root := make([]byte, 32)
	b.ReportAllocs()
	for b.Loop() {
		DeriveKey("lewes/2 transport c2g", root)
	}
}

// A pooled hasher must not keep the input it hashed.
func TestPooledHasherIsErased(t *testing.T) {
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
			t.Errorf("part of a %d-byte input is left in the hasher", size)
		}
	}
}

func newMAC(key *[32]byte, parts ...[]byte) [MACSize]byte { return NewMACKey(key).MAC(parts...) }
