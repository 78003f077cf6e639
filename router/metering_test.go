package router

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/router/account"
	"lewes/router/meter"
	"lewes/router/policy"
	"lewes/state/ledger"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

// usageLedger is a meter.Ledger that adds up what is recorded.
type usageLedger struct {
	mu   sync.Mutex
	used map[identity.PublicKey]uint64
	fail error
}

func (l *usageLedger) Use(_ context.Context, used map[identity.PublicKey]uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail == nil {
		if l.used == nil {
			l.used = make(map[identity.PublicKey]uint64)
		}
		for id, n := range used {
			l.used[id] += n
		}
	}
	return l.fail
}

func (l *usageLedger) Grants(identity.PublicKey) ([]meter.Grant, bool, error) { return nil, false, nil }

func (l *usageLedger) all() map[identity.PublicKey]uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.used)
}

// metered returns a rig that requires registration.
func metered(t testing.TB, change func(*Config)) *rig {
	return newRig(t, func(c *Config) {
		c.Metering, c.Registration.Required = new(Metering), true
		if change != nil {
			change(c)
		}
	})
}

// grant returns the grants of an account with one of them.
func grant(bytes uint64) []ledger.Grant {
	return []ledger.Grant{{Number: 1, Bytes: bytes, Expires: epoch.Add(100 * time.Second)}}
}

// enroll registers the peer's session; without grants it is unlimited.
func (p *peer) enroll(mode wire.Mode, grants []ledger.Grant) {
	c := p.serverSession().User.(*client)
	p.r.shard.Do(func(_ time.Time, st *shardState) {
		st.endUnregistered(c)
		st.register(c, mode, grants, grants == nil)
	})
}

// left returns what the peer's account has left.
func (p *peer) left() uint64 {
	p.r.t.Helper()
	b, ok := p.r.whole.meter.Balance(p.serverSession().Peer())
	if !ok {
		p.r.t.Fatal("no account")
	}
	return b.Bytes
}

// second collects usage after a second, and notifies sessions.
func (r *rig) second() {
	r.advance(meter.Interval)
	notices, _ := r.whole.meter.Collect(r.now())
	r.whole.notifyUsage(notices)
}

// results returns the codes and remaining bytes of the unasked results that the peer has received.
func (p *peer) results() string {
	var all []string
	for _, m := range p.got {
		if m.t != wire.TypeRegisterResult {
			continue
		}
		part, err := wire.ParsePart(m.content)
		if err != nil {
			p.r.t.Fatal(err)
		}
		result, err := wire.ParseRegisterResult(part.Data)
		if err != nil || result.RequestID != 0 {
			p.r.t.Fatal(result, err)
		}
		all = append(all, fmt.Sprint(result.Code, " ", result.Remaining))
	}
	return strings.Join(all, ", ")
}

// returned passes packets from a flow's target or upstream to the peer.
func (p *peer) returned(from netip.AddrPort, payloads ...string) {
	var batch []transport.Packet
	for _, x := range payloads {
		batch = append(batch, transport.Packet{Data: []byte(x)})
	}
	p.r.egress.at(from).fed <- batch
}

// TestUnregisteredSessionsCarryNothing: where registration is required, no flow opens before it.
//
// Shows R9.5.
func TestUnregisteredSessionsCarryNothing(t *testing.T) {
	r := metered(t, withDirectory(t))
	p := r.connect(2, clientAt)
	p.data(1, target, "x")
	if got := p.closedWith(); got != "1:7 " {
		t.Errorf("data: closed with %q", got)
	}
	p.data(1, target, "x")
	if got := p.closedWith(); got != "" {
		t.Errorf("data within a second: closed with %q", got)
	}
	p.forward(2, &exitID, inner(100, true))
	if got := p.closedWith(); got != "2:7 " || len(r.egress.conns) != 0 || r.shard.Stats().NotRegistered != 3 {
		t.Errorf("forward: closed with %q; %d sockets", got, len(r.egress.conns))
	}
	p.enroll(wire.ModeRelay, grant(100))
	p.data(1, target, "x")
	p.forward(3, &exitID, inner(100, true))
	if got := p.closedWith(); got != "3:8 " || len(r.egress.at(target).take()) != 1 {
		t.Errorf("registered, with too little left for a hello: closed with %q", got)
	}
	open := newRig(t, func(c *Config) { c.Metering = new(Metering) }).connect(2, clientAt)
	open.data(1, target, "x")
	if got := open.closedWith(); got != "" {
		t.Errorf("not required: closed with %q", got)
	}
}

