package router

import (
	"context"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/router/account"
	"lewes/router/policy"
	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

// numbered returns the identity of one of many clients.
func numbered(n int) (id identity.PublicKey) {
	binary.LittleEndian.PutUint64(id[:], uint64(n)+1)
	return id
}

// listing returns an access rule that admits clients and lists none.
func listing(admits func(identity.PublicKey) bool) func(identity.PublicKey) account.Standing {
	return func(id identity.PublicKey) account.Standing { return account.Standing{Admitted: admits(id)} }
}

// fill adds n sessions, of a client each, which have been idle for a time each.
func (r *rig) fill(n int, idle func(i int) time.Duration) {
	r.t.Helper()
	origin := r.connect(200, path.Path{Peer: netip.MustParseAddrPort("192.0.2.200:200")}).serverSession()
	another := copiesOf(r.t, origin, &state.SessionConfig{Rand: seeded(9), Terms: origin.Terms()}, r.now())
	r.shard.Do(func(_ time.Time, st *shardState) {
		for i := range n {
			index := uint32(i)<<1 | 1
			for st.sessions.Find(index) != nil || st.handshakes.Has(index) {
				index += 1 << 30
			}
			s := another(index, numbered(i), idle(i))
			st.newClient(r.now(), s, st.accountKey(s)).account.Force(account.Sessions)
			st.sessions.Add(s)
		}
		origin.Close(wire.CloseDone, "", &st.output)
		st.applyEvents(origin)
	})
	r.socket.take()
}

func active(int) time.Duration { return 0 }

// sliceLog records the slices of a walk.
type sliceLog struct{ slices, units, largest, current int }

// watch records the work of a step. A slice is a batch.
func (l *sliceLog) watch(next step) step {
	last := -1
	return func(st *shardState) int {
		if n := batchesOf(&st.times); n != last {
			last = n
			l.slices++
			l.current = 0
		}
		units := next(st)
		l.units += units
		l.current += units
		l.largest = max(l.largest, l.current)
		return units
	}
}

func batchesOf(t *BatchTimes) (n int) {
	for _, c := range t.Counts {
		n += int(c)
	}
	return n
}

// TestWalksAreSliced applies changes to 200,000 sessions, and asserts the number and the size of the
// slices in units of work. The removal of clients costs nothing for the sessions of others.
//
// Shows R12.31.
func TestWalksAreSliced(t *testing.T) {
	const ended, flows = 1000, 900
	sessions := 200_000
	if testing.Short() || raceEnabled {
		sessions = 20_000
	}
	removed := map[identity.PublicKey]bool{}
	r := newRig(t, func(c *Config) {
		c.MaxSessions, c.MaxFlows, c.MaxFlowsPerSession = 2*sessions, 4*flows, flows
		c.Access = listing(func(id identity.PublicKey) bool { return !removed[id] })
	})
	r.fill(sessions, active)
	st := &r.shard.st
	check := func(name string, units, closed, wantClosed int, log *sliceLog) {
		t.Helper()
		const largestStep = closeUnits + dropUnits*flows
		if log.largest >= sliceUnits+largestStep || wantClosed == 0 && log.largest > sliceUnits {
			t.Errorf("%s: a slice of %d units", name, log.largest)
		}
		if least, most := units/(sliceUnits+closeUnits), units/sliceUnits+1; log.units != units || log.slices < least || log.slices > most {
			t.Errorf("%s: %d units in %d slices; want %d units in %d to %d", name, log.units, log.slices, units, least, most)
		}
		if closed != wantClosed {
			t.Errorf("%s: %d closed, want %d", name, closed, wantClosed)
		}
	}
	run := func(name string, newStep func(*int) step, units, wantClosed int) {
		t.Helper()
		var log sliceLog
		closed := 0
		r.shard.walk(t.Context(), log.watch(newStep(&closed)))
		check(name, units, closed, wantClosed, &log)
	}
	run("no change of access", reapplyAccess, sessions*visitUnits, 0)

	var some []identity.PublicKey
	for i := range ended {
		some = append(some, numbered(i))
		removed[numbered(i)] = true
	}
	unknown := append(some[:1:1], numbered(sessions), numbered(sessions+1)) // two without a session
	one := func(closed *int) step { return removeClients(unknown, closed) }
	removed[unknown[1]], removed[unknown[2]] = true, true
	run("one removed", one, closeUnits+3*visitUnits, 1)
	many := func(closed *int) step { return removeClients(some, closed) }
	run("many removed", many, (ended-1)*closeUnits+ended*visitUnits, ended-1)
	for i := range ended {
		removed[numbered(sessions-1-i)] = true
	}
	run("an unknown number removed", reapplyAccess, (sessions-2*ended)*visitUnits+ended*closeUnits, ended)
	run("policy without flows", reapplyPolicy, 0, 0)

	p := r.connect(3, clientAt)
	r.socket.drop = true
	for i := range uint16(flows) {
		p.data(i, netip.AddrPortFrom(target.Addr(), 1000+i), "x")
	}
	run("policy", reapplyPolicy, flows*visitUnits, 0)
	if n := st.flows.all.Len(); n != flows {
		t.Fatalf("%d flows, want %d", n, flows)
	}
	p.send(wire.TypeClose, &wire.Close{Reason: wire.CloseDone})

	left := int(r.shard.Stats().Sessions)
	if left != sessions-2*ended {
		t.Fatalf("%d sessions left", left)
	}
	before := batchesOf(&st.times)
	notified, all := r.whole.closeSessions(t.Context())
	slices := batchesOf(&st.times) - before - 1
	if least := left * (visitUnits + closeUnits) / (sliceUnits + closeUnits); notified != left || all != left || slices < least {
		t.Errorf("shutdown: %d of %d notified in %d slices, want %d in at least %d", notified, all, slices, left, least)
	}
	if n := r.shard.Stats().Sessions; n != 0 {
		t.Errorf("%d sessions after the shutdown", n)
	}
}

// TestWalkClosesItsSockets ends sessions with more flows than sockets may wait to be closed.
func TestWalkClosesItsSockets(t *testing.T) {
	const sessions, flows = manyDiscarded/200 + 15, 200
	r := newRig(t, func(c *Config) { c.MaxFlows = 100 * sessions * flows })
	for n := range sessions {
		p := r.connect(2, path.Path{Peer: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), 7)})
		for i := range uint16(flows) {
			p.data(i, netip.AddrPortFrom(target.Addr(), 1000+i), "x")
		}
	}
	st := &r.shard.st
	if n := st.flows.all.Len(); n != sessions*flows {
		t.Fatalf("%d flows", n)
	}
	st.timer.timer.Stop()
	st.timer.timer = time.AfterFunc(time.Hour, func() {}) // closes no sockets
	most, closed := 0, 0
	next := closeByAge(&closed)
	r.shard.walk(t.Context(), func(st *shardState) int {
		units := next(st)
		most = max(most, len(st.discarded))
		return units
	})
	if closed != sessions || most >= manyDiscarded+flows {
		t.Errorf("%d sessions closed, up to %d sockets waited", closed, most)
	}
}

