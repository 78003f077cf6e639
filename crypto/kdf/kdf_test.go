package kdf_test

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"sync"
	"testing"

	"lewes/crypto/internal/vectors"
	"lewes/crypto/kdf"

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

// The MAC is the first half of keyed BLAKE3, and a hash is the first 32 bytes
// of the extendable output, so the rows for both show ours.
func TestReferenceVectors(t *testing.T) {
	vectors.Each(t, "kdf.json", func(t *testing.T, v rows) {
		if len(v.DeriveKey) == 0 || len(v.Keyed) == 0 || len(v.Subsession) == 0 {
			t.Fatal("a table of the file is empty")
		}
		for _, r := range v.DeriveKey {
			if got := kdf.DeriveKey(r.Context, r.Input); !bytes.Equal(got[:], r.Output) {
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
			if got := kdf.MAC((*[32]byte)(r.Key), input); !bytes.Equal(got[:], r.Keyed[:kdf.MACSize]) {
				t.Errorf("MAC of %d bytes = %x, want %x", r.InputLen, got, r.Keyed[:kdf.MACSize])
			}
			if got := kdf.NewMACKey((*[32]byte)(r.Key)).MAC(input); !bytes.Equal(got[:], r.Keyed[:kdf.MACSize]) {
				t.Errorf("MACKey over %d bytes = %x, want %x", r.InputLen, got, r.Keyed[:kdf.MACSize])
			}
			if got := kdf.Hash(input); !bytes.Equal(got[:], r.HashXOF[:kdf.HashSize]) {
				t.Errorf("Hash of %d bytes = %x, want %x", r.InputLen, got, r.HashXOF[:kdf.HashSize])
			}
		}
		for _, r := range v.Subsession {
			index, err := strconv.ParseUint(r.Index, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			got := kdf.DeriveKey("lp-subsession-psk-v1", r.Secret, binary.LittleEndian.AppendUint64(nil, index))
			if !bytes.Equal(got[:], r.PSK) {
				t.Errorf("subsession psk %d = %x, want %x", index, got, r.PSK)
			}
		}
	})
}

// However an input is cut into parts, the result is that of the whole.
func TestPartsAreConcatenated(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOf(rapid.SliceOfN(rapid.Byte(), 0, 3000)).Draw(t, "parts")
		whole := bytes.Join(parts, nil)
		key := [32]byte(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key"))
		if kdf.Hash(parts...) != kdf.Hash(whole) {
			t.Fatal("Hash differs")
		}
		if kdf.MAC(&key, parts...) != kdf.MAC(&key, whole) {
			t.Fatal("MAC differs")
		}
		if kdf.DeriveKey("lewes/2 root", parts...) != kdf.DeriveKey("lewes/2 root", whole) {
			t.Fatal("DeriveKey differs")
		}
	})
}

// Reused hashers remember nothing of what went before: results do not depend
// on the order of calls, on sizes before, or on goroutines beside.
func TestReuse(t *testing.T) {
	key := kdf.NewMACKey(&[32]byte{1})
	input := bytes.Repeat([]byte("lewes"), 4000)
	var group sync.WaitGroup
	for g := range 4 {
		group.Go(func() {
			for i := range 200 {
				part := input[:(i*7919+g*131)%len(input)]
				if key.MAC(part) != kdf.MAC(&[32]byte{1}, part) {
					t.Errorf("MACKey over %d bytes differs when it is used again", len(part))
				}
				var want [32]byte
				blake3.DeriveKey("lewes/2 root", part, want[:])
				if kdf.DeriveKey("lewes/2 root", part) != want {
					t.Errorf("DeriveKey over %d bytes differs when it is used again", len(part))
				}
			}
		})
	}
	group.Wait()
}

// The three uses never meet: no context, key or mode gives another's result.
func TestUsesAreSeparate(t *testing.T) {
	input := []byte("the same input")
	var key [32]byte
	derived := kdf.DeriveKey("lewes/2 root", input)
	other := kdf.DeriveKey("lewes/2 psk", input)
	hash := kdf.Hash(input)
	mac := kdf.MAC(&key, input)
	key[31] = 1
	mac2 := kdf.MAC(&key, input)
	seen := map[string]bool{}
	for _, b := range [][]byte{derived[:], other[:], hash[:], mac[:], mac2[:]} {
		seen[string(b[:kdf.MACSize])] = true
	}
	if len(seen) != 5 {
		t.Fatalf("%d different results of 5", len(seen))
	}
}

// A clear packet is hashed before anything is known of its sender, so the hash
// of one must cost no memory.
func TestAllocations(t *testing.T) {
	packet := make([]byte, 1200)
	key := kdf.NewMACKey(new([32]byte))
	var sink byte
	for name, f := range map[string]func(){
		"DeriveKey": func() { k := kdf.DeriveKey("lewes/2 mac1", packet[:32]); sink += k[0] },
		"MACKey":    func() { m := key.MAC(packet[:12], packet[12:]); sink += m[0] },
		"Hash":      func() { h := kdf.Hash(packet); sink += h[0] },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

func BenchmarkMAC(b *testing.B) {
	key := kdf.NewMACKey(new([32]byte))
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
		kdf.DeriveKey("lewes/2 transport c2g", root)
	}
}