// TestWhatCounts: payload and inner bytes count in both directions once they are accepted, and nothing
// that policy or a bound refuses.
//
// Shows R9.21.
func TestWhatCounts(t *testing.T) {
	private := netip.MustParseAddrPort("10.0.0.1:53")
	r := metered(t, func(c *Config) {
		withDirectory(t)(c)
		c.MaxFlowsPerSession, c.MaxFlows, c.HelloBurst = 3, 100, 1
		c.Access = func(identity.PublicKey) account.Standing {
			return account.Standing{Admitted: true, Listed: true, Limits: account.Limits{Rate: 10_000}}
		}
	})
	p := r.connect(2, clientAt)
	p.enroll(wire.ModeRelay, grant(100_000))
	left := uint64(100_000)
	expect := func(what string, used uint64) {
		t.Helper()
		if left -= used; p.left() != left {
			t.Errorf("%s: %d bytes are left, want %d", what, p.left(), left)
			left = p.left()
		}
	}
	p.data(1, target, strings.Repeat("x", 1000))
	p.data(1, netip.AddrPort{}, "")
	expect("two datagrams up", 1000)
	p.got = nil
	p.returned(target, strings.Repeat("y", 500), "zz")
	p.receive(2)
	expect("two datagrams down", 502)
	p.forward(2, &exitID, inner(100, true))
	p.forward(2, nil, inner(100, false))
	expect("inner packets up", uint64(len(inner(100, true))+len(inner(100, false))))
	p.got = nil
	p.returned(exitAddr, string(inner(100, false)), string(inner(300, false)))
	p.receive(1)
	expect("an inner packet down, and one of an unknown index", uint64(len(inner(100, false))))
	p.named(3, "dns.example", 54, "query")
	p.data(3, netip.AddrPort{}, "more")
	eventually(t, "the name is resolved", func() bool { return r.shard.Stats().FlowsOpened == 2 })
	p.data(3, netip.AddrPort{}, "")
	expect("datagrams that waited for a name", 9)

	p.data(9, target, "beyond the bound of flows")
	p.data(1, private, "another target")
	p.send(wire.TypeFlowClosed, &wire.FlowClosed{FlowID: 3, Reason: wire.FlowIdle})
	p.data(4, private, "denied")
	p.data(4, netip.AddrPort{}, "no flow")
	p.named(4, "none.example", 53, "no such name")
	p.forward(2, nil, inner(200, true)) // beyond the rate of hellos
	p.forward(2, nil, []byte(strings.Repeat("m", 40)))
	p.data(1, netip.AddrPort{}, strings.Repeat("x", 9_000)) // beyond the rate
	expect("refused up", 0)
	p.got = nil
	p.returned(target, strings.Repeat("y", 1470), strings.Repeat("y", 9_000), "in")
	p.receive(1)
	expect("refused down, and one that fits", 2)
}

