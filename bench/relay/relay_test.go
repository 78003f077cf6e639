//go:build linux

package relay

import (
	"context"
	"fmt"
	"testing"
	"time"

	"lewes/bench/load"
	"lewes/bench/measure"
	"lewes/bench/sink"
	"lewes/crypto/seal"
	"lewes/transport/udp"
)

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

// near returns a load for a relay.
func near(t *testing.T, r *relay, p *Params) *load.Load {
	t.Helper()
	conn, err := udp.Dial(r.near.Addr(), udp.Options{NoGSO: p.Single})
	if err != nil {
		t.Fatal(err)
	}
	var unseal load.Unseal
	var flow load.Flow = load.Plain{}
	if p.Key != nil {
		flow = load.NewSealed(p.Key.Suite, &p.Key.Out)
		unseal = p.Key.Unseal()
	}
	l := load.New(conn, unseal, flow)
	t.Cleanup(l.Close)
	return l
}

func TestRelaysBothWays(t *testing.T) {
	for _, single := range []bool{false, true} {
		for _, key := range []*load.Key{nil, load.NewKey(seal.ChaCha20Poly1305), load.NewKey(seal.AES256GCM)} {
			name := fmt.Sprintf("single=%v/", single)
			if key == nil {
				name += "plain"
			} else {
				name += key.Suite.String()
			}
			t.Run(name, func(t *testing.T) {
				s, err := sink.New(loopback)
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				p := &Params{Sink: s.Addr(), Key: key, Single: single}
				r, err := start(p)
				if err != nil {
					t.Fatal(err)
				}
				defer r.close()
				bothWays(t, near(t, r, p), s)
			})
		}
	}
}

// sendSome repeats a short trial until it has sent something: a busy machine may not run it in time.
func sendSome(t *testing.T, send func(context.Context, measure.Plan) (measure.Sent, error), p measure.Plan) measure.Sent {
	t.Helper()
	for {
		if n, err := send(t.Context(), p); err != nil || n.Sent > 0 {
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
}

// bothWays sends 2600 datagrams each way, not all of one size.
func bothWays(t *testing.T, l *load.Load, s *sink.Sink) {
	t.Helper()
	if err := l.Open(t.Context(), s.Addr()); err != nil {
		t.Fatal(err)
	}
	until(t, "no flow was opened", func() bool { return s.Sources() == 1 })
	for i, size := range []int{64, 1200, 1400} {
		run := uint32(i + 1)
		s.Expect(run)
		sent := sendSome(t, l.Send, measure.Plan{Run: run, Rate: 20_000, For: 50 * time.Millisecond, Size: size, Train: 52})
		until(t, fmt.Sprintf("%d bytes: %d sent out, %+v arrived", size, sent.Sent, s.Count()), func() bool { return s.Count().Datagrams == sent.Sent })
		if n := s.Count(); n.Bytes != sent.Sent*uint64(size) || n.Foreign != 0 || n.Delays.N == 0 {
			t.Errorf("%d bytes out: %+v", size, n)
		}
		l.Expect(run, size)
		sent = sendSome(t, s.Send, measure.Plan{Run: run, Rate: 20_000, For: 50 * time.Millisecond, Size: size, Train: 54})
		until(t, fmt.Sprintf("%d bytes: %d sent back, %+v arrived", size, sent.Sent, l.Count()), func() bool { return l.Count().Datagrams == sent.Sent })
		if n := l.Count(); n.Foreign != 0 || n.Delays.N == 0 {
			t.Errorf("%d bytes back: %+v", size, n)
		}
	}
}

// Packets that were not sealed with the key are dropped.
func TestForgedPacketsAreDropped(t *testing.T) {
	s, err := sink.New(loopback)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	p := &Params{Sink: s.Addr(), Key: load.NewKey(seal.AES256GCM)}
	r, err := start(p)
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	forger := near(t, r, &Params{Key: load.NewKey(seal.AES256GCM)})
	s.Expect(1)
	if _, err := forger.Send(t.Context(), measure.Plan{Run: 1, Rate: 10_000, For: 20 * time.Millisecond, Size: 100, Train: 4}); err != nil {
		t.Fatal(err)
	}
	honest := near(t, r, p)
	sent := sendSome(t, honest.Send, measure.Plan{Run: 1, Rate: 10_000, For: 20 * time.Millisecond, Size: 100, Train: 4})
	until(t, "the honest datagrams did not arrive", func() bool { return s.Count().Datagrams >= sent.Sent })
	if n := s.Count(); n.Datagrams != sent.Sent || n.Foreign != 0 {
		t.Errorf("%d were sealed with the key, %+v arrived", sent.Sent, n)
	}
}

// With many sockets, datagrams leave from each in turn.
func TestRelaysFromManySockets(t *testing.T) {
	for _, key := range []*load.Key{nil, load.NewKey(seal.AES256GCM)} {
		s, err := sink.New(loopback)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		p := &Params{Sink: s.Addr(), Key: key, Single: true, Sockets: 5}
		r, err := start(p)
		if err != nil {
			t.Fatal(err)
		}
		defer r.close()
		l := near(t, r, p)
		for range 5 {
			if err := l.Open(t.Context(), s.Addr()); err != nil {
				t.Fatal(err)
			}
		}
		until(t, "not all sockets were used", func() bool { return s.Sources() == 5 })
		s.Expect(1)
		sent := sendSome(t, l.Send, measure.Plan{Run: 1, Rate: 5_000, For: 20 * time.Millisecond, Size: 100, Train: 1})
		until(t, "datagrams are missing", func() bool { return s.Count().Datagrams == sent.Sent })
	}
}
