package client_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"lewes/state/wire"
	"lewes/transport/client"
)

func listening(t *testing.T, f func(t *testing.T, w *world, s *client.Session, p net.PacketConn)) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.dial(w.config())
		defer w.closes(s)
		p, err := s.ListenPacket()
		if err != nil {
			t.Fatal(err)
		}
		f(t, w, s, p)
	})
}

func target(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(n >> 8)}), uint16(1000+n))
}

func writeTo(t testing.TB, p net.PacketConn, to net.Addr, text string) {
	t.Helper()
	if n, err := p.WriteTo([]byte(text), to); err != nil || n != len(text) {
		t.Fatalf("writing %q to %s: %d, %v", text, to, n, err)
	}
}

func expectFrom(t testing.TB, p net.PacketConn, from net.Addr, text string) {
	t.Helper()
	b := make([]byte, 2000)
	_ = p.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, a, err := p.ReadFrom(b)
	if err != nil || string(b[:n]) != text || a.String() != from.String() || a.Network() != from.Network() {
		t.Fatalf("read %q from %v, %v; want %q from %s", b[:n], a, err, text, from)
	}
	_ = p.SetReadDeadline(time.Time{})
}

// netipAddr is a foreign address type with an AddrPort method.
type netipAddr struct{ at netip.AddrPort }

func (netipAddr) Network() string            { return "udp" }
func (a netipAddr) String() string           { return a.at.String() }
func (a netipAddr) AddrPort() netip.AddrPort { return a.at }

func TestPacketConnAddresses(t *testing.T) {
	listening(t, func(t *testing.T, w *world, s *client.Session, p net.PacketConn) {
		v4, v6 := netip.MustParseAddrPort("203.0.113.7:53"), netip.MustParseAddrPort("[2001:db8::1]:53")
		for _, to := range []net.Addr{
			net.UDPAddrFromAddrPort(v4),
			&net.UDPAddr{IP: net.ParseIP("203.0.113.7"), Port: 53}, // 16 bytes of address, the same target
			netipAddr{v4},
			net.UDPAddrFromAddrPort(v6),
			netipAddr{v6},
			client.NameAddr{Host: "dns.example.com", Port: 53},
			&client.NameAddr{Host: "dns.example.com", Port: 53},
		} {
			writeTo(t, p, to, to.String())
			expectFrom(t, p, to, to.String())
		}
		if n := s.Stats().Flows; n != 3 {
			t.Errorf("%d flows for three targets", n)
		}
		for _, to := range []net.Addr{
			nil,
			(*net.UDPAddr)(nil),
			(*client.NameAddr)(nil),
			&net.TCPAddr{IP: net.IPv4zero},
			&net.UDPAddr{Port: 53},
			&net.UDPAddr{IP: net.ParseIP("203.0.113.7")},
			&net.UDPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0", Port: 53},
			&net.UnixAddr{Name: "x"},
			client.NameAddr{Host: "127.1", Port: 53},
			client.NameAddr{Host: "dns.example.com"},
			client.NameAddr{},
		} {
			var op *net.OpError
			if _, err := p.WriteTo(nil, to); !errors.Is(err, client.ErrTarget) || !errors.As(err, &op) || op.Op != "write" {
				t.Errorf("%T %v: %v", to, to, err)
			}
		}

		direct := p.(interface {
			ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
			WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
		})
		for _, to := range []netip.AddrPort{v4, v6} {
			if n, err := direct.WriteToUDPAddrPort([]byte("x"), to); n != 1 || err != nil {
				t.Error(err)
			}
			if n, from, err := direct.ReadFromUDPAddrPort(make([]byte, 9)); n != 1 || from != to || err != nil {
				t.Errorf("read from %v, %v", from, err)
			}
		}
		if _, err := direct.WriteToUDPAddrPort(nil, netip.AddrPort{}); !errors.Is(err, client.ErrTarget) {
			t.Error(err)
		}
	})
}

// A refused target doesn't affect the others.
func TestPacketConnReportsRefusalOnWrite(t *testing.T) {
	listening(t, func(t *testing.T, w *world, _ *client.Session, p net.PacketConn) {
		good, bad, gone := net.UDPAddrFromAddrPort(target(1)), net.UDPAddrFromAddrPort(target(2)), net.UDPAddrFromAddrPort(target(3))
		w.g.answer = func(a arrival) ([][]byte, wire.FlowReason) {
			switch a.target.Port {
			case uint16(bad.Port):
				return nil, wire.FlowPolicy
			case uint16(gone.Port):
				return nil, wire.FlowUnreachable
			}
			return [][]byte{[]byte(a.payload)}, 0
		}
		writeTo(t, p, bad, "no")
		writeTo(t, p, gone, "nobody")
		writeTo(t, p, good, "yes")
		expectFrom(t, p, good, "yes")
		writeTo(t, p, gone, "nobody")
		time.Sleep(100 * time.Millisecond)
		var flow *client.FlowError
		if _, err := p.WriteTo([]byte("again"), bad); !errors.As(err, &flow) || flow.Reason != client.ReasonPolicy || flow.Target != bad.String() {
			t.Errorf("the next write: %v", err)
		}
		// And the one after that asks again.
		w.g.with(func() { w.g.answer = nil })
		writeTo(t, p, bad, "please")
		expectFrom(t, p, bad, "please")
	})
}