// TestUsageNotices: the active sessions of an account are told at 80, 90, 95 and 100 %, and its flows end
// when it is used up; another grant lets them go on.
//
// Shows R9.23, R9.5.
func TestUsageNotices(t *testing.T) {
	r := metered(t, withDirectory(t))
	p, q, other := r.connect(2, clientAt), r.connect(2, secondAt), r.connect(3, path.Path{Peer: netip.MustParseAddrPort("192.0.2.3:3333")})
	p.enroll(wire.ModeRelay, grant(1000))
	q.enroll(wire.ModeRelay, grant(1000))
	other.enroll(wire.ModeRelay, grant(1000))
	p.data(1, target, strings.Repeat("x", 400))
	q.data(1, target, strings.Repeat("x", 300))
	q.forward(2, &exitID, inner(100, false))
	deliver := func() {
		p.got, q.got, other.got = nil, nil, nil
		r.second()
		for _, x := range r.socket.take() {
			for _, c := range []*peer{p, q, other} {
				if x.Path == c.at {
					c.handle(x.Data)
				}
			}
		}
	}
	for _, c := range []struct {
		use     int
		results string
	}{{35, ""}, {1, "ok 200"}, {99, ""}, {1, "ok 100"}, {70, "ok 30"}, {1, ""}} {
		if c.use == 35 {
			c.use = int(p.left()) - 201
		}
		p.data(1, netip.AddrPort{}, strings.Repeat("x", c.use))
		deliver()
		if p.results() != c.results || q.results() != c.results || len(other.got) > 0 {
			t.Errorf("%d bytes are left: results %q and %q, want %q", p.left(), p.results(), q.results(), c.results)
		}
	}
	r.advance(61 * time.Second)
	p.data(1, netip.AddrPort{}, strings.Repeat("x", 30)) // 29 are left
	if got := p.closedWith(); got != "1:8 " {
		t.Errorf("a datagram that is too long for the rest: closed with %q", got)
	}
	p.data(1, target, strings.Repeat("x", 29))
	if got := p.closedWith(); got != "" {
		t.Errorf("the rest: closed with %q", got)
	}
	deliver()
	if got := p.results() + p.closedWith(); got != "bandwidth used up 01:8 " {
		t.Errorf("the active session: %q", got)
	}
	if got := q.results() + q.closedWith(); got != "1:8 2:8 " {
		t.Errorf("the session without a packet for a minute: %q", got)
	}
	for id := range uint16(2) {
		p.data(5+id, target, "")
		if got := p.closedWith(); got != fmt.Sprintf("%d:8 ", 5+id) {
			t.Errorf("another flow: closed with %q", got)
		}
	}
	p.enroll(wire.ModeRelay, append(grant(1000), ledger.Grant{Number: 2, Bytes: 500, Expires: epoch.Add(100 * time.Second)}))
	q.data(1, target, "again")
	if got := q.closedWith(); got != "" || p.left() != 495 {
		t.Errorf("after another grant: closed with %q, %d bytes are left", got, p.left())
	}
	r.advance(epoch.Add(100 * time.Second).Sub(r.now()))
	deliver()
	if got := q.closedWith(); got != "1:8 " || p.left() != 0 {
		t.Errorf("after the last grant has expired: closed with %q", got)
	}
	for _, c := range []*peer{p, q, other} {
		c.send(wire.TypeClose, &wire.Close{Reason: wire.CloseDone})
	}
	r.advance(2 * time.Minute)
	r.whole.meter.SetLedger(new(usageLedger))
	if err := r.whole.meter.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.advance(2 * time.Minute)
	r.second()
	if n := r.whole.meter.Stats().Accounts; n != 0 {
		t.Errorf("%d accounts are kept after their sessions", n)
	}
}

// TestDownloadEndsWithTheBandwidth: datagrams to a client that has nothing left are dropped.
func TestDownloadEndsWithTheBandwidth(t *testing.T) {
	r := metered(t, nil)
	p := r.connect(2, clientAt)
	p.enroll(wire.ModeRelay, grant(100))
	p.data(1, target, "query")
	p.got = nil
	p.returned(target, strings.Repeat("a", 50), strings.Repeat("b", 50), strings.Repeat("c", 40))
	p.receive(2)
	p.got = nil
	r.second()
	for _, x := range r.socket.take() {
		p.handle(x.Data)
	}
	if got := p.closedWith(); got != "1:8 " || p.left() != 5 || r.shard.Stats().UsedUp != 1 {
		t.Errorf("closed with %q; %d bytes are left, %d datagrams refused", got, p.left(), r.shard.Stats().UsedUp)
	}
}

