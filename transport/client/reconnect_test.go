package client_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lewes/crypto/identity"
	"lewes/state"
	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/client"
)

// A gateway that has lost the session does not answer Held: the client's handshake beside the old
// session succeeds, and its flows continue.
//
// Shows R11.1, R11.4.
func TestRestartTriggersReconnect(t *testing.T) {
	connected(t, func(t *testing.T, w *world, s *client.Session, c net.Conn) {
		exchange(t, c, "before")
		time.Sleep(time.Minute)
		first := s.Info()
		w.g.restart()
		write(t, c, "lost")
		time.Sleep(2 * time.Second)
		exchange(t, c, "after")
		if got := w.happened(); got != "connected reconnecting reconnected" {
			t.Errorf("events: %s", got)
		}
		if e := w.lastEvent(client.Reconnecting); !errors.Is(e.Err, client.ErrSilent) || e.Gateway != first.Gateway {
			t.Errorf("event: %+v", e)
		}
		info := s.Info()
		if info.Handle == first.Handle || info.Down != nil || s.Stats().Reconnects != 1 {
			t.Errorf("info: %+v", info)
		}
		if s.Err() != nil {
			t.Errorf("error: %v", s.Err())
		}

		// At most one handshake in 10 s.
		w.g.restart()
		began := time.Now()
		for w.happened() != "connected reconnecting reconnected reconnecting reconnected" {
			write(t, c, "again?")
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(began); took < 7*time.Second || took > 12*time.Second {
			t.Errorf("reconnected after %s", took)
		}
		exchange(t, flowTo(t, s, "203.0.113.9:53"), "again")
	})
}

// The keepalive of an idle client detects the loss.
func TestIdleClientDetectsRestart(t *testing.T) {
	connected(t, func(t *testing.T, w *world, _ *client.Session, c net.Conn) {
		exchange(t, c, "before")
		time.Sleep(time.Minute)
		w.g.restart()
		time.Sleep(2 * client.DefaultKeepalive)
		exchange(t, c, "after")
		if got := w.happened(); got != "connected reconnecting reconnected" {
			t.Errorf("events: %s", got)
		}
	})
}

// A gateway that responds again continues the same session.
//
// Shows R11.4.
func TestReconnectStopsWhenGatewayResponds(t *testing.T) {
	connected(t, func(t *testing.T, w *world, s *client.Session, c net.Conn) {
		exchange(t, c, "before")
		w.net.losing(func(_, to netip.AddrPort, _ []byte) bool { return to == w.g.at })
		write(t, c, "lost")
		time.Sleep(4 * client.DefaultKeepalive) // keepalive finds out
		if got := w.happened(); got != "connected reconnecting" {
			t.Errorf("events: %s", got)
		}
		if down := s.Info().Down; down == nil || !strings.Contains(down.Error(), "UDP is blocked") {
			t.Errorf("down: %v", down)
		}
		handle := s.Info().Handle
		// Sealed packets pass again, hellos do not.
		w.net.losing(func(_, to netip.AddrPort, p []byte) bool { return to == w.g.at && !isSealed(p) })
		write(t, c, "sealed")
		time.Sleep(30 * time.Second)
		if got := w.happened(); got != "connected reconnecting reconnected" {
			t.Errorf("events: %s", got)
		}
		if s.Info().Handle != handle || s.Info().Down != nil {
			t.Error("the session is another")
		}
		expect(t, c, "sealed")
	})
}

// Reconnects to a gateway that is down resolve its name each time.
func TestReconnectResolvesAgain(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		dns := names("gw.example.com", w.g.at.Addr())
		config := w.config()
		config.Gateway.Host, config.Resolver = "gw.example.com", dns
		s := w.dial(config)
		defer w.closes(s)
		c := flowTo(t, s, "203.0.113.7:53")
		exchange(t, c, "before")
		w.g.with(func() { w.g.only().Close(wire.CloseShuttingDown, "maintenance", &w.g.out) })
		time.Sleep(100 * time.Millisecond)
		w.g.stop() // its port refuses from here on
		write(t, c, "lost")
		time.Sleep(5 * time.Minute)
		if got := w.happened(); got != "connected reconnecting" {
			t.Errorf("events: %s", got)
		}
		var closed *state.PeerClosedError
		if e := w.lastEvent(client.Reconnecting); !errors.As(e.Err, &closed) || closed.Reason != wire.CloseShuttingDown || closed.Detail != "maintenance" {
			t.Errorf("event: %+v", e)
		}
		if down := s.Info().Down; !errors.Is(down, transport.ErrRefused) {
			t.Errorf("down: %v", down)
		}
		if s.Err() != nil {
			t.Errorf("error: %v", s.Err())
		}
		if n := s.Stats().Unsent; n != 1 {
			t.Errorf("%d datagrams unsent", n)
		}
		// The same gateway comes up elsewhere.
		moved := newGateway(t, 1, w.net.listen(gatewayAddr(9)), nil)
		defer moved.stop()
		dns.set("gw.example.com", gatewayAddr(9).Addr())
		time.Sleep(45 * time.Second)
		exchange(t, c, "after")
		if got := w.happened(); got != "connected reconnecting reconnected" {
			t.Errorf("events: %s", got)
		}
	})
}

