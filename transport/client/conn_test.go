package client_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/client"
)

// connected runs f with a session and a flow on it.
func connected(t *testing.T, f func(t *testing.T, w *world, s *client.Session, c net.Conn)) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.dial(w.config())
		defer w.closes(s)
		f(t, w, s, flowTo(t, s, "203.0.113.7:53"))
	})
}

func TestConnAddresses(t *testing.T) {
	connected(t, func(t *testing.T, w *world, s *client.Session, _ net.Conn) {
		for _, row := range []struct{ network, address, want string }{
			{"udp", "203.0.113.7:53", "203.0.113.7:53"},
			{"udp4", "203.0.113.7:53", "203.0.113.7:53"},
			{"udp", "[2001:db8::5]:53", "[2001:db8::5]:53"},
			{"udp6", "[2001:db8:0::5]:53", "[2001:db8::5]:53"},
			{"udp", "[::ffff:203.0.113.7]:53", "203.0.113.7:53"},
			{"udp4", "[::ffff:203.0.113.7]:53", "203.0.113.7:53"},
			{"udp", "dns.example.com:53", "dns.example.com:53"},
			{"udp6", "dns.example.com:domain", "dns.example.com:53"},
		} {
			c, err := s.DialContext(t.Context(), row.network, row.address)
			if err != nil {
				t.Errorf("%s %s: %v", row.network, row.address, err)
				continue
			}
			if a := c.RemoteAddr(); a.String() != row.want || a.Network() != "udp" {
				t.Errorf("%s %s: remote address %s %s", row.network, row.address, a.Network(), a)
			}
			if _, ok := c.LocalAddr().(*net.UDPAddr); !ok {
				t.Errorf("local address %T", c.LocalAddr())
			}
			exchange(t, c, row.address)
			seen := w.g.arrivals()
			if len(seen) != 1 || seen[0].target.String() != row.want || !seen[0].named {
				t.Errorf("%s %s: the gateway saw %+v", row.network, row.address, seen)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestConnAddressErrors(t *testing.T) {
	connected(t, func(t *testing.T, _ *world, s *client.Session, _ net.Conn) {
		for _, row := range []struct {
			network, address, words string
			is                      error
		}{
			{"tcp", "203.0.113.7:53", "unknown network tcp", net.UnknownNetworkError("tcp")},
			{"udp", "203.0.113.7", "missing port", nil},
			{"udp", "203.0.113.7:0", "port 0", client.ErrTarget},
			{"udp", "203.0.113.7:65536", "port", nil},
			{"udp", ":53", "no host", client.ErrTarget},
			{"udp4", "[2001:db8::5]:53", "2001:db8::5 is not an address for udp4", client.ErrTarget},
			{"udp6", "203.0.113.7:53", "203.0.113.7 is not an address for udp6", client.ErrTarget},
			{"udp", "[fe80::1%eth0]:53", "zone", client.ErrTarget},
			{"udp", "127.1:53", "neither an IP address nor a host name", client.ErrTarget},
			{"udp", "bücher.example:53", "xn--", client.ErrTarget},
		} {
			c, err := s.DialContext(t.Context(), row.network, row.address)
			var op *net.OpError
			if err == nil || !errors.As(err, &op) || op.Op != "dial" || !strings.Contains(err.Error(), row.words) || row.is != nil && !errors.Is(err, row.is) {
				t.Errorf("%s %s: %v, %v", row.network, row.address, c, err)
			}
		}
		if n := s.Stats().Flows; n != 1 {
			t.Errorf("%d flows left by failed dials", n-1)
		}
	})
}

// The limit is constant for a flow, and exact.
func TestSizeLimit(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.g.with(func() { w.g.config.Session.Terms.MaxDatagram = 1300 })
		for _, row := range []struct {
			target              string
			maxPacket, overhead int
		}{
			{"203.0.113.7:53", 0, 34 + 3 + 7},
			{"[2001:db8::1]:53", 0, 34 + 3 + 19},
			{"dns.example.com:53", 0, 34 + 3 + 1 + 1 + 15 + 2},
			{"203.0.113.7:53", 1200, 34 + 3 + 7},
		} {
			config := w.config()
			config.MaxPacket = row.maxPacket
			s := w.dial(config)
			time.Sleep(time.Second) // the gateway's terms come right behind the handshake
			limit := 1300 - row.overhead
			if row.maxPacket != 0 {
				limit = row.maxPacket - row.overhead
			}
			c := flowTo(t, s, row.target)
			if got := c.(interface{ MaxPayload() int }).MaxPayload(); got != limit {
				t.Errorf("%s: MaxPayload %d, want %d", row.target, got, limit)
			}
			for range 3 {
				_, err := c.Write(make([]byte, limit+1))
				var size *client.SizeError
				if !errors.As(err, &size) || *size != (client.SizeError{Target: row.target, Size: limit + 1, Limit: limit}) || !errors.Is(err, syscall.EMSGSIZE) {
					t.Fatalf("%s: %v", row.target, err)
				}
				if !strings.Contains(err.Error(), fmt.Sprintf("the limit is %d", limit)) {
					t.Errorf("the error: %v", err)
				}
				exchange(t, c, strings.Repeat("x", limit))
			}
			largest := 0
			for _, a := range w.g.arrivals() {
				largest = max(largest, a.size)
			}
			if largest != limit+row.overhead {
				t.Errorf("%s: the largest packet had %d bytes, want %d", row.target, largest, limit+row.overhead)
			}
			w.closes(s)
		}
	})
}

// narrow is a Conn over an interface with an MTU of 1400 bytes.
type narrow struct{ transport.Conn }

func (n narrow) WriteBatch(p []transport.Packet) (int, error) {
	failed := transport.SendError{Err: transport.ErrTooLarge}
	for i := range p {
		if len(p[i].Data) > 1400 {
			failed.Index, failed.Failed = i, failed.Failed+1
		} else if _, err := n.Conn.WriteBatch(p[i : i+1]); err != nil {
			return i, err
		}
	}
	if failed.Failed > 0 {
		return len(p) - failed.Failed, &failed
	}
	return len(p), nil
}

// A Write that exceeds the interface's MTU returns an error.
func TestInterfaceMTUError(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		config := w.config()
		config.Underlay = func(ctx context.Context, to netip.AddrPort) (transport.Conn, error) {
			c, err := w.net.dial(ctx, to)
			return narrow{c}, err
		}
		s := w.dial(config)
		defer w.closes(s)
		c := flowTo(t, s, "203.0.113.7:53")
		_, err := c.Write(make([]byte, 1400))
		if !errors.Is(err, syscall.EMSGSIZE) || !errors.Is(err, transport.ErrTooLarge) || !strings.Contains(err.Error(), "exceeds the interface's MTU") {
			t.Errorf("write: %v", err)
		}
		exchange(t, c, strings.Repeat("x", 1300))
		for range 20 {
			_, _ = c.Write(make([]byte, 1400))
			time.Sleep(time.Second)
			exchange(t, c, "and on")
		}
		if got := s.Info().MaxPacket; got > 1400 || got < 1300 {
			t.Errorf("%d bytes are believed to fit", got)
		}
	})
}

// A PMTU black hole is detected even if every packet is too large, so that nothing returns.
func TestPMTUBlackHoleDetectedBySender(t *testing.T) {
	const most = 1300
	connected(t, func(t *testing.T, w *world, s *client.Session, c net.Conn) {
		w.net.losing(func(_, _ netip.AddrPort, p []byte) bool { return len(p) > most })
		time.Sleep(time.Second) // nothing of the handshake is on its way any more
		limit := func() int { return c.(interface{ MaxPayload() int }).MaxPayload() }
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end) && s.Info().MaxPacket > most; time.Sleep(100 * time.Millisecond) {
			write(t, c, strings.Repeat("x", limit()))
		}
		if got := s.Info().MaxPacket; got > most || got < 1232 {
			t.Fatalf("packets of %d bytes are believed to fit; the path takes %d", got, most)
		}
		exchange(t, c, strings.Repeat("y", limit()))
	})
}