// TestMixnetReachesOnlyItsNode: flows of a session registered for the mixnet end at the mix node.
//
// Shows R9.25.
func TestMixnetReachesOnlyItsNode(t *testing.T) {
	node := netip.MustParseAddrPort("198.51.100.7:1789")
	r := metered(t, func(c *Config) {
		withDirectory(t)(c)
		c.Metering.MixNode = node
		c.Policy = policy.New(policy.Config{})
	})
	p := r.connect(2, clientAt)
	p.enroll(wire.ModeMixnet, grant(1000))
	p.data(1, node, "x")
	p.data(2, target, "x")
	denied := p.closedWith()
	p.forward(3, &exitID, inner(100, true))
	denied += p.closedWith()
	p.got = nil
	p.named(4, "dns.example", target.Port(), "x")
	p.receive(1)
	denied += p.closedWith()
	if denied != "2:1 3:1 4:1 " || len(r.egress.conns) != 1 || len(r.egress.at(node).take()) != 1 || p.left() != 999 {
		t.Errorf("closed with %q, %d sockets, %d bytes left", denied, len(r.egress.conns), p.left())
	}
	p.named(5, "dns.example", node.Port(), "x")
	eventually(t, "the mix node is reached by its name", func() bool { return r.shard.Stats().FlowsOpened == 2 })
}

// TestStopsWhereUsageCannotBeRecorded: after ten seconds nothing is carried, open flows stay, and all
// goes on once it works again.
//
// Shows R9.22.
func TestStopsWhereUsageCannotBeRecorded(t *testing.T) {
	for _, serve := range []bool{false, true} {
		r := metered(t, func(c *Config) { c.Metering.Serve = serve })
		l := &usageLedger{fail: errors.New("disk full")}
		r.whole.meter.SetLedger(l)
		p := r.connect(2, clientAt)
		p.enroll(wire.ModeRelay, grant(1000))
		p.data(1, target, "x")
		for range 11 {
			_ = r.whole.meter.Flush(t.Context())
			r.second()
		}
		p.data(1, netip.AddrPort{}, "y")
		first := p.closedWith()
		p.data(2, target, "z")
		want := map[bool]string{false: "2:4 ", true: ""}[serve]
		if got := first + p.closedWith(); got != want || (r.shard.Stats().NotRecorded == 0) != serve {
			t.Errorf("serve %v: closed with %q, want %q", serve, got, want)
		}
		l.fail = nil
		if err := r.whole.meter.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.data(1, netip.AddrPort{}, "again")
		if p.closedWith() != "" || r.whole.Stats().MeterStopped != 0 {
			t.Error("still stopped")
		}
	}
}

// TestWhatIsCarriedIsRecorded: sessions of one client in all shards use up its bandwidth at once and in both
// directions, and what they have carried is what the ledger has.
func TestWhatIsCarriedIsRecorded(t *testing.T) {
	const granted = 100_000
	g, target := started(t, func(c *Config) { c.Metering, c.Registration.Required = new(Metering), true })
	l := new(usageLedger)
	g.Meter().SetLedger(l)
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), g.Addrs()[0].Port())
	var clients []*live
	for range 6 {
		c := dialLive(t, 10, to)
		if !c.until(func() bool { return c.session != nil && c.session.Confirmed() }) {
			t.Fatal("no session")
		}
		clients = append(clients, c)
	}
	for _, s := range g.shards {
		s.Do(func(now time.Time, st *shardState) {
			st.eachClient(func(c *client) {
				st.endUnregistered(c)
				st.register(c, wire.ModeRelay, []ledger.Grant{{Number: 1, Bytes: granted, Expires: now.Add(time.Hour)}}, false)
			})
		})
	}
	m := &wire.EncryptedData{FlowID: 1, Flags: wire.FlagTarget, Target: wire.AddrTarget(target), Payload: make([]byte, 1000)}
	var sending sync.WaitGroup
	for _, c := range clients {
		sending.Go(func() {
			for g.Stats().UsedUp == 0 {
				if err := c.session.Send(wire.TypeEncryptedData, m, &c.out); err != nil {
					t.Error(err)
					return
				}
				got := len(c.got)
				if !c.until(func() bool { return len(c.got) > got || g.Stats().UsedUp > 0 }) {
					t.Error("no echo, although bandwidth is left")
					return
				}
			}
		})
	}
	sending.Wait()
	g.Close()
	s := g.Stats()
	if used := l.all()[testIdentity(10).Public()]; used != s.Up.Bytes+s.Down.Bytes || used > granted || used < granted-1000 {
		t.Errorf("%d bytes were recorded, %d up and %d down were carried, of %d", used, s.Up.Bytes, s.Down.Bytes, granted)
	}
}