// The backoff grows to a bound.
func TestReconnectIntervals(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var tries []time.Time
		config := w.config()
		fail := false
		config.Underlay = func(ctx context.Context, to netip.AddrPort) (transport.Conn, error) {
			tries = append(tries, time.Now())
			if fail {
				return nil, transport.ErrUnreachable
			}
			return w.net.dial(ctx, to)
		}
		s := w.dial(config)
		time.Sleep(time.Second)
		fail = true
		w.g.with(func() { w.g.only().Close(wire.CloseInternalError, "", &w.g.out) })
		closed := time.Now()
		time.Sleep(10 * time.Minute)
		w.closes(s)
		last := closed
		for i, at := range tries[1:] {
			want := min(time.Second<<i, 30*time.Second)
			if gap := at.Sub(last); gap < want*3/4 || gap > want*5/4 {
				t.Errorf("try %d after %s, want about %s", i, gap, want)
			}
			last = at
		}
		if n := len(tries); n < 20 || n > 32 {
			t.Errorf("%d tries in ten minutes", n)
		}
		if err := s.Err(); err != client.ErrClosed {
			t.Errorf("error: %v", err)
		}
	})
}

// With NoReconnect, the session ends with the gateway's reason.
func TestNoReconnect(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		config := w.config()
		config.NoReconnect = true
		s := w.dial(config)
		c := flowTo(t, s, "203.0.113.7:53")
		exchange(t, c, "before")
		w.g.with(func() { w.g.only().Close(wire.CloseShuttingDown, "maintenance", &w.g.out) })
		_, err := c.Read(make([]byte, 9))
		<-s.Done()
		for _, err := range []error{err, s.Err(), w.lastEvent(client.Closed).Err} {
			var closed *state.PeerClosedError
			if !errors.As(err, &closed) || !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), "shutting down (maintenance)") || !strings.Contains(err.Error(), w.g.identity.Public().String()) {
				t.Errorf("error: %v", err)
			}
		}
		if _, err := c.Write(nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: %v", err)
		}
		if got := w.happened(); got != "connected closed" {
			t.Errorf("events: %s", got)
		}
		w.closes(s)
	})
}

// With NoReconnect, an unresponsive gateway has Config.Timeout to respond.
func TestNoReconnectEndsWhenUnresponsive(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		config := w.config()
		config.NoReconnect = true
		s := w.dial(config)
		defer w.closes(s)
		c := flowTo(t, s, "203.0.113.7:53")
		exchange(t, c, "before")
		cut := func(for_ time.Duration) {
			w.net.losing(func(_, to netip.AddrPort, _ []byte) bool { return to == w.g.at })
			write(t, c, "lost")
			time.Sleep(for_)
			w.net.losing(nil)
		}
		cut(5 * time.Second)
		time.Sleep(time.Minute)
		exchange(t, c, "after")
		time.Sleep(2 * time.Second)
		cut(20 * time.Second)
		<-s.Done()
		if err := s.Err(); !errors.Is(err, client.ErrSilent) {
			t.Errorf("error: %v", err)
		}
	})
}

// A session that the gateway does not confirm ends.
func TestUnconfirmedSession(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.net.losing(func(from, _ netip.AddrPort, p []byte) bool { return from == w.g.at && isSealed(p) })
		config := w.config()
		config.NoReconnect = true
		s := w.dial(config)
		defer w.closes(s)
		began := time.Now()
		<-s.Done()
		if err := s.Err(); !errors.Is(err, state.ErrUnconfirmed) || time.Since(began) > 11*time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	})
}

// Close aborts a handshake.
func TestCloseWhileReconnecting(t *testing.T) {
	connected(t, func(t *testing.T, w *world, s *client.Session, c net.Conn) {
		time.Sleep(time.Second)
		w.net.losing(func(_, to netip.AddrPort, _ []byte) bool { return to == w.g.at })
		w.g.with(func() { w.g.only().Close(wire.CloseShuttingDown, "", &w.g.out) })
		time.Sleep(3 * time.Second)
		if w.happened() != "connected reconnecting" {
			t.Fatalf("events: %s", w.happened())
		}
		began := time.Now()
		w.closes(s)
		if took := time.Since(began); took > 300*time.Millisecond {
			t.Errorf("Close took %s", took)
		}
		if _, err := c.Read(nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read: %v", err)
		}
	})
}

// Info.Down reports that the gateway no longer admits the client.
func TestReconnectReportsCause(t *testing.T) {
	connected(t, func(t *testing.T, w *world, s *client.Session, _ net.Conn) {
		time.Sleep(time.Second)
		w.g.with(func() {
			w.g.config.Admit = func(identity.PublicKey) bool { return false }
			w.g.only().Close(wire.CloseShuttingDown, "", &w.g.out)
		})
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if down := s.Info().Down; down == nil || !strings.Contains(down.Error(), "does not list this client") {
			t.Errorf("down: %v", down)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Rekey(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "reconnecting") {
			t.Errorf("rekey: %v", err)
		}
	})
}
