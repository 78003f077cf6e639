package world

import (
	"context"
	"net"
	"net/netip"
	"sync"

	"lewes/bench/measure"
	"lewes/bench/worker"
)

const targetRole = "target"

// targetParams say where a target is.
type targetParams struct{ At netip.AddrPort }

// heard is what came to a target.
type heard struct {
	At      []int64 // when each number came first, by measure.Now; 0: never
	Again   int     // datagrams that came once more
	Changed int     // datagrams that were not what was sent
}

// runTarget is a program far behind the gateway that sends back what it gets. The call
// "heard" says what came.
var runTarget = worker.Start(func(_ context.Context, p targetParams) (*worker.Service, error) {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(p.At))
	if err != nil {
		return nil, err
	}
	t := &echo{conn: conn}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		t.run()
	}()
	return &worker.Service{
		Result: worker.None{},
		Close: func() {
			_ = conn.Close()
			<-ended
		},
		Calls: map[string]worker.Handler{
			"heard": worker.Method(func(context.Context, worker.None) (heard, error) { return t.take(), nil }),
		},
	}, nil
})

type echo struct {
	conn *net.UDPConn
	mu   sync.Mutex
	got  heard
}

func (t *echo) run() {
	buffer := make([]byte, 2048)
	for {
		n, from, err := t.conn.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return
		}
		t.note(buffer[:n], measure.Now())
		_, _ = t.conn.WriteToUDPAddrPort(buffer[:n], from) // loss is for the test to see
	}
}

func (t *echo) note(b []byte, now int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
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
