package cookie_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/zeebo/blake3"
	"pgregory.net/rapid"

	"lewes/crypto/cookie"
	"lewes/crypto/identity"
)

var gateway = identity.FromSeed(&[32]byte{1}).Public()

// The trailer, computed from its definition.
//
// Shows R1.10.
func TestMAC1IsAsSpecified(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		covered := rapid.SliceOfN(rapid.Byte(), 0, 1500).Draw(t, "header and body")
		var key [32]byte
		blake3.DeriveKey("lewes/2 mac1", gateway[:], key[:])
		h, err := blake3.NewKeyed(key[:])
		if err != nil {
			t.Fatal(err)
		}
		_, _ = h.Write(covered)
		want := append(bytes.Clone(covered), h.Sum(nil)[:16]...)

		got := append(bytes.Clone(covered), bytes.Repeat([]byte{0xee}, 16)...)
		mac1 := cookie.NewMAC1Key(gateway)
		mac1.Sum(got)
		if !bytes.Equal(got, want) {
			t.Fatalf("%x, want %x", got, want)
		}
		if !mac1.Verify(got) {
			t.Fatal("own trailer refused")
		}
	})
}

// Shows R1.11.
func TestMAC1Refuses(t *testing.T) {
	mac1 := cookie.NewMAC1Key(gateway)
	packet := bytes.Repeat([]byte{0x35}, 34)
	mac1.Sum(packet)
	for bit := range len(packet) * 8 {
		bad := bytes.Clone(packet)
		bad[bit/8] ^= 1 << (bit % 8)
		if mac1.Verify(bad) {
			t.Errorf("bit %d flipped, and taken", bit)
		}
	}
	for n := range packet {
		if mac1.Verify(packet[:n]) {
			t.Errorf("the first %d bytes are taken", n)
		}
	}
	if mac1.Verify(append(bytes.Clone(packet), 0)) {
		t.Error("a byte more is taken")
	}
	if mac1.Verify(nil) || mac1.Verify(make([]byte, 16)) || mac1.Verify(make([]byte, 1500)) {
		t.Error("zeros are taken")
	}
	other := cookie.NewMAC1Key(identity.FromSeed(&[32]byte{2}).Public())
	if other.Verify(packet) {
		t.Error("another gateway's packet is taken")
	}
}

// The check comes before anything is known of a packet: it must cost no memory.
func TestMAC1Allocations(t *testing.T) {
	mac1 := cookie.NewMAC1Key(gateway)
	packet := make([]byte, 1000)
	if n := testing.AllocsPerRun(100, func() {
		mac1.Sum(packet)
		if !mac1.Verify(packet) {
			t.Fatal("own trailer refused")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzMAC1Verify(f *testing.F) {
	packet := make([]byte, 64)
	cookie.NewMAC1Key(gateway).Sum(packet)
	f.Add(packet)
	f.Add(packet[:16])
	f.Add([]byte{})
	mac1 := cookie.NewMAC1Key(gateway)
	f.Fuzz(func(t *testing.T, packet []byte) {
		if !mac1.Verify(packet) {
			return
		}
		again := bytes.Clone(packet)
		clear(again[len(again)-cookie.TrailerSize:])
		mac1.Sum(again)
		if !bytes.Equal(again, packet) {
			t.Fatal("two trailers for one packet")
		}
	})
}

func BenchmarkMAC1(b *testing.B) {
	mac1 := cookie.NewMAC1Key(gateway)
	for _, size := range []int{64, 512, 1000, 1200} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			packet := make([]byte, size)
			mac1.Sum(packet)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if !mac1.Verify(packet) {
					b.Fatal("refused")
				}
			}
		})
	}
}