func TestShortReadBufferTruncates(t *testing.T) {
	connected(t, func(t *testing.T, _ *world, _ *client.Session, c net.Conn) {
		write(t, c, "long one")
		write(t, c, "next")
		b := make([]byte, 4)
		if n, err := c.Read(b); n != 4 || err != nil || string(b) != "long" {
			t.Errorf("read %q, %v", b[:n], err)
		}
		if n, err := c.Read(b); n != 4 || err != nil || string(b) != "next" {
			t.Errorf("the rest of a datagram was kept: %q, %v", b[:n], err)
		}
		if n, err := c.Write(nil); n != 0 || err != nil {
			t.Error(err)
		}
		if n, err := c.Read(b); n != 0 || err != nil {
			t.Errorf("an empty datagram: %d, %v", n, err)
		}
	})
}

func TestDeadlines(t *testing.T) {
	connected(t, func(t *testing.T, w *world, _ *client.Session, c net.Conn) {
		read := func() (time.Duration, error) {
			began := time.Now()
			_, err := c.Read(make([]byte, 9))
			return time.Since(began), err
		}
		past := time.Unix(1, 0)
		set := func(err error) {
			if err != nil {
				t.Error(err)
			}
		}
		// Ahead, passed, and still passed.
		set(c.SetReadDeadline(time.Now().Add(time.Second)))
		for want := time.Second; want >= 0; want -= time.Second {
			took, err := read()
			var timeout net.Error
			if took != want || !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Errorf("read after %s: %v", took, err)
			}
		}
		// In the past, also where something waits.
		set(c.SetDeadline(time.Time{}))
		write(t, c, "waiting")
		time.Sleep(time.Second)
		set(c.SetReadDeadline(past))
		if _, err := read(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("with a datagram there: %v", err)
		}
		set(c.SetReadDeadline(time.Time{}))
		expect(t, c, "waiting")
		// Moved while a read waits: later, then at once.
		set(c.SetReadDeadline(time.Now().Add(time.Second)))
		time.AfterFunc(500*time.Millisecond, func() { set(c.SetReadDeadline(time.Now().Add(2 * time.Second))) })
		time.AfterFunc(1500*time.Millisecond, func() { set(c.SetDeadline(past)) })
		if took, err := read(); took != 1500*time.Millisecond || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("moved deadline: %v after %s", err, took)
		}
		// Writes heed theirs.
		if _, err := c.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v", err)
		}
		set(c.SetWriteDeadline(time.Now().Add(time.Second)))
		write(t, c, "in time")
		time.Sleep(time.Second)
		if _, err := c.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v", err)
		}
		set(c.SetDeadline(time.Time{}))
		expect(t, c, "in time")
		exchange(t, c, "and on")
		if a := w.g.arrivals(); len(a) != 3 {
			t.Errorf("%d datagrams were sent", len(a))
		}
	})
}

