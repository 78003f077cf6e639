package router

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/zap"

	"lewes/crypto/cookie"
	"lewes/crypto/kdf"
	"lewes/crypto/kem"
	"lewes/crypto/seal"
	"lewes/router/account"
	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

// testHello is a hello with an index, from its own source address.
type testHello struct {
	hello wire.ClientHello
	from  path.Path
}

func newTestHello(now time.Time, index uint32) testHello {
	commitment := kdf.Hash([]byte{byte(index), byte(index >> 8)})
	return testHello{
		hello: wire.ClientHello{
			Attempt:   index,
			Salt:      wire.NewSalt(uint64(now.Unix()), &commitment),
			AEADOffer: uint8(seal.ChaCha20Poly1305),
			KEM:       uint8(kem.MLKEM768),
		},
		from: path.Path{Peer: netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(index >> 8), byte(index)}), 1)},
	}
}

// packet returns the hello's packet.
func (g *testHello) packet() []byte {
	p := g.hello.Append(wire.Begin(nil, 0, wire.LevelClear, 0, wire.TypeClientHello))
	p = wire.Finish(wire.Pad(p, 0, wire.MinHelloDatagram))
	cookie.NewMAC1Key(gatewayID.Public()).Sum(p)
	return p
}

// sendHello sends a hello, and sends it again with a cookie if one is required. It returns the
// answers.
func (r *rig) sendHello(g testHello) (answers []wire.Type) {
	r.t.Helper()
	for {
		got := r.receive(g.packet(), g.from)
		if len(got) != 1 {
			r.t.Fatalf("%d answers to a hello", len(got))
		}
		kind, content, err := wire.ParseBody(wire.Body(got[0].Data))
		if err != nil {
			r.t.Fatal(err)
		}
		answers = append(answers, kind)
		if kind != wire.TypeBusy {
			return answers
		}
		busy, err := wire.ParseBusy(content)
		if err != nil {
			r.t.Fatal(err)
		}
		if !busy.HasCookie || g.hello.HasCookie {
			return answers
		}
		g.hello.HasCookie, g.hello.Cookie = true, busy.Cookie
	}
}

// withheld establishes a session at the client whose Handshake 3 does not reach the gateway, and
// returns the packets of data sent after it.
func (r *rig) withheld(seed byte, datagrams int) (early [][]byte, from path.Path) {
	r.t.Helper()
	from = path.Path{Peer: netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, seed}), 1)}
	var out state.Output
	c, err := state.NewClient(r.now(), state.ClientConfig{
		Gateway: gatewayID.Public(), Identity: testIdentity(2), KEM: kem.MLKEM768,
		Suites: seal.Offer(), Rand: seeded(uint64(seed)), Path: clientAt,
	}, &out)
	if err != nil {
		r.t.Fatal(err)
	}
	for range 5 {
		sent := append([]state.Packet(nil), out.Packets...)
		out.Reset()
		if c.Session() != nil {
			break
		}
		for _, p := range sent {
			for _, answer := range r.receive(p.Data, from) {
				_ = c.Handle(r.now(), answer.Data, &out)
			}
		}
	}
	if c.Session() == nil {
		r.t.Fatal("the client has no session")
	}
	for range datagrams {
		if err := c.Session().Send(wire.TypeEncryptedData, &wire.EncryptedData{FlowID: 1, Payload: make([]byte, 463)}, &out); err != nil {
			r.t.Fatal(err)
		}
	}
	for _, p := range out.Packets {
		early = append(early, p.Data)
	}
	return early, from
}