// TestWalkYieldsLock walks without an end until another user of the shard was served.
func TestWalkYieldsLock(t *testing.T) {
	r := newRig(t, nil)
	served := make(chan struct{})
	started := false
	r.shard.walk(t.Context(), func(*shardState) int {
		if !started {
			started = true
			go func() {
				r.shard.Receive(r.now(), nil, nil)
				close(served)
			}()
		}
		select {
		case <-served:
			return 0
		default:
			return visitUnits
		}
	})
	<-served
}

// TestSessionsDuringAccessWalk starts sessions while a changed list is applied: that of a listed
// client stays, and a removed client whose handshake was under way gets none.
//
// Shows R5.34.
func TestSessionsDuringAccessWalk(t *testing.T) {
	removed := map[identity.PublicKey]bool{}
	r := newRig(t, func(c *Config) { c.Access = listing(func(id identity.PublicKey) bool { return !removed[id] }) })
	r.fill(3*sliceUnits, active)
	withheld := r.withhold(2, clientAt)
	for i := range 3 * sliceUnits {
		removed[numbered(i)] = i%2 == 0
	}
	removed[testIdentity(2).Public()] = true
	closed := 0
	next := reapplyAccess(&closed)
	r.shard.Do(func(_ time.Time, st *shardState) {
		for range sliceUnits {
			next(st)
		}
	})
	p := r.connect(3, secondAt)
	r.shard.Receive(r.now(), withheld, nil)
	r.shard.walk(t.Context(), next)
	if want := 3 * sliceUnits / 2; closed != want {
		t.Errorf("%d sessions closed, want %d", closed, want)
	}
	if s := r.shard.Stats(); s.Sessions != 3*sliceUnits/2+1 || s.Handshakes.Unlisted != 1 {
		t.Errorf("%d sessions, %d handshakes refused", s.Sessions, s.Handshakes.Unlisted)
	}
	p.data(1, target, "x")
	if got := p.closedWith(); got != "" {
		t.Errorf("the new session is disturbed: %q", got)
	}
}

