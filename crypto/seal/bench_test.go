package seal_test

import (
	"encoding/binary"
	"fmt"
	"testing"

	"lewes/crypto/seal"
)

// Sizes of whole packets: a Ping, a media frame, the payload that the
// project's figures are for, a full path of 1400, a GRO segment over loopback.
var packetSizes = []int{64, 512, 1200, 1400, 8192}

func BenchmarkSeal(b *testing.B) {
	each(b, func(b *testing.B, k *seal.Key, packet []byte) {
		for sequence := uint64(0); b.Loop(); sequence++ {
			binary.LittleEndian.PutUint64(packet[4:], sequence)
			k.Seal(packet)
		}
	})
}

// A packet is opened in place, so each round first copies it, which adds a few
// nanoseconds to the figure.
func BenchmarkOpen(b *testing.B) {
	each(b, func(b *testing.B, k *seal.Key, packet []byte) {
		k.Seal(packet)
		work := make([]byte, len(packet))
		for b.Loop() {
			copy(work, packet)
			if _, err := k.Open(work); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// Sealing on all cores under one key shows that only reads are shared.
func BenchmarkSealParallel(b *testing.B) {
	for _, s := range suites {
		b.Run(s.String(), func(b *testing.B) {
			k := seal.NewKey(s, &[32]byte{1})
			b.SetBytes(1200)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				packet := make([]byte, 1200)
				for pb.Next() {
					k.Seal(packet)
				}
			})
		})
	}
}

// BenchmarkWake measures the first packet after Compact.
func BenchmarkWake(b *testing.B) {
	for _, s := range suites {
		b.Run(s.String(), func(b *testing.B) {
			k := seal.NewKey(s, &[32]byte{1})
			packet := make([]byte, seal.Overhead)
			b.ReportAllocs()
			for b.Loop() {
				k.Compact()
				k.Seal(packet)
			}
		})
	}
}

func each(b *testing.B, run func(b *testing.B, k *seal.Key, packet []byte)) {
	for _, s := range suites {
		for _, size := range packetSizes {
			b.Run(fmt.Sprintf("%v/%d", s, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				run(b, seal.NewKey(s, &[32]byte{1}), make([]byte, size))
			})
		}
	}
}