// TestBoundsAreConfiguredAndCounted sets each configurable bound of section 12, reaches it, and
// checks that it holds and is counted.
//
// Shows R12.5, R12.6.
func TestBoundsAreConfiguredAndCounted(t *testing.T) {
	for _, c := range []struct {
		name   string
		config func(*Config)
		reach  func(t *testing.T, r *rig) // and see that it holds
		count  func(*Stats) uint64
		want   uint64
	}{
		{
			"handshake records", func(c *Config) { c.MaxRecords = 4 },
			func(t *testing.T, r *rig) {
				for n := range uint32(7) {
					if got := r.sendHello(newTestHello(r.now(), 100+n)); got[len(got)-1] != wire.TypeAck {
						t.Errorf("hello %d got %v", n, got)
					}
				}
				if got := r.shard.Stats().Records; got != 4 {
					t.Errorf("%d records", got)
				}
			},
			func(s *Stats) uint64 { return s.Handshakes.Evicted }, 3,
		},
		{
			"cookies from half of the records on", func(c *Config) { c.MaxRecords = 4 },
			func(t *testing.T, r *rig) {
				for n := range uint32(4) {
					r.sendHello(newTestHello(r.now(), 100+n))
				}
			},
			func(s *Stats) uint64 { return s.Handshakes.Cookies }, 1, // the fourth: three are more than half
		},
		{
			"hellos of a source", func(c *Config) { c.Rate, c.Burst = 1, 3 },
			func(t *testing.T, r *rig) {
				if got := r.hellos(5, clientAt); got != 3 {
					t.Errorf("%d of 5 hellos were taken", got)
				}
				r.advance(time.Second)
				if got := r.hellos(1, secondAt); got != 1 {
					t.Error("another source was refused")
				}
			},
			func(s *Stats) uint64 { return s.Handshakes.Busy }, 2,
		},
		{
			"hellos of a source, with a cookie", func(c *Config) { c.Rate, c.Burst = 1, 2 },
			func(t *testing.T, r *rig) {
				taken := 0
				for n := range uint32(6) {
					g := newTestHello(r.now(), 100+n)
					g.from = clientAt
					if got := r.sendHello(g); got[len(got)-1] == wire.TypeAck {
						taken++
					}
				}
				if taken != 4 { // two without a cookie and two with one
					t.Errorf("%d of 6 hellos were taken", taken)
				}
			},
			func(s *Stats) uint64 { return s.Handshakes.Busy }, 4 + 2,
		},
		{
			"hellos of a gateway of the directory", func(c *Config) { withDirectory(t)(c); c.TrustedRate = 5 },
			func(t *testing.T, r *rig) {
				if got := r.hellos(9, path.Path{Peer: exitAddr}); got != 5 {
					t.Errorf("%d of 9 hellos were taken", got)
				}
			},
			func(s *Stats) uint64 { return s.Handshakes.Busy }, 4,
		},
		{
			"tries of Handshake 1", func(c *Config) { c.TriesASecond = 1 },
			func(t *testing.T, r *rig) {
				r.connect(2, clientAt)
				r.connect(3, secondAt)
				if got := r.sendHello(newTestHello(r.now(), 100)); len(got) != 2 || got[0] != wire.TypeBusy || got[1] != wire.TypeAck {
					t.Errorf("after two tries in a second a hello got %v", got)
				}
			},
			func(s *Stats) uint64 { return s.Handshakes.Cookies }, 1,
		},
		{
			"memory of handshakes", func(c *Config) { c.HandshakeMemory = 8 << 10 },
			func(t *testing.T, r *rig) {
				// Two need a cookie, and the second of them displaces the first.
				for seed := range byte(3) {
					early, from := r.withheld(seed+1, 2)
					for _, p := range early {
						r.receive(p, from)
					}
				}
				if got := r.shard.Stats().Records; got != 2 {
					t.Errorf("%d records", got)
				}
			},
			func(s *Stats) uint64 { return s.Handshakes.EvictedForMemory }, 1,
		},
		{
			"sessions", func(c *Config) { c.MaxSessions = 1 },
			func(t *testing.T, r *rig) {
				r.connect(2, clientAt)
				if got := r.sendHello(newTestHello(r.now(), 100)); len(got) != 1 || got[0] != wire.TypeBusy {
					t.Errorf("a hello got %v", got)
				}
			},
			func(s *Stats) uint64 { return s.Handshakes.Busy }, 1,
		},
		{
			"memory", nil,
			func(t *testing.T, r *rig) {
				p := r.connect(2, clientAt)
				m := &r.whole.memory
				m.read, m.collect = func() (used, limit uint64) { return 81, 100 }, func() {}
				m.look(r.now(), zap.NewNop())
				if got := r.sendHello(newTestHello(r.now(), 100)); len(got) != 1 || got[0] != wire.TypeBusy {
					t.Errorf("a hello got %v", got)
				}
				p.data(1, target, "x")
				if got := len(r.egress.at(target).take()); got != 1 {
					t.Errorf("%d datagrams passed, want 1", got)
				}
				m.read = func() (used, limit uint64) { return 74, 100 }
				m.look(r.now(), zap.NewNop())
				if got := r.sendHello(newTestHello(r.now(), 100)); len(got) != 1 || got[0] != wire.TypeAck {
					t.Errorf("with memory again a hello got %v", got)
				}
			},
			func(s *Stats) uint64 { return s.ShortOfMemory }, 1,
		},
		{
			"flows of a session", func(c *Config) { c.MaxFlowsPerSession = 2 },
			func(t *testing.T, r *rig) { openFlows(t, r.connect(2, clientAt), 2) },
			func(s *Stats) uint64 { return s.FlowsRefused }, 1,
		},
		{
			"flows of all sessions", func(c *Config) { c.MaxFlows = 8 },
			func(t *testing.T, r *rig) {
				r.connect(3, secondAt).data(9, target, "x")
				openFlows(t, r.connect(2, clientAt), 2)
			},
			func(s *Stats) uint64 { return s.FlowsRefused }, 1,
		},
		{
			"names that are looked up", func(c *Config) { c.MaxLookups, c.Resolver = 6, slowResolver{} },
			func(t *testing.T, r *rig) {
				p := r.connect(2, clientAt)
				for id := range uint16(3) {
					p.named(id, "dns.example", 53, "x")
				}
				if got := p.closedWith(); got != "2:4 " {
					t.Errorf("closed with %q", got)
				}
				// Closing the flow cancels the lookup, which counts until the resolver returns.
				p.send(wire.TypeFlowClosed, &wire.FlowClosed{FlowID: 0, Reason: wire.FlowIdle})
				for deadline := time.Now().Add(20 * time.Second); r.lookups() > 1; time.Sleep(time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatal("a lookup without a flow is still running")
					}
				}
				p.named(3, "dns.example", 53, "x")
				if got := p.closedWith(); got != "" {
					t.Errorf("once one is done: closed with %q", got)
				}
			},
			func(s *Stats) uint64 { return s.FlowsRefused }, 1,
		},
		{
			"datagrams that wait for a name", func(c *Config) { c.MaxWaiting, c.Resolver = 2, slowResolver{} },
			func(t *testing.T, r *rig) {
				p := r.connect(2, clientAt)
				for range 5 {
					p.named(1, "dns.example", 53, "x")
				}
			},
			func(s *Stats) uint64 { return s.EgressFailed }, 3,
		},
		{
			"their bytes", func(c *Config) { c.MaxWaiting, c.Resolver = 1000, slowResolver{} },
			func(t *testing.T, r *rig) {
				p := r.connect(2, clientAt)
				for range maxWaitingBytes/1024 + 3 {
					p.named(1, "dns.example", 53, string(make([]byte, 1024)))
				}
				f := new(flow)
				if !f.mayWait(maxWaitingBytes+1, 1) {
					t.Error("a long datagram cannot wait alone")
				}
			},
			func(s *Stats) uint64 { return s.EgressFailed }, 3,
		},
		{
			"handshake packets that wait", func(c *Config) { c.MaxBacklog = 2 },
			func(t *testing.T, r *rig) {
				r.connect(2, clientAt).data(1, target, "busy with datagrams")
				r.shard.st.scheduler.credit, r.shard.st.scheduler.creditedAt = -time.Hour, r.now() // handshakes have had their share
				for n := range uint64(5) {
					if got := r.receive(hello(t, n, r.now()), secondAt); len(got) != 0 {
						t.Errorf("hello %d got an answer", n)
					}
				}
				if got := r.shard.Stats().HandshakeQueue; got != 2 {
					t.Errorf("%d wait", got)
				}
			},
			func(s *Stats) uint64 { return s.HandshakeStale }, 3,
		},
		{
			"forward targets", withDirectory(t),
			func(t *testing.T, r *rig) {
				p, other := r.connect(2, clientAt), testIdentity(77).Public()
				p.forward(1, &other, inner(100, false))
				if got := p.closedWith(); got != "1:1 " {
					t.Errorf("closed with %q", got)
				}
			},
			func(s *Stats) uint64 { return s.FlowsRefused }, 1,
		},
		{
			"claims", func(c *Config) { withDirectory(t)(c); c.MaxClaims = 2 },
			func(t *testing.T, r *rig) {
				p := r.connect(2, clientAt)
				for i := range uint32(3) {
					p.forward(1, &exitID, inner(100+i, false))
				}
				if got := p.closedWith(); got != "1:4 " || r.shard.Stats().Bindings != 2 {
					t.Errorf("closed with %q, %d claims", got, r.shard.Stats().Bindings)
				}
			},
			func(s *Stats) uint64 { return s.FlowsRefused }, 1,
		},
		{
			"inner hellos", func(c *Config) { withDirectory(t)(c); c.HelloRate, c.HelloBurst = 1, 3 },
			func(t *testing.T, r *rig) {
				p := r.connect(2, clientAt)
				for range 5 {
					p.forward(1, &exitID, inner(100, true))
				}
				if got := len(r.egress.at(exitAddr).take()); got != 3 {
					t.Errorf("%d of 5 hellos passed", got)
				}
			},
			func(s *Stats) uint64 { return s.Refused }, 2,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, c.config)
			c.reach(t, r)
			if s := r.shard.Stats(); c.count(&s) != c.want {
				t.Errorf("%d counted, want %d: %+v", c.count(&s), c.want, s)
			}
		})
	}
}

