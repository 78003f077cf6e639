package e2e

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"lewes/bench/measure"
	"lewes/bench/worker"
)

const targetRole = "target"

// targetParams is the address of a target.
type targetParams struct{ At netip.AddrPort }

// heard is what a target received.
type heard struct {
	At      []int64 // when each number arrived first, by measure.Now; 0: never
	Again   int     // repeated datagrams
	Changed int     // modified datagrams
}

// runTarget is an echo target behind the gateway. Its calls are "heard", and "push", which makes
// it send datagrams at a rate to its last sender.
var runTarget = worker.Start(func(_ context.Context, p targetParams) (*worker.Service, error) {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(p.At))
	if err != nil {
		return nil, err
	}
	t := &echo{conn: conn, quit: make(chan struct{})}
	t.running.Go(t.run)
	return &worker.Service{
		Result: worker.None{},
		Close: func() {
			close(t.quit)
			_ = conn.Close()
			t.running.Wait()
		},
		Calls: map[string]worker.Handler{
			"heard": worker.Method(func(context.Context, worker.None) (heard, error) { return t.take(), nil }),
			"push": worker.Method(func(_ context.Context, rate int) (worker.None, error) {
				t.running.Go(func() { t.push(rate) })
				return worker.None{}, nil
			}),
		},
	}, nil
})

type echo struct {
	conn    *net.UDPConn
	running sync.WaitGroup
	quit    chan struct{}

	mu   sync.Mutex
	got  heard
	last netip.AddrPort // the last sender
}

// push sends at a steady rate until the test ends.
func (t *echo) push(rate int) {
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	b := make([]byte, 200)
	for number := uint32(0); ; number++ {
		select {
		case <-t.quit:
			return
		case <-tick.C:
		}
		putDatagram(b, number)
		t.mu.Lock()
		to := t.last
		t.mu.Unlock()
		_, _ = t.conn.WriteToUDPAddrPort(b, to) // the test sees a loss
	}
}

func (t *echo) run() {
	buffer := make([]byte, 2048)
	for {
		n, from, err := t.conn.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return
		}
		t.note(buffer[:n], measure.Now(), from)
		_, _ = t.conn.WriteToUDPAddrPort(buffer[:n], from) // the test sees a loss
	}
}

func (t *echo) note(b []byte, now int64, from netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = from
	number, ok := datagramNumber(b)
	if !ok || number >= mostDatagrams {
		t.got.Changed++
		return
	}
	t.got.At = grown(t.got.At, int(number)+1)
	if t.got.At[number] != 0 {
		t.got.Again++
		return
	}
	t.got.At[number] = now
}

func (t *echo) take() heard {
	t.mu.Lock()
	defer t.mu.Unlock()
	return heard{append([]int64(nil), t.got.At...), t.got.Again, t.got.Changed}
}

// grown returns a slice with at least n elements.
func grown(s []int64, n int) []int64 {
	for len(s) < n {
		s = append(s, 0)
	}
	return s
}
