package router

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lewes/crypto/identity"
	"lewes/router/account"
	"lewes/router/egress"
	"lewes/router/handover"
	"lewes/router/policy"
	"lewes/state"
	"lewes/state/ledger"
	"lewes/state/wire"
	"lewes/transport/uri"
)

// conversation returns the two ends of a handover.
func conversation(t *testing.T) (predecessor, successor *handover.Conn) {
	t.Helper()
	ours, file, err := handover.Pair()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := handover.FromFile(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = ours.Close(), theirs.Close() })
	return ours, theirs
}

// succeeded hands a gateway over to another one in this process.
func succeeded(t *testing.T, g *Gateway, change func(*Config)) (*Gateway, HandedOver) {
	t.Helper()
	config := g.config
	config.Egress = nil
	if change != nil {
		change(&config)
	}
	ours, theirs := conversation(t)
	type taken struct {
		g   *Gateway
		err error
	}
	done := make(chan taken, 1)
	go func() {
		next, _, err := TakeOver(t.Context(), config, theirs)
		done <- taken{next, err}
	}()
	how, err := g.HandOver(t.Context(), ours, nil)
	next := <-done
	if err != nil || next.err != nil {
		t.Fatalf("handing over: %v; taking over: %v", err, next.err)
	}
	t.Cleanup(next.g.Close)
	g.Close()
	_, _ = ours.Close(), theirs.Close()
	return next.g, how
}

// liveSessions returns clients with a flow each.
func liveSessions(t *testing.T, g *Gateway, n int, target netip.AddrPort) (clients []*live) {
	t.Helper()
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), g.Addrs()[0].Port())
	for i := range n {
		c := dialLive(t, byte(i+10), to)
		if !c.until(func() bool { return c.session != nil && c.session.Confirmed() }) {
			t.Fatal("no session")
		}
		c.send(t, &wire.EncryptedData{FlowID: 1, Flags: wire.FlagTarget, Target: wire.AddrTarget(target), Payload: []byte("first")})
		if !c.until(func() bool { return len(c.got) > 0 }) {
			t.Fatal("no echo")
		}
		clients = append(clients, c)
	}
	return clients
}

func (l *live) send(t *testing.T, m *wire.EncryptedData) {
	t.Helper()
	if err := l.session.Send(wire.TypeEncryptedData, m, &l.out); err != nil {
		t.Fatal(err)
	}
}

