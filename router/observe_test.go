package router

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/router/policy"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

// infos returns all sessions of a gateway by their client.
func infos(t testing.TB, g *Gateway) map[identity.PublicKey]SessionInfo {
	t.Helper()
	all := make(map[identity.PublicKey]SessionInfo)
	err := g.Sessions(t.Context(), func(some []SessionInfo) error {
		for _, i := range some {
			all[i.Identity] = i
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestSessionInfoCountsBothDirections(t *testing.T) {
	r := newRig(t, nil)
	p := r.connect(2, clientAt)
	r.advance(time.Second)
	p.data(1, target, "four")
	p.data(1, target, "fourteen bytes")
	conn := r.egress.at(target)
	conn.waitFor(t, 2)
	conn.fed <- []transport.Packet{{Data: []byte("an answer")}}
	r.socket.waitFor(t, 1)
	i := infos(t, r.whole)[testIdentity(2).Public()]
	if i.Up != (Traffic{2, 18}) || i.Down != (Traffic{1, 9}) || i.Flows != 1 || i.Path.Peer != clientAt.Peer {
		t.Errorf("%+v", i)
	}
	if i.Handle != p.session.Handle() || !i.Started.Equal(epoch) || !i.Last.Equal(epoch.Add(time.Second)) || !i.Moved.IsZero() || i.First != path.UDP {
		t.Errorf("%+v", i)
	}
}

func TestMeasureRTT(t *testing.T) {
	r := newRig(t, nil)
	p := r.connect(2, clientAt)
	r.advance(measureIdle + time.Second)
	if n := r.whole.MeasureRTT(t.Context()); n != 0 || len(r.socket.take()) != 0 {
		t.Errorf("Ping on %d idle sessions", n)
	}
	r.advance(time.Second)
	p.data(1, target, "x")
	if n := r.whole.MeasureRTT(t.Context()); n != 1 || r.whole.MeasureRTT(t.Context()) != 0 {
		t.Errorf("%d sessions without a measurement", n)
	}
	for _, x := range r.socket.take() {
		p.handle(x.Data)
	}
	r.advance(20 * time.Millisecond)
	p.run()
	if i := infos(t, r.whole)[testIdentity(2).Public()]; i.RTT != 20*time.Millisecond {
		t.Errorf("round trip %v", i.RTT)
	}
}

// TestSessionsArePassedInSlices: the shard is free between the slices, and the first error ends the walk.
func TestSessionsArePassedInSlices(t *testing.T) {
	const sessions = 3*sliceUnits/infoUnits + 1
	r := newRig(t, func(c *Config) { c.MaxSessions = sessions + 10 })
	r.fill(sessions, active)
	seen, slices := make(map[identity.PublicKey]bool), 0
	err := r.whole.Sessions(t.Context(), func(some []SessionInfo) error {
		slices++
		for _, i := range some {
			seen[i.Identity] = true
		}
		r.shard.Do(func(time.Time, *shardState) {}) // would block if the lock were held
		return nil
	})
	if err != nil || len(seen) != sessions || slices != 4 {
		t.Errorf("%d sessions in %d slices, %v", len(seen), slices, err)
	}
	stop := errors.New("stop")
	slices = 0
	if err := r.whole.Sessions(t.Context(), func([]SessionInfo) error { slices++; return stop }); err != stop || slices != 1 {
		t.Errorf("%v after %d slices", err, slices)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.whole.Sessions(ended, func([]SessionInfo) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestCloseSessionsNotifies(t *testing.T) {
	r := newRig(t, nil)
	a, b := r.connect(2, clientAt), r.connect(3, path.Path{Peer: netip.MustParseAddrPort("192.0.2.3:3")})
	closed := r.whole.CloseSessions(t.Context(), func(_ identity.PublicKey, handle [16]byte) bool { return handle == a.session.Handle() })
	for _, x := range r.socket.take() {
		if x.Path == a.at {
			a.handle(x.Data)
		}
	}
	if all := infos(t, r.whole); closed != 1 || len(all) != 1 || all[testIdentity(3).Public()].Handle != b.session.Handle() {
		t.Errorf("closed %d, left %+v", closed, all)
	}
	if got := a.got[len(a.got)-1]; got.t != wire.TypeClose {
		t.Errorf("the client received %v", got.t)
	}
}

func TestDrainRefusesNewSessions(t *testing.T) {
	r := newRig(t, nil)
	p := r.connect(2, clientAt)
	if err := r.whole.Drain(true); err != nil {
		t.Fatal(err)
	}
	late := r.begin(3, clientAt)
	if late.run(); late.session != nil || !r.whole.Draining() {
		t.Error("a draining gateway admits a client")
	}
	p.data(1, target, "x")
	r.egress.at(target).waitFor(t, 1)
	if err := r.whole.Drain(false); err != nil {
		t.Fatal(err)
	}
	r.connect(3, clientAt)
}

func TestRefusalsByReasonAndRule(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.Policy = policy.New(policy.Config{Deny: []policy.Rule{{Prefix: netip.PrefixFrom(target.Addr(), 32)}}})
		c.MaxFlowsPerSession = 1
	})
	p := r.connect(2, clientAt)
	p.data(1, target, "x")
	p.data(2, netip.MustParseAddrPort("10.1.2.3:53"), "x")
	p.data(3, netip.MustParseAddrPort("203.0.113.77:53"), "x")
	p.data(4, netip.MustParseAddrPort("203.0.113.77:54"), "x")
	got := r.whole.Refusals()
	for _, want := range []Refusal{{wire.FlowPolicy, target.Addr().String()}, {wire.FlowPolicy, "10.0.0.0/8"}, {wire.FlowBound, ""}} {
		if got[want] != 1 {
			t.Errorf("%+v: %d of %+v", want, got[want], got)
		}
	}
	if n := r.shard.Stats().FlowsRefused; n != 3 || len(got) != 3 {
		t.Errorf("%d flows refused: %+v", n, got)
	}
	r.shard.Do(func(_ time.Time, st *shardState) {
		for i := range 2 * maxRefusals {
			st.noteRefusal(wire.FlowPolicy, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}).String())
		}
	})
	if n := len(r.whole.Refusals()); n > maxRefusals+1 {
		t.Errorf("%d kinds of refusals", n)
	}
}

// BenchmarkSessions lists 100,000 sessions; an operation is one list.
func BenchmarkSessions(b *testing.B) {
	const sessions = 100_000
	r := newRig(b, func(c *Config) { c.MaxSessions = sessions + 10 })
	r.fill(sessions, active)
	for b.Loop() {
		n := 0
		_ = r.whole.Sessions(b.Context(), func(some []SessionInfo) error { n += len(some); return nil })
		if n != sessions {
			b.Fatal(n)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/sessions, "ns/session")
}
