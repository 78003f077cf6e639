package router

import (
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/router/account"
	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

// udpFrom returns the path of a client at an address.
func udpFrom(addr string, port int) path.Path {
	return path.Path{Peer: netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(port))}
}

// TestOnePrefixLeavesRoom: on an open gateway the clients of one /56, and those behind one gateway of
// the directory, get a third of the sessions however many identities they have, and a client elsewhere
// gets in.
//
// Shows R12.7.
func TestOnePrefixLeavesRoom(t *testing.T) {
	for name, crowd := range map[string]func(i int) path.Path{
		"one /56":     func(i int) path.Path { return udpFrom(fmt.Sprintf("2001:db8:0:%x::%x", i%4, i+1), 4000) },
		"one address": func(i int) path.Path { return udpFrom("192.0.2.77", 4000+i) },
		"an entry":    func(i int) path.Path { return udpFrom(exitAddr.Addr().String(), 4000+i) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(c *Config) { withDirectory(t)(c); c.MaxSessions, c.MaxFlows = 30, 30 })
			var peers []*peer
			for i := range 24 {
				r.advance(time.Second)
				peers = append(peers, r.connect(byte(10+i), crowd(i)))
			}
			if s := r.shard.Stats(); s.Sessions != 10 || s.SessionsRefused != 14 {
				t.Errorf("%d sessions stand and %d were refused, want 10 of 30 and 14", s.Sessions, s.SessionsRefused)
			}
			for _, p := range peers[:10] {
				for id := range uint16(5) {
					p.data(id, target, "x")
				}
			}
			if got := r.shard.Stats().Flows; got != 10 {
				t.Errorf("%d flows stand, want 10 of 30", got)
			}
			p := r.connect(2, clientAt)
			r.egress.at(target).take()
			p.data(1, target, "from elsewhere")
			if got := r.egress.at(target).take(); len(got) != 1 {
				t.Errorf("the client elsewhere reached its target with %d datagrams", len(got))
			}
		})
	}
}

// TestListedClientsHaveAccounts: clients of the list have accounts of their own behind one address,
// with the limits of the list, and keep them wherever they migrate to.
func TestListedClientsHaveAccounts(t *testing.T) {
	limits := map[identity.PublicKey]account.Limits{
		testIdentity(2).Public(): {Sessions: 1, Flows: 2, Rate: 100},
		testIdentity(3).Public(): {},
	}
	r := newRig(t, func(c *Config) {
		c.Access = func(id identity.PublicKey) account.Standing {
			own, ok := limits[id]
			return account.Standing{Admitted: ok, Listed: ok, Limits: own}
		}
	})
	limited, other := r.connect(2, clientAt), r.connect(3, udpFrom(clientAt.Peer.Addr().String(), 9))
	r.connect(2, secondAt)
	if s := r.shard.Stats(); s.Sessions != 2 || s.SessionsRefused != 1 {
		t.Errorf("%d sessions stand and %d were refused, want 2 and 1", s.Sessions, s.SessionsRefused)
	}
	for id := range uint16(4) {
		limited.data(id, target, "x")
		other.data(id, target, "x")
	}
	if got := [2]int{limited.clientOf().flowCount(), other.clientOf().flowCount()}; got != [2]int{2, 4} {
		t.Errorf("the clients have %v flows, want 2 and 4", got)
	}
	before := r.shard.Stats().Up.Packets
	payload := string(make([]byte, 60))
	for range 3 {
		limited.data(1, target, payload)
		other.data(1, target, payload)
	}
	if s := r.shard.Stats(); s.Up.Packets-before != 1+3 || s.OverRate != 2 {
		t.Errorf("%d datagrams passed and %d were over the rate, want 4 and 2", s.Up.Packets-before, s.OverRate)
	}
	for _, p := range []*peer{limited, other} {
		p.clientOf().flows[1].handleReturn(r.now(), newWriter(), []transport.Packet{{Data: []byte(payload)}})
	}
	if s := r.shard.Stats(); s.OverRate != 3 || s.Down.Packets != 1 {
		t.Errorf("%d datagrams were over the rate and %d came back, want 3 and 1", s.OverRate, s.Down.Packets)
	}
	id := testIdentity(2).Public()
	limits[id] = account.Limits{}
	r.whole.ReapplyClients(nil, []identity.PublicKey{id})
	limited.data(1, target, payload)
	if s := r.shard.Stats(); s.OverRate != 3 {
		t.Error("a changed rate has no effect on the open session")
	}
}

// TestAccountsReturnWhatTheyHeld: when its sessions end, an account holds nothing.
func TestAccountsReturnWhatTheyHeld(t *testing.T) {
	r := newRig(t, withDirectory(t))
	p := r.connect(2, clientAt)
	p.data(1, target, "x")
	p.named(2, "dns.example", 53, "x")
	p.named(3, "unknown.example", 53, "x")
	p.forward(4, &exitID, inner(100, false))
	for r.lookups() > 0 {
		time.Sleep(time.Millisecond)
	}
	r.shard.Do(func(time.Time, *shardState) {}) // behind the last lookup's batch
	a := p.clientOf().account
	held := func() string {
		return fmt.Sprint(a.Held(account.Sessions), a.Held(account.Flows), a.Held(account.Forwards), a.Held(account.Lookups), a.Held(account.Claims))
	}
	if got := held(); got != "1 2 1 0 1" {
		t.Errorf("held %q: sessions, flows, flows to gateways, lookups, claims", got)
	}
	r.whole.closeSessions(t.Context())
	if got := held(); got != "0 0 0 0 0" {
		t.Errorf("held %q after the session's end", got)
	}
}

