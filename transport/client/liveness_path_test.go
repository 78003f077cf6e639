package client_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/client"
)

// streams makes the gateway send a datagram on each flow every 50 ms until the returned function is called.
func (w *world) streams() (stop func()) {
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-done:
				return
			case <-time.After(50 * time.Millisecond):
			}
			w.g.with(func() {
				for key := range w.g.flows {
					_ = key.session.Send(wire.TypeEncryptedData, &wire.EncryptedData{FlowID: key.id, Payload: []byte("stream")}, &w.g.out)
				}
			})
		}
	}()
	return func() { close(done); <-stopped }
}

// When packets no longer pass to the gateway, though a stream arrives from it, the client moves to TCP
// within 3 s and reports why.
//
// Shows R11.10.
func TestOneWayOutage(t *testing.T) {
	inWorldOfTwo(t, func(t *testing.T, w *world) {
		s := w.dial(w.configOfTwo())
		defer w.closes(s)
		c := flowTo(t, s, "203.0.113.7:53")
		exchange(t, c, "before")
		defer w.streams()()
		time.Sleep(3 * time.Second)
		w.net.losing(func(_, to netip.AddrPort, _ []byte) bool { return to == w.g.at })
		write(t, c, "a question")
		if took := w.until("TCP", 10*time.Second, over(s, client.TCP)); took > 2500*time.Millisecond {
			t.Errorf("over TCP after %s", took)
		}
		if e := w.lastEvent(client.PathChanged); !strings.Contains(e.Reason, "though packets arrive") || s.Info().TransportReason != e.Reason {
			t.Errorf("event: %+v", e)
		}
	})
}

// Without another path, what arrives unasked neither hides the outage nor ends it.
//
// Shows R11.10.
func TestStreamHidesNoOutage(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.dial(w.config())
		defer w.closes(s)
		c := flowTo(t, s, "203.0.113.7:53")
		exchange(t, c, "before")
		defer w.streams()()
		time.Sleep(3 * time.Second)
		w.net.losing(func(_, to netip.AddrPort, _ []byte) bool { return to == w.g.at })
		write(t, c, "a question")
		w.until("reconnecting", 5*time.Second, func() bool { return w.happened() == "connected reconnecting" })
		time.Sleep(65 * time.Second)
		if got := w.happened(); got != "connected reconnecting" {
			t.Errorf("events: %s", got)
		}
		w.net.losing(nil)
		w.until("reconnected", time.Second, func() bool { return strings.HasSuffix(w.happened(), "reconnected") })
	})
}

// denying is a Conn whose machine refuses to send.
type denying struct {
	transport.Conn
	denies *atomic.Bool
}

func (d *denying) WriteBatch(p []transport.Packet) (int, error) {
	if d.denies.Load() {
		return 0, &transport.SendError{Failed: len(p), Err: transport.ErrDenied}
	}
	return d.Conn.WriteBatch(p)
}

// A client whose machine refuses to send over UDP moves to TCP at once, and without TCP reports the
// reason and is not reconnected by what arrives.
//
// Shows R11.10.
func TestDeniedSending(t *testing.T) {
	for _, allowed := range []client.Transport{client.Auto, client.UDP} {
		inWorldOfTwo(t, func(t *testing.T, w *world) {
			denies := new(atomic.Bool)
			config := w.configOfTwo()
			config.Transport = allowed
			config.Underlay = func(ctx context.Context, to netip.AddrPort) (transport.Conn, error) {
				c, err := w.net.dial(ctx, to)
				return &denying{c, denies}, err
			}
			s := w.dial(config)
			defer w.closes(s)
			c := flowTo(t, s, "203.0.113.7:53")
			exchange(t, c, "before")
			defer w.streams()()
			time.Sleep(3 * time.Second)
			denies.Store(true)
			write(t, c, "a question")
			if allowed == client.Auto {
				w.until("TCP", 600*time.Millisecond, over(s, client.TCP))
				if e := w.lastEvent(client.PathChanged); !strings.Contains(e.Reason, "denied by this machine") {
					t.Errorf("event: %+v", e)
				}
				return
			}
			w.until("reconnecting", 5*time.Second, func() bool { return w.happened() == "connected reconnecting" })
			if e := w.lastEvent(client.Reconnecting); !errors.Is(e.Err, client.ErrSilent) || !errors.Is(e.Err, transport.ErrDenied) {
				t.Errorf("event: %+v", e)
			}
			time.Sleep(30 * time.Second)
			if got := w.happened(); got != "connected reconnecting" {
				t.Errorf("events: %s", got)
			}
			denies.Store(false)
			w.until("reconnected", 2*time.Second, func() bool { return strings.HasSuffix(w.happened(), "reconnected") })
		})
	}
}