func TestConnClose(t *testing.T) {
	connected(t, func(t *testing.T, w *world, s *client.Session, c net.Conn) {
		exchange(t, c, "hello")
		write(t, c, "unread")
		time.Sleep(time.Second)
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		for name, f := range map[string]func() error{
			"Read":             func() error { _, err := c.Read(make([]byte, 9)); return err },
			"Write":            func() error { _, err := c.Write(nil); return err },
			"Close":            func() error { return c.Close() },
			"SetDeadline":      func() error { return c.SetDeadline(time.Time{}) },
			"SetReadDeadline":  func() error { return c.SetReadDeadline(time.Time{}) },
			"SetWriteDeadline": func() error { return c.SetWriteDeadline(time.Time{}) },
		} {
			var op *net.OpError
			if err := f(); !errors.Is(err, net.ErrClosed) || !errors.As(err, &op) || op.Addr != c.RemoteAddr() {
				t.Errorf("%s: %v", name, err)
			}
		}
		time.Sleep(time.Second)
		w.g.with(func() {
			if len(w.g.flows) != 0 || len(w.g.told) != 1 || w.g.told[0].Reason != wire.FlowIdle {
				t.Errorf("the gateway has %d flows and was told %v", len(w.g.flows), w.g.told)
			}
		})
		if n := s.Stats().Flows; n != 0 {
			t.Errorf("%d flows", n)
		}

		// A gateway that continues to send on the flow gets another FlowClosed, rate-limited.
		id := w.g.told[0].FlowID
		for range 30 {
			w.g.with(func() {
				_ = w.g.only().Send(wire.TypeEncryptedData, &wire.EncryptedData{FlowID: id, Payload: []byte("more")}, &w.g.out)
			})
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Second)
		w.g.with(func() {
			if n := len(w.g.told) - 1; n < 2 || n > 4 {
				t.Errorf("told %d times within 3 s", n)
			}
		})
	})
}