// TestIdleSessionGivesWay: a listed client whose session was lost without a Close gets another one at
// its bound of sessions, and not in place of one that it uses. A session in another shard gives way
// before the client's next handshake.
//
// Shows R12.7.
func TestIdleSessionGivesWay(t *testing.T) {
	client := testIdentity(2).Public()
	r := newRig(t, func(c *Config) {
		c.Access = func(id identity.PublicKey) account.Standing {
			return account.Standing{Admitted: true, Listed: id == client, Limits: account.Limits{Sessions: 1}}
		}
	})
	first := r.connect(2, clientAt)
	r.advance(replaceAfter - time.Millisecond)
	r.connect(2, udpFrom("192.0.2.9", 1)) // refused: the first was in use
	if s := r.shard.Stats(); s.SessionsRefused != 1 || r.shard.st.sessions.OfPeer(client) != first.serverSession() {
		t.Fatalf("%d sessions were refused", s.SessionsRefused)
	}
	r.advance(time.Millisecond)
	second := r.connect(2, udpFrom("192.0.2.9", 2))
	if s := r.shard.Stats(); s.SessionsRefused != 1 || s.Sessions != 1 || r.shard.st.sessions.OfPeer(client) != second.serverSession() {
		t.Fatalf("%d sessions stand, %d were refused", s.Sessions, s.SessionsRefused)
	}
	r.advance(replaceAfter)
	r.whole.replaceElsewhere(client, r.shard.id)
	if s := r.shard.Stats(); s.Sessions != 1 {
		t.Error("the shard that asks gave up a session")
	}
	r.whole.replaceElsewhere(client, r.shard.id+1)
	if s := r.shard.Stats(); s.Sessions != 0 {
		t.Error("another shard's idle session stays")
	}
	open := r.connect(3, secondAt)
	r.advance(time.Hour)
	r.whole.replaceElsewhere(testIdentity(3).Public(), r.shard.id+1)
	if r.shard.Stats().Sessions != 1 || open.serverSession() == nil {
		t.Error("a session of an unlisted client gave way")
	}
}

// TestForwardingFlowsAreBounded: an account gets a share of the flows to gateways, whether it uses them
// or not.
//
// Shows R12.7.
func TestForwardingFlowsAreBounded(t *testing.T) {
	r := newRig(t, withDirectory(t))
	p := r.connect(2, clientAt)
	a := p.clientOf().account
	for a.Held(account.Forwards) < MaxBindings/3 {
		a.Force(account.Forwards)
	}
	p.forward(1, &exitID, inner(100, false))
	if got := p.closedWith(); got != fmt.Sprintf("1:%d ", wire.FlowBound) {
		t.Errorf("closed with %q", got)
	}
	a.Release(account.Forwards)
	for range 2 { // what is closed leaves room
		if p.forward(1, &exitID, inner(100, false)); p.closedWith() != "" {
			t.Errorf("closed with %q though there is room", p.closedWith())
		}
		p.send(wire.TypeFlowClosed, &wire.FlowClosed{FlowID: 1, Reason: wire.FlowIdle})
	}
}

// TestUnreachableGatewayIsCharged: a gateway towards which no socket opens costs a client's budget, not
// the shard's time.
//
// Shows R12.9.
func TestUnreachableGatewayIsCharged(t *testing.T) {
	r := newRig(t, withDirectory(t))
	r.egress.fail = syscall.ENETUNREACH
	p := r.connect(2, clientAt)
	for range 3000 {
		p.forward(1, &exitID, inner(100, false))
	}
	if want, got := uint64(3000-taskDepth/SessionShare/costFlow), r.shard.Stats().OverBudget; got != want {
		t.Errorf("%d of 3,000 packets were over the budget, want %d", got, want)
	}
	if got := p.clientOf().account.Held(account.Forwards); got != 0 {
		t.Errorf("%d flows are held", got)
	}
}

// TestTenThousandIdentitiesOfOnePlace: on an open gateway 10,000 identities of one /64, or behind one
// entry, get a third of the sessions, and a client elsewhere gets its session and its flow.
//
// Shows R12.7.
func TestTenThousandIdentitiesOfOnePlace(t *testing.T) {
	const identities = 10_000
	for name, at := range map[string]path.Path{
		"one /64":  udpFrom("2001:db8:0:42::1", 4000),
		"an entry": udpFrom(exitAddr.Addr().String(), 4000),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, func(c *Config) { withDirectory(t)(c); c.MaxSessions = identities })
			origin := r.connect(9, at).serverSession()
			another := copiesOf(t, origin, &state.SessionConfig{Rand: seeded(9), Terms: origin.Terms()}, r.now())
			stand := 1
			r.shard.Do(func(now time.Time, st *shardState) {
				for i := range identities - 1 {
					s := another(uint32(i)<<1|1, numbered(i), 0)
					if st.addClient(now, s) {
						stand++
						continue
					}
					c := s.User.(*client)
					c.account.Release(account.Sessions)
					c.account.Leave(now)
				}
			})
			if want := identities / 3; stand != want {
				t.Errorf("%d of %d sessions stand, want %d", stand, identities, want)
			}
			p := r.connect(2, clientAt)
			if p.data(1, target, "x"); p.clientOf().flows[1] == nil {
				t.Error("the client elsewhere has no flow")
			}
		})
	}
}
