//go:build linux

package sink

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"lewes/bench/measure"
)

func newSink(t *testing.T) *Sink {
	t.Helper()
	s, err := New(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func dial(t *testing.T, s *Sink) *net.UDPConn {
	t.Helper()
	c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(s.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func send(t *testing.T, c *net.UDPConn, run uint32, size int) {
	t.Helper()
	b := make([]byte, size)
	measure.PutHeader(b, run, measure.Now())
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

func TestCountsOneRun(t *testing.T) {
	s := newSink(t)
	c := dial(t, s)
	s.Expect(7)
	for range 3 {
		send(t, c, 7, 100)
	}
	send(t, c, 6, 100) // of the run before
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	until(t, "five datagrams did not come", func() bool { n := s.Count(); return n.Datagrams+n.Foreign == 5 })
	n := s.Count()
	if n.Datagrams != 3 || n.Bytes != 300 || n.Foreign != 2 || n.Last == 0 || n.Delays.N != 3 || n.Delays.P50 <= 0 {
		t.Errorf("%+v", n)
	}
	if s.Sources() != 0 {
		t.Error("a flow was opened by a datagram that does not open one")
	}
	s.Expect(8)
	if n := s.Count(); n != (Count{}) {
		t.Errorf("after starting anew: %+v", n)
	}
}

func TestSendsBackToEveryFlow(t *testing.T) {
	s := newSink(t)
	plan := measure.Plan{Run: 9, Rate: 6_000, For: 50 * time.Millisecond, Size: 200, Train: 4}
	if _, err := s.Send(t.Context(), plan); !errors.Is(err, ErrNoFlows) {
		t.Errorf("without flows: %v", err)
	}
	var flows []*net.UDPConn
	for range 3 {
		c := dial(t, s)
		send(t, c, measure.OpeningRun, 50)
		send(t, c, measure.OpeningRun, 50) // a flow is opened once, however often it says so
		flows = append(flows, c)
	}
	until(t, "the flows did not open", func() bool { return s.Sources() == 3 })
	for _, apart := range []bool{false, true} {
		plan.Single = apart
		result, err := s.Send(t.Context(), plan)
		if err != nil {
			t.Fatal(err)
		}
		if result.Sent == 0 || result.Sent > 330 {
			t.Errorf("%d sent, at most 300 were due", result.Sent)
		}
		var got uint64
		buffer := make([]byte, 2000)
		for _, c := range flows {
			one := uint64(0)
			for want := result.Sent / 3; one < want+8 && got+one < result.Sent; {
				wait := 20 * time.Second
				if one >= want-min(want, 8) { // this flow may have all of its datagrams
					wait = 50 * time.Millisecond
				}
				_ = c.SetReadDeadline(time.Now().Add(wait))
				n, err := c.Read(buffer)
				if err != nil {
					break
				}
				run, at, ok := measure.Header(buffer[:n])
				if n != 200 || run != 9 || !ok || at <= 0 || !bytes.Equal(buffer[measure.HeaderSize:n], make([]byte, n-measure.HeaderSize)) {
					t.Fatalf("a datagram of %d bytes, run %d, %v", n, run, ok)
				}
				one++
			}
			if one < result.Sent/3-8 || one > result.Sent/3+8 {
				t.Errorf("a flow got %d of %d", one, result.Sent)
			}
			got += one
		}
		if got != result.Sent {
			t.Errorf("%d arrived of %d", got, result.Sent)
		}
	}
	if n := s.Count(); n.Datagrams != 0 {
		t.Errorf("what opens flows was counted: %+v", n)
	}
}
