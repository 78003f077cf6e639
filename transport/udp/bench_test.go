package udp

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"lewes/state/path"
	"lewes/transport"
)

// benchModes are what is compared: what the kernel does for us, then less of it.
var benchModes = []struct {
	name string
	Options
}{
	{"offload", Options{}},
	{"pooled", Options{Pooled: true}},
	{"no-GRO", Options{NoGRO: true}},
	{"no-offload", Options{NoGSO: true, NoGRO: true}},
	{"portable", Options{Portable: true}},
}

// BenchmarkLoopback sends a batch and reads it back in one goroutine, so that
// nothing is dropped and the time is what a datagram costs both ends together.
func BenchmarkLoopback(b *testing.B) {
	for _, m := range benchModes {
		for _, size := range []int{100, 1200} {
			b.Run(fmt.Sprintf("%s/%d", m.name, size), func(b *testing.B) {
				to, from := listenOn(b, loopbacks[0], m.Options), listenOn(b, loopbacks[0], m.Options)
				sent := packetsOf(path.NewUDP(to.LocalAddrPort(), loopbacks[0], 1), bytesOf(128, size)...)
				batch := make([]transport.Packet, 32)
				b.ReportAllocs()
				b.SetBytes(int64(len(sent) * size))
				for b.Loop() {
					mustWrite(b, from, sent)
					for left := len(sent); left > 0; {
						n, err := to.ReadBatch(batch)
						if err != nil {
							b.Fatal(err)
						}
						for i := range batch[:n] {
							left -= batch[i].Count()
						}
					}
				}
				datagrams := float64(b.N) * float64(len(sent))
				b.ReportMetric(datagrams/b.Elapsed().Seconds(), "datagrams/s")
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/datagrams, "ns/datagram")
			})
		}
	}
}

// BenchmarkFlood lets one goroutine send as fast as it can while another reads:
// datagrams a second that arrive, and the part that is lost.
func BenchmarkFlood(b *testing.B) {
	for _, m := range benchModes {
		b.Run(m.name, func(b *testing.B) {
			to := listenOn(b, loopbacks[0], m.Options)
			from := dialTo(b, to.LocalAddrPort(), m.Options)
			sent := packetsOf(path.Path{}, bytesOf(54, 1200)...)
			done := make(chan struct{})
			go func() {
				defer close(done)
				batch := make([]transport.Packet, 32)
				for {
					if _, err := to.ReadBatch(batch); errors.Is(err, os.ErrDeadlineExceeded) {
						return
					}
				}
			}()
			for b.Loop() {
				mustWrite(b, from, sent)
			}
			elapsed := b.Elapsed()
			time.Sleep(20 * time.Millisecond)
			_ = to.SetReadDeadline(time.Now())
			<-done
			arrived, gone := to.Stats().Received.Packets, from.Stats().Sent.Packets
			b.ReportMetric(float64(arrived)/elapsed.Seconds(), "arrived/s")
			b.ReportMetric(100*float64(gone-arrived)/float64(gone), "%lost")
		})
	}
}

// BenchmarkManyPeers is the sparse case: each datagram of a batch has a way of its
// own, and nothing coalesces.
func BenchmarkManyPeers(b *testing.B) {
	for _, m := range benchModes {
		b.Run(m.name, func(b *testing.B) {
			from := listenOn(b, loopbacks[0], m.Options)
			var peers []*Conn
			var sent []transport.Packet
			for i := range 32 {
				peers = append(peers, listenOn(b, loopbacks[0], Options{Pooled: true}))
				sent = append(sent, packetsOf(path.NewUDP(peers[i].LocalAddrPort(), loopbacks[0], 1), 200)...)
			}
			batch := make([]transport.Packet, 1)
			b.ReportAllocs()
			for b.Loop() {
				mustWrite(b, from, sent)
				b.StopTimer()
				for _, c := range peers {
					if _, err := c.ReadBatch(batch); err != nil {
						b.Fatal(err)
					}
				}
				b.StartTimer()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(sent)), "ns/datagram")
		})
	}
}

// BenchmarkCut is the cutting of a batch alone.
func BenchmarkCut(b *testing.B) {
	sent := packetsOf(path.NewUDP(netip.AddrPortFrom(loopbacks[0], 1), loopbacks[0], 1), bytesOf(1024, 1200)...)
	b.ReportAllocs()
	for b.Loop() {
		for c := newGSOBatcher(sent, false, maxSegments); c.more(); {
			c.next(maxSegments)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(sent)), "ns/datagram")
}