// withhold runs a handshake of a client up to Handshake 3, and returns the packets that the client
// would send then.
func (r *rig) withhold(who byte, at path.Path) []transport.Packet {
	r.t.Helper()
	p := r.begin(who, at)
	for p.session == nil && len(p.out.Packets) > 0 {
		p.exchange()
	}
	if p.session == nil {
		r.t.Fatal("no Handshake 2")
	}
	return p.packets()
}

// TestRemovedClientAtHandshake3 removes a client between Handshake 1 and Handshake 3, with and
// without a reload that removes its record.
//
// Shows R5.34.
func TestRemovedClientAtHandshake3(t *testing.T) {
	for _, row := range []struct {
		name    string
		remove  func(g *Gateway)
		refused uint64 // at Handshake 3
		records uint64
	}{
		{"before the list is applied", func(*Gateway) {}, 1, 1},
		{"by its identity", func(g *Gateway) { g.ReapplyClients([]identity.PublicKey{testIdentity(2).Public()}, nil) }, 0, 0},
		{"by a walk", func(g *Gateway) { g.ReapplyAccess() }, 0, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			listed := true
			r := newRig(t, func(c *Config) { c.Access = listing(func(identity.PublicKey) bool { return listed }) })
			withheld := r.withhold(2, clientAt)
			listed = false
			row.remove(r.whole)
			if n := r.shard.Stats().Records; n != row.records {
				t.Errorf("%d records, want %d", n, row.records)
			}
			r.advance(60 * time.Second)
			r.shard.Receive(r.now(), withheld, nil)
			if s := r.shard.Stats(); s.Sessions != 0 || s.Handshakes.Unlisted != row.refused || s.Records != 0 {
				t.Errorf("%d sessions, %d refused, %d records", s.Sessions, s.Handshakes.Unlisted, s.Records)
			}
		})
	}
}

// TestShutdownNotifiesRecentlyActiveFirst ends a shutdown early. Whoever was not notified has been idle
// for longer than those who were.
func TestShutdownNotifiesRecentlyActiveFirst(t *testing.T) {
	const sessions, kinds, enough = 4000, 16, 1000
	idle := func(i int) time.Duration { return time.Millisecond << (i % kinds) }
	r := newRig(t, func(c *Config) { c.MaxSessions = sessions + 10 })
	r.fill(sessions, idle)
	ctx, cancel := context.WithCancel(t.Context())
	r.shard.out = oneSocket{&endingConn{r.socket, enough, cancel}}
	notified, all := r.whole.closeSessions(ctx)
	if sent := len(r.socket.take()); notified != sent || notified < enough || notified > enough+sliceUnits || all != sessions {
		t.Errorf("%d of %d notified, %d packets; want at least %d of %d", notified, all, sent, enough, sessions)
	}
	left := 0
	r.shard.st.sessions.All(func(s *state.Session) {
		left++
		if age, least := r.now().Sub(s.LastOpened()), idle(notified/(sessions/kinds)); age < least {
			t.Fatalf("idle for %v and not notified, want at least %v", age, least)
		}
	})
	if left != sessions-notified {
		t.Errorf("%d sessions left of %d, %d of them notified", left, sessions, notified)
	}
}

// endingConn ends a shutdown after a number of packets.
type endingConn struct {
	*memConn
	left int
	end  func()
}

func (c *endingConn) WriteBatch(p []transport.Packet) (int, error) {
	if c.left -= len(p); c.left <= 0 {
		c.end()
	}
	return c.memConn.WriteBatch(p)
}

