package router

import (
	"net/netip"
	"runtime"
	"testing"
	"time"

	"lewes/state/path"
)

// BenchmarkIdleSession makes 200,000 sessions by handshakes, lets them rest, and
// reports the heap that each of them takes at the gateway:
//
//	go test -run '^$' -bench IdleSession -benchtime 200000x -timeout 30m ./router
func BenchmarkIdleSession(b *testing.B) {
	r := newRig(b, func(c *Config) { c.Rate, c.Burst = 1e6, 1e6 })
	before := heap()
	sessions := 0
	for i := 0; i < b.N; i++ {
		at := netip.AddrFrom4([4]byte{192, 0, byte(i >> 16), byte(i >> 8)})
		r.connect(2, path.Path{Peer: netip.AddrPortFrom(at, 1024+uint16(i))})
		sessions++
		if sessions%1000 == 0 {
			r.advance(11 * time.Second) // handshake records go
		}
	}
	b.StopTimer()
	r.advance(time.Minute) // expanded keys go
	r.advance(time.Minute)
	b.ReportMetric(float64(heap()-before)/float64(sessions), "B/session")
	if got := r.shard.Stats().Sessions; got != uint64(sessions) {
		b.Fatalf("%d sessions, want %d", got, sessions)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC() // dropped ciphers are erased by finalizers
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