// slowResolver blocks until its context ends.
type slowResolver struct{}

func (slowResolver) LookupNetIP(ctx context.Context, _, _ string) ([]netip.Addr, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (r *rig) lookups() int {
	r.shard.mu.Lock()
	defer r.shard.mu.Unlock()
	return r.whole.accounts.InUse(account.Lookups)
}

// openFlows opens as many flows as allowed, and one more.
func openFlows(t *testing.T, p *peer, most int) {
	t.Helper()
	for id := range most {
		p.data(uint16(id), target, "x")
		if got := p.closedWith(); got != "" {
			t.Errorf("flow %d: closed with %q", id, got)
		}
	}
	p.data(uint16(most), target, "x")
	if got := p.closedWith(); got == "" || got[len(got)-2] != '4' {
		t.Errorf("one more flow: closed with %q", got)
	}
}

// TestDefaultBounds compares the defaults with section 12.
//
// Shows R8.8.
func TestDefaultBounds(t *testing.T) {
	c := Limits{}.withDefaults()
	if c.MaxFlowsPerSession != 256 || c.FlowIdle != 120*time.Second || c.MaxSessions != 1_000_000 ||
		c.MaxClaims != 64 || IndexBindingTTL != 300*time.Second || c.HelloRate != 2 || c.HelloBurst != 10 {
		t.Errorf("default limits are %+v, which differs from section 12", c)
	}
	r := newRig(t, nil)
	p := r.connect(2, clientAt)
	var batch []transport.Packet
	for id := range uint16(257) {
		m := &wire.EncryptedData{FlowID: id, Flags: wire.FlagTarget, Target: wire.AddrTarget(target)}
		if err := p.session.Send(wire.TypeEncryptedData, m, &p.out); err != nil {
			t.Fatal(err)
		}
	}
	for _, x := range p.out.Packets {
		batch = append(batch, transport.Packet{Data: x.Data, Path: clientAt})
	}
	p.out.Reset()
	r.shard.Receive(r.now(), batch, nil)
	for _, x := range r.socket.take() {
		p.handle(x.Data)
	}
	if got := p.closedWith(); got != "256:4 " || r.shard.Stats().Flows != 256 {
		t.Errorf("closed with %q, %d flows", got, r.shard.Stats().Flows)
	}
}