func TestCloseWhileReadingAndWriting(t *testing.T) {
	connected(t, func(t *testing.T, _ *world, _ *client.Session, c net.Conn) {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for {
					if _, err := c.Read(make([]byte, 9)); err != nil {
						if !errors.Is(err, net.ErrClosed) {
							t.Errorf("read: %v", err)
						}
						return
					}
				}
			})
			wg.Go(func() {
				for {
					if _, err := c.Write([]byte("x")); err != nil {
						if !errors.Is(err, net.ErrClosed) {
							t.Errorf("write: %v", err)
						}
						return
					}
					time.Sleep(time.Millisecond)
				}
			})
			wg.Go(func() {
				for range 100 {
					_ = c.SetDeadline(time.Now().Add(time.Hour))
					_, _ = c.LocalAddr(), c.RemoteAddr()
					time.Sleep(time.Millisecond)
				}
			})
		}
		time.Sleep(200 * time.Millisecond)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
}

// A full receive queue drops the oldest datagrams and counts them.
func TestFullReceiveQueueDropsOldest(t *testing.T) {
	connected(t, func(t *testing.T, _ *world, s *client.Session, c net.Conn) {
		const sent, kept = 300, 256
		for i := range sent {
			write(t, c, fmt.Sprint(i))
		}
		time.Sleep(time.Second)
		for i := range kept {
			expect(t, c, fmt.Sprint(sent-kept+i))
		}
		if got := s.Stats().Overflowed; got != sent-kept {
			t.Errorf("%d datagrams gave way, want %d", got, sent-kept)
		}
		exchange(t, c, "and on")
	})
}

// Forged packets have no effect but on a counter.
func TestGarbageIsDiscarded(t *testing.T) {
	connected(t, func(t *testing.T, w *world, s *client.Session, c net.Conn) {
		exchange(t, c, "before")
		r := rand.New(rand.NewPCG(1, 2))
		w.net.losing(func(netip.AddrPort, netip.AddrPort, []byte) bool { return r.IntN(3) == 0 })
		local := s.Info().Local.(*net.UDPAddr).AddrPort()
		gateway := &memConn{net: w.net, local: w.g.at}
		index := w.g.only().Current().Index()
		mac := macOf(w.g)
		for _, p := range [][]byte{
			nil,
			make([]byte, 33),
			make([]byte, 1501),
			make([]byte, 100),
			forge(mac, index, wire.TypeHeld, &wire.Empty{}),
			forge(mac, index, wire.TypeReject, &wire.Reject{Code: wire.RejectShuttingDown}),
			wire.Finish(wire.Begin(nil, index, wire.LevelClear, 0, wire.TypeHeld)), // no MAC1
			wire.Finish(wire.Begin(nil, index, wire.LevelTransport, 9, wire.TypeClose)),
			wire.Finish(wire.Begin(nil, index, wire.LevelHandshake, 0, wire.TypeClose)),
		} {
			w.net.carry(gateway, local, p)
		}
		received := 0
		for i := range 30 {
			write(t, c, fmt.Sprint(i))
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := c.Read(make([]byte, 9)); err == nil {
				received++
			}
		}
		if received < 5 || received > 25 {
			t.Errorf("%d of 30 came back", received)
		}
		if w.happened() != "connected" {
			t.Errorf("events: %s", w.happened())
		}
		if s.Stats().Discarded == 0 {
			t.Error("nothing was counted")
		}
	})
}
