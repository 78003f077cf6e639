package udp

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lewes/state/path"
	"lewes/transport"
)

// cpu returns the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkManyFlows sends a datagram by each of a thousand connected sockets in turn, which
// package net's poller watches, or a Poller. What counts is the processor time of
// the whole process: a poller that is woken for nothing shows in no other figure.
func BenchmarkManyFlows(b *testing.B) {
	for _, polled := range []bool{false, true} {
		name := "net"
		if polled {
			name = "polled"
		}
		b.Run(name, func(b *testing.B) {
			sink := listenOn(b, loopbacks[0], Options{ReceiveBuffer: 4 << 10}) // full at once: nobody reads
			p := polling(b, discard{})
			conns := make([]*Conn, 1000)
			for i := range conns {
				conns[i] = dialTo(b, sink.LocalAddrPort(), Options{Pooled: true, Fragment: true})
				if !polled {
					go drain(conns[i])
				} else if err := p.Adopt(conns[i], i); err != nil {
					b.Fatal(err)
				}
			}
			sent := packetsOf(path.Path{}, 1200)
			b.ReportAllocs()
			before := cpu(b)
			for i := 0; b.Loop(); i++ {
				if _, err := conns[i%len(conns)].WriteBatch(sent); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

func drain(c *Conn) {
	batch := make([]transport.Packet, 1)
	for {
		if _, err := c.ReadBatch(batch); err != nil {
			return
		}
	}
}

// polling runs a Poller until the test ends.
func polling(t testing.TB, h Handler) *Poller {
	t.Helper()
	p, err := NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() { done <- p.Run(h) }()
	t.Cleanup(func() {
		p.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		p.Close()
	})
	return p
}

// discard is a Handler that wants nothing.
type discard struct{}

func (discard) Received(any, []transport.Packet) {}
func (discard) Failed(any, error)                {}
func (discard) Done()                            {}