// With more targets than flows, the least recently used flow is evicted, and returns under
// its former id.
func TestPacketConnEvictsLeastRecentlyUsed(t *testing.T) {
	listening(t, func(t *testing.T, w *world, s *client.Session, p net.PacketConn) {
		own := flowTo(t, s, "203.0.113.255:7") // never evicted
		exchange(t, own, "mine")
		const n = client.MaxFlows + 10
		talk := func(i int) {
			t.Helper()
			to := net.UDPAddrFromAddrPort(target(i))
			writeTo(t, p, to, fmt.Sprint(i))
			expectFrom(t, p, to, fmt.Sprint(i))
			time.Sleep(time.Millisecond)
		}
		for i := range client.MaxFlows - 1 {
			talk(i)
		}
		talk(0) // used again: 1 is the oldest now
		for i := client.MaxFlows - 1; i < n; i++ {
			talk(i)
		}
		if got := s.Stats().Flows; got != client.MaxFlows {
			t.Errorf("%d flows", got)
		}
		ids := func() map[string]uint16 {
			m := make(map[string]uint16)
			for _, a := range w.g.arrivals() {
				m[a.target.String()] = a.id
			}
			return m
		}
		before := ids()
		w.g.with(func() {
			if len(w.g.flows) != client.MaxFlows || len(w.g.told) != 11 {
				t.Errorf("the gateway has %d flows and was told of the end of %d", len(w.g.flows), len(w.g.told))
			}
			for _, told := range w.g.told {
				if id := told.FlowID; id == before[target(0).String()] {
					t.Error("the one used lately gave way")
				}
			}
		})
		for i := range n { // all of them again and again
			talk(i)
		}
		for to, id := range ids() {
			if before[to] != id {
				t.Errorf("%s had id %d and has %d", to, before[to], id)
			}
		}
		exchange(t, own, "still mine")
	})
}

// Flows of DialContext are not evicted.
func TestPacketConnFlowLimit(t *testing.T) {
	listening(t, func(t *testing.T, _ *world, s *client.Session, p net.PacketConn) {
		for i := range client.MaxFlows {
			flowTo(t, s, target(i).String())
		}
		var flow *client.FlowError
		if _, err := p.WriteTo(nil, net.UDPAddrFromAddrPort(target(999))); !errors.As(err, &flow) || flow.Reason != client.ReasonLimit {
			t.Errorf("write: %v", err)
		}
	})
}

func TestPacketConnDeadlinesAndClose(t *testing.T) {
	listening(t, func(t *testing.T, w *world, s *client.Session, p net.PacketConn) {
		to := net.UDPAddrFromAddrPort(target(1))
		began := time.Now()
		if err := p.SetReadDeadline(began.Add(time.Second)); err != nil {
			t.Error(err)
		}
		if _, _, err := p.ReadFrom(nil); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Second {
			t.Errorf("read after %s: %v", time.Since(began), err)
		}
		if err := p.SetDeadline(time.Unix(1, 0)); err != nil {
			t.Error(err)
		}
		if _, err := p.WriteTo(nil, to); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v", err)
		}
		if err := p.SetDeadline(time.Time{}); err != nil {
			t.Error(err)
		}
		writeTo(t, p, to, "hello")
		expectFrom(t, p, to, "hello")

		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if _, _, err := p.ReadFrom(make([]byte, 9)); !errors.Is(err, net.ErrClosed) {
					t.Errorf("read: %v", err)
				}
			})
			wg.Go(func() {
				for i := 0; ; i++ {
					if _, err := p.WriteTo(nil, net.UDPAddrFromAddrPort(target(i%9))); err != nil {
						if !errors.Is(err, net.ErrClosed) {
							t.Errorf("write: %v", err)
						}
						return
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		w.g.with(func() { w.g.answer = func(arrival) ([][]byte, wire.FlowReason) { return nil, 0 } })
		time.Sleep(time.Second)
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
		for name, f := range map[string]func() error{
			"Close":            p.Close,
			"SetDeadline":      func() error { return p.SetDeadline(time.Time{}) },
			"SetWriteDeadline": func() error { return p.SetWriteDeadline(time.Time{}) },
			"WriteTo":          func() error { _, err := p.WriteTo(nil, to); return err },
			"ReadFrom":         func() error { _, _, err := p.ReadFrom(nil); return err },
		} {
			if err := f(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if n := s.Stats().Flows; n != 0 {
			t.Errorf("%d flows left", n)
		}
		if _, ok := p.LocalAddr().(*net.UDPAddr); !ok {
			t.Errorf("local address %T", p.LocalAddr())
		}
	})
}