// TestHandshake3DuringShutdown: a session that would start is closed at once, so that its client knows.
//
// Shows R11.7.
func TestHandshake3DuringShutdown(t *testing.T) {
	r := newRig(t, nil)
	p := r.begin(2, clientAt)
	for p.session == nil {
		p.exchange()
	}
	r.whole.closeSessions(t.Context())
	p.run()
	var closed wire.Close
	for _, m := range p.got {
		if m.t == wire.TypeClose {
			closed, _ = wire.ParseClose(m.content)
		}
	}
	if n := r.shard.Stats().Sessions; closed.Reason != wire.CloseShuttingDown || n != 0 {
		t.Errorf("closed by %+v, %d sessions", closed, n)
	}
}

// TestLoweredBoundsKeepWhatExists lowers the bounds below what a client has.
//
// Shows R12.30.
func TestLoweredBoundsKeepWhatExists(t *testing.T) {
	r := newRig(t, withDirectory(t))
	p := r.connect(2, clientAt)
	for i := range uint16(3) {
		p.data(i, netip.AddrPortFrom(target.Addr(), 1000+i), "x")
		p.forward(10+i, &exitID, inner(100+uint32(i), false))
	}
	r.whole.SetLimits(Limits{MaxSessions: 1, MaxFlowsPerSession: 5, MaxClaims: 2, FlowIdle: 10 * time.Second})
	for i := range uint16(3) {
		p.data(i, netip.AddrPort{}, "y")
		p.forward(10+i, nil, inner(100+uint32(i), false))
	}
	if s := r.shard.Stats(); s.Sessions != 1 || s.Flows != 3 || s.Bindings != 3 || s.FlowsRefused != 0 {
		t.Fatalf("%d sessions, %d flows, %d claims; %d refused", s.Sessions, s.Flows, s.Bindings, s.FlowsRefused)
	}
	if got := r.hellos(1, secondAt); got != 0 {
		t.Error("another session is admitted")
	}
	p.data(4, target, "x")
	if got := p.closedWith(); got != "4:4 " {
		t.Errorf("another flow: %q", got)
	}
	p.forward(10, nil, inner(200, false))
	if got := p.closedWith(); got != "10:4 " {
		t.Errorf("another claim: %q", got)
	}
	for i := range uint16(2) {
		p.send(wire.TypeFlowClosed, &wire.FlowClosed{FlowID: i, Reason: wire.FlowIdle})
		p.send(wire.TypeFlowClosed, &wire.FlowClosed{FlowID: 10 + i, Reason: wire.FlowIdle})
	}
	r.advance(time.Second)
	p.data(4, target, "x")
	p.forward(12, nil, inner(200, false))
	if s := r.shard.Stats(); s.Flows != 2 || s.Bindings != 2 {
		t.Errorf("with room: %d flows, %d claims, want 2 and 2", s.Flows, s.Bindings)
	}
	r.advance(120 * time.Second)
	if n := r.shard.Stats().Flows; n != 0 {
		t.Errorf("%d flows after the deadline", n)
	}
}

// TestPolicyAppliesToFlowsThatOpen changes the policy while a name is being resolved.
//
// Shows R8.32.
func TestPolicyAppliesToFlowsThatOpen(t *testing.T) {
	answer := make(chan netip.Addr)
	r := newRig(t, func(c *Config) { c.Resolver = heldResolver(answer) })
	p := r.connect(2, clientAt)
	p.named(1, "dns.example", 53, "x")
	rule, err := policy.ParseRule(target.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.whole.config.Policy.Replace(policy.Config{Deny: []policy.Rule{rule}}); err != nil {
		t.Fatal(err)
	}
	if n := r.whole.ReapplyPolicy(); n != 0 {
		t.Errorf("%d flows closed before they opened", n)
	}
	answer <- target.Addr()
	p.receive(1)
	if got := p.closedWith(); got != "1:1 " || len(r.egress.conns) != 0 {
		t.Errorf("%q, %d sockets", got, len(r.egress.conns))
	}
}

// heldResolver answers a lookup when it receives the address.
type heldResolver chan netip.Addr

func (h heldResolver) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{<-h}, nil
}