// Over TCP, connections that the gateway closes stand for Pings, but for one each 10 s.
//
// Shows R11.9.
func TestFewPingsOverTCP(t *testing.T) {
	inWorldOfTwo(t, func(t *testing.T, w *world) {
		config := w.configOfTwo()
		config.Transport = client.TCP
		s := w.dial(config)
		defer w.closes(s)
		w.g.with(func() { w.g.answer = func(arrival) ([][]byte, wire.FlowReason) { return nil, 0 } })
		c := flowTo(t, s, "203.0.113.7:53")
		time.Sleep(time.Second)
		w.g.with(func() { w.g.pings = 0 })
		for range 600 {
			write(t, c, "no answer to this")
			time.Sleep(100 * time.Millisecond)
		}
		w.g.with(func() {
			if w.g.pings < 5 || w.g.pings > 7 {
				t.Errorf("%d Pings in a minute", w.g.pings)
			}
		})
		if got := w.happened(); got != "connected" {
			t.Errorf("events: %s", got)
		}
	})
}

// Only the innermost session of a chain asks. When the exit stops answering, the entry's session finds
// out that its own path works; when the entry does, it moves.
//
// Shows R11.11.
func TestInnermostSessionAsks(t *testing.T) {
	inWorldOfTwo(t, func(t *testing.T, w *world) {
		exit := w.gateway(2)
		defer exit.stop()
		w.g.forwardsTo(exit)
		config := w.configOfTwo()
		config.Via = append(config.Via, w.g.uri())
		config.Gateway = exit.uri()
		s := w.dial(config)
		defer w.closes(s)
		c := flowTo(t, s, "203.0.113.7:53")
		exchange(t, c, "hello")
		time.Sleep(time.Second)
		pings := func(g *gateway) (n int) {
			g.with(func() { n, g.pings = g.pings, 0 })
			return n
		}
		pings(w.g)
		pings(exit)
		for range 200 {
			write(t, c, "data")
			time.Sleep(50 * time.Millisecond)
		}
		if outer, inner := pings(w.g), pings(exit); outer > 0 || inner < 10 || inner > 34 {
			t.Errorf("%d Pings to the entry, %d to the exit in 10 s", outer, inner)
		}
		w.net.losing(func(_, to netip.AddrPort, _ []byte) bool { return to == exit.at })
		for range 40 {
			write(t, c, "data")
			time.Sleep(50 * time.Millisecond)
		}
		if s.Info().Transport != client.UDP || pings(w.g) == 0 {
			t.Errorf("the exit is away: over %s, because %q", s.Info().Transport, s.Info().TransportReason)
		}
		w.net.losing(nil)
		time.Sleep(5 * time.Second)
		w.block()
		took := w.until("TCP", 10*time.Second, func() bool {
			write(t, c, "data")
			time.Sleep(40 * time.Millisecond)
			return s.Info().Transport == client.TCP
		})
		if took > 3500*time.Millisecond {
			t.Errorf("over TCP after %s", took)
		}
	})
}