// goesOn sends on the flow without its target, which requires a gateway that has the flow.
func (l *live) goesOn(t *testing.T, payload string) {
	t.Helper()
	l.got = nil
	l.send(t, &wire.EncryptedData{FlowID: 1, Payload: []byte(payload)})
	if !l.until(func() bool { return len(l.got) > 0 }) || l.got[0] != payload {
		t.Fatalf("sent %q, got %q; closed %v", payload, l.got, l.closed)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// TestHandover hands a gateway over three times: every session and flow continues on the same
// sockets, and no descriptor leaks.
func TestHandover(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
	g, target := started(t, nil)
	clients := liveSessions(t, g, 6, target)
	files := openFiles(t)
	for round := range 3 {
		addrs := fmt.Sprint(g.Addrs())
		next, how := succeeded(t, g, nil)
		if how.Sessions != 6 || how.Flows != 6 {
			t.Errorf("round %d: %+v", round, how)
		}
		for i, c := range clients {
			c.goesOn(t, fmt.Sprint("round ", round, " client ", i))
		}
		if got := fmt.Sprint(next.Addrs()); got != addrs {
			t.Errorf("round %d: listens on %v, before on %v", round, got, addrs)
		}
		if s := next.Stats(); s.Sessions != 6 || s.Flows != 6 || s.FlowsOpened != 0 || s.Unknown != 0 {
			t.Errorf("round %d: %+v", round, s)
		}
		if got := openFiles(t); got != files {
			t.Errorf("round %d: %d files are open, %d before", round, got, files)
		}
		g = next
	}
	for _, c := range clients {
		_ = c.conn.Close()
	}
	if n, _ := g.Shutdown(context.Background()); n != 6 {
		t.Errorf("%d sessions closed", n)
	}
}

// TestRefusedHandover checks that a gateway with another identity, addresses or shards refuses
// with a reason, and that the predecessor continues.
func TestRefusedHandover(t *testing.T) {
	g, target := started(t, nil)
	clients := liveSessions(t, g, 2, target)
	for name, change := range map[string]func(*Config){
		"shards":   func(c *Config) { c.Shards = 3 },
		"identity": func(c *Config) { c.Identity = testIdentity(99) },
		"port":     func(c *Config) { c.Listen.Port = 999 },
	} {
		config := g.config
		config.Egress = nil
		change(&config)
		ours, theirs := conversation(t)
		refused := make(chan error, 1)
		go func() {
			_, _, err := TakeOver(t.Context(), config, theirs)
			refused <- err
		}()
		_, err := g.HandOver(t.Context(), ours, nil)
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		if err := <-refused; !errors.Is(err, ErrOther) {
			t.Errorf("%s: %v", name, err)
		}
		for _, c := range clients {
			c.goesOn(t, "after another "+name)
		}
	}
}

// TestPredecessorContinuesIfSuccessorExits closes the connection after each frame that the successor
// receives: the predecessor continues every session and repeats no sequence number, which the
// clients' replay windows would reject.
func TestPredecessorContinuesIfSuccessorExits(t *testing.T) {
	g, target := started(t, nil)
	clients := liveSessions(t, g, 3, target)
	for after := 0; ; after++ {
		ours, theirs := conversation(t)
		var dead sync.WaitGroup
		dead.Go(func() {
			ready := false
			for range after {
				f, err := theirs.Receive()
				if err != nil {
					break
				}
				kind, barrier := f.Kind, f.Kind == handover.Sockets && len(f.Files) == 0
				f.Close()
				switch {
				case barrier, kind == handover.Sockets && !ready:
					ready = true
					_ = theirs.Send(handover.Ready, nil)
				case kind == handover.End:
					_ = theirs.Send(handover.Loaded, nil)
				}
			}
			theirs.Break()
		})
		_, err := g.HandOver(t.Context(), ours, nil)
		ours.Break()
		dead.Wait()
		if errors.Is(err, ErrLost) {
			break
		}
		if err == nil || after > 40 {
			t.Fatalf("a successor that ends after %d frames: %v", after, err)
		}
		for i, c := range clients {
			c.goesOn(t, fmt.Sprint("after ", after, " client ", i))
		}
	}
}

// TestCanceledHandover cancels the context during a handover.
func TestCanceledHandover(t *testing.T) {
	g, target := started(t, nil)
	clients := liveSessions(t, g, 2, target)
	ctx, cancel := context.WithCancel(t.Context())
	ours, _ := conversation(t)
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := g.HandOver(ctx, ours, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	for _, c := range clients {
		c.goesOn(t, "still here")
	}
}

// TestHandoverReappliesPolicy checks that the successor's policy applies to open flows.
func TestHandoverReappliesPolicy(t *testing.T) {
	g, target := started(t, nil)
	c := liveSessions(t, g, 1, target)[0]
	next, _ := succeeded(t, g, func(config *Config) { config.Policy = policy.New(policy.Config{}) })
	if s := next.Stats(); s.Flows != 0 || s.Sessions != 1 {
		t.Errorf("%d flows, %d sessions", s.Flows, s.Sessions)
	}
	refused := next.Stats().FlowsRefused
	c.send(t, &wire.EncryptedData{FlowID: 1, Payload: []byte("x")})
	if !c.until(func() bool { return next.Stats().FlowsRefused > refused }) {
		t.Error("a datagram of the closed flow was not refused")
	}
}

// TestHandoverReappliesAccessAndDirectory starts a successor that admits fewer clients and knows no other
// gateway.
func TestHandoverReappliesAccessAndDirectory(t *testing.T) {
	g, target := started(t, func(c *Config) {
		c.Directory = NewDirectory([]uri.Gateway{{Identity: exitID, Host: "127.0.0.1", Port: 9}}, nil)
		if err := c.Directory.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	clients := liveSessions(t, g, 2, target)
	for i, c := range clients {
		m := &wire.ForwardPacket{FlowID: 9, Flags: wire.FlagIdentity, Identity: exitID, Inner: inner(100+uint32(i), false)}
		if err := c.session.Send(wire.TypeForwardPacket, m, &c.out); err != nil {
			t.Fatal(err)
		}
		if !c.until(func() bool { return g.Stats().Bindings == uint64(i+1) }) {
			t.Fatal("no claim")
		}
	}
	next, _ := succeeded(t, g, func(config *Config) {
		config.Access = listing(func(id identity.PublicKey) bool { return id == testIdentity(11).Public() })
		config.Directory = NewDirectory(nil, nil)
	})
	if s := next.Stats(); s.Sessions != 1 || s.Flows != 1 || s.Bindings != 0 {
		t.Errorf("%d sessions, %d flows, %d claims; want 1, 1 and 0", s.Sessions, s.Flows, s.Bindings)
	}
	if !clients[0].until(func() bool { return clients[0].closed != nil }) {
		t.Error("the removed client was not notified")
	}
}

// TestHandoverKeepsAccounts: an account holds at the successor what it held, and nothing once its
// sessions have ended.
//
// Shows R12.7.
func TestHandoverKeepsAccounts(t *testing.T) {
	directory := func(c *Config) {
		c.Directory = NewDirectory([]uri.Gateway{{Identity: exitID, Host: "127.0.0.1", Port: 9}}, nil)
		if err := c.Directory.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	g, target := started(t, directory)
	for i, c := range liveSessions(t, g, 3, target) {
		m := &wire.ForwardPacket{FlowID: 9, Flags: wire.FlagIdentity, Identity: exitID, Inner: inner(100+uint32(i), false)}
		if err := c.session.Send(wire.TypeForwardPacket, m, &c.out); err != nil {
			t.Fatal(err)
		}
		if !c.until(func() bool { return g.Stats().Bindings == uint64(i+1) }) {
			t.Fatal("no claim")
		}
	}
	held := func() (n [5]int) {
		for i, r := range []account.Resource{account.Sessions, account.Flows, account.Forwards, account.Lookups, account.Claims} {
			n[i] = g.accounts.InUse(r)
		}
		return n
	}
	for round := range 2 {
		g, _ = succeeded(t, g, directory)
		if got := held(); got != [5]int{3, 3, 3, 0, 3} {
			t.Errorf("round %d: %v are held, want 3 sessions, 3 flows to targets, 3 to gateways, no lookup, 3 claims", round, got)
		}
	}
	g.closeSessions(t.Context())
	if got := held(); got != [5]int{} {
		t.Errorf("%v are held without a session", got)
	}
}

// TestHandoverOfTCPSessions hands over a gateway whose clients are on TCP: the successor inherits the
// port, and delivers the packets that are queued for the sessions.
func TestHandoverOfTCPSessions(t *testing.T) {
	g, target := started(t, withTCP)
	at := g.TCPAddrs()[0]
	var clients []*live
	for i := range byte(4) {
		l := dialStream(t, 2+i, at)
		l.connectStream(at)
		l.echoStream(at, target, "before")
		if n := len(l.answers(l.visit(at, l.datagram(target, "waits")))); n != 0 {
			t.Logf("%d answers came at once", n)
		}
		clients = append(clients, l)
	}
	waitUntil(t, func() bool { return g.Stats().QueuedBytes > 0 })
	next, _ := succeeded(t, g, nil)
	if got := next.TCPAddrs(); len(got) == 0 || got[0] != at {
		t.Fatalf("accepts on %v, before on %v", got, at)
	}
	waited := 0
	for _, l := range clients {
		l.got = nil
		for _, p := range l.answers(l.visit(at, l.poll(time.Second))) {
			l.handle(p)
		}
		waited += len(l.got)
		l.exchange(at)
		l.echoStream(at, target, "after")
	}
	if waited == 0 {
		t.Error("the queued packets are lost")
	}
}

// FuzzTakeOver loads arbitrary frames.
func FuzzTakeOver(f *testing.F) {
	f.Add([]byte{byte(handover.Shard), 2, 0, 0, 0, byte(handover.Sessions), 2, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newRig(t, nil)
		g := &Gateway{config: *r.shard.config, shards: []*Shard{r.shard}, kems: r.kems(t)}
		_ = g.load(func() (handover.Frame, error) {
			if len(b) < 2 {
				return handover.Frame{Kind: handover.End}, nil
			}
			n := min(int(b[1]), len(b)-2)
			next := handover.Frame{Kind: handover.Kind(b[0]), Payload: append([]byte(nil), b[2:2+n]...)}
			b = b[2+n:]
			return next, nil
		}, func() error { return nil }, &inheritedSockets{})
		r.shard.Tick()
	})
}

func (r *rig) kems(t testing.TB) *state.KEMKeys {
	t.Helper()
	kems, err := state.NewKEMKeys(r.now(), r.shard.config.KEMs, r.shard.config.Rand)
	if err != nil {
		t.Fatal(err)
	}
	return kems
}

// TestHandoverKeepsLocalPorts hands over a gateway whose flows have three of 40 local ports, one of them
// just closed: its successor takes the other 37 towards the same target.
func TestHandoverKeepsLocalPorts(t *testing.T) {
	g, target := started(t, func(c *Config) { c.Ports = egress.Range{19300, 19339} })
	clients := liveSessions(t, g, 3, target)
	if err := clients[0].session.Send(wire.TypeFlowClosed, &wire.FlowClosed{FlowID: 1, Reason: wire.FlowIdle}, &clients[0].out); err != nil {
		t.Fatal(err)
	}
	clients[0].until(func() bool { return g.Stats().Flows == 2 })
	next, _ := succeeded(t, g, nil)
	clients[1].goesOn(t, "on the same port")
	taken := 0
	for failures := 0; failures < 30; { // Take tries some ports only
		if _, err := next.ports.Take(target); err != nil {
			failures++
		} else {
			taken++
		}
	}
	if taken != 37 {
		t.Errorf("the successor takes %d ports", taken)
	}
}

// TestHandoverKeepsBandwidth: what clients have used counts once whoever records it, and the grants and
// registrations go on in the successor, before a ledger is open there.
//
// Shows R9.22.
func TestHandoverKeepsBandwidth(t *testing.T) {
	metering := func(c *Config) { c.Metering, c.Registration.Required = new(Metering), true }
	g, target := started(t, metering)
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), g.Addrs()[0].Port())
	clients := []*live{dialLive(t, 10, to), dialLive(t, 10, to), dialLive(t, 11, to)}
	for _, c := range clients {
		if !c.until(func() bool { return c.session != nil && c.session.Confirmed() }) {
			t.Fatal("no session")
		}
	}
	one, two := testIdentity(10).Public(), testIdentity(11).Public()
	grants := []ledger.Grant{{Number: 1, Bytes: 1000, Expires: time.Now().Add(time.Hour)}}
	for _, s := range g.shards {
		s.Do(func(_ time.Time, st *shardState) {
			st.eachClient(func(c *client) {
				st.endUnregistered(c)
				st.register(c, wire.ModeRelay, grants, false)
			})
		})
	}
	l, sent := &usageLedger{fail: errors.New("disk full")}, uint64(0)
	g.Meter().SetLedger(l)
	for i, c := range clients {
		c.send(t, &wire.EncryptedData{FlowID: 1, Flags: wire.FlagTarget, Target: wire.AddrTarget(target), Payload: []byte("first")})
		if !c.until(func() bool { return len(c.got) > 0 }) {
			t.Fatal("no echo")
		}
		if i < 2 {
			sent += 2 * 5
		}
	}
	for round := range 3 {
		g, _ = succeeded(t, g, metering)
		for _, c := range clients[:2] {
			c.goesOn(t, "more")
			sent += 2 * 4
		}
		if b, _ := g.Meter().Balance(one); b.Bytes != 1000-sent {
			t.Errorf("round %d: %d bytes are left, want %d", round, b.Bytes, 1000-sent)
		}
		if round == 1 {
			l.mu.Lock()
			l.fail = nil
			l.mu.Unlock()
			g.Meter().SetLedger(l)
		}
	}
	g, _ = succeeded(t, g, func(c *Config) { c.Metering, c.Registration.Required = new(Metering), false })
	if b, _ := g.Meter().Balance(one); !b.Unlimited {
		t.Errorf("%d bytes are left where nothing is counted any more", b.Bytes)
	}
	g.Meter().SetLedger(l)
	g.Close()
	if used := l.all(); used[one] != sent || used[two] != 10 {
		t.Errorf("%d and %d bytes were recorded, want %d and 10", used[one], used[two], sent)
	}
}

// TestHandoverRequiresRegistration: a session that did not have to register ends at a successor that requires it.
//
// Shows R9.24.
func TestHandoverRequiresRegistration(t *testing.T) {
	g, target := started(t, nil)
	c := liveSessions(t, g, 1, target)[0]
	next, how := succeeded(t, g, registering(true))
	if how.Sessions != 1 {
		t.Errorf("%+v", how)
	}
	if !c.until(func() bool { return c.session.Phase() == state.Ended }) {
		t.Error("the session goes on")
	}
	if s := next.Stats(); s.Sessions != 0 || s.Unregistered != 0 || s.UnregisteredExpired != 1 {
		t.Errorf("%d sessions, %d without a registration, %d closed", s.Sessions, s.Unregistered, s.UnregisteredExpired)
	}
}
