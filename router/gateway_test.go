package router

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/crypto/seal"
	"lewes/router/account"
	"lewes/router/policy"
	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/udp"
)

// started runs a gateway on loopback and an echo target.
func started(t testing.TB, change func(*Config)) (*Gateway, netip.AddrPort) {
	t.Helper()
	echo, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { echo.Close() })
	go func() {
		b := make([]byte, 64<<10)
		for {
			n, from, err := echo.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			_, _ = echo.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	at := echo.LocalAddr().(*net.UDPAddr).AddrPort()
	config := Config{
		Identity: gatewayID,
		KEMs:     []kem.ID{kem.MLKEM768},
		Policy:   allowing(t, at),
		Terms:    state.Terms{IdleTTL: time.Hour, RekeyAfter: time.Hour, MaxDatagram: wire.MaxUDPPacket},
		Shards:   2,
		Rate:     1000, Burst: 1000,
	}
	if change != nil {
		change(&config)
	}
	g, err := Start(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g, at
}

// allowing returns a policy that allows targets on this machine.
func allowing(t testing.TB, targets ...netip.AddrPort) *policy.Policy {
	t.Helper()
	var rules []policy.Rule
	for _, target := range targets {
		rule, err := policy.ParseRule(target.String())
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, rule)
	}
	return policy.New(policy.Config{Allow: rules})
}

// live is a client over a real socket.
type live struct {
	t       testing.TB
	conn    *udp.Conn
	client  *state.Client
	session *state.Session
	out     state.Output
	batch   []transport.Packet
	got     []string // payloads of EncryptedData
	closed  error
}

func dialLive(t *testing.T, identity byte, to netip.AddrPort) *live {
	t.Helper()
	conn, err := udp.Dial(to, udp.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	l := &live{t: t, conn: conn, batch: make([]transport.Packet, 8)}
	l.client, err = state.NewClient(time.Now(), state.ClientConfig{
		Gateway:  gatewayID.Public(),
		Identity: testIdentity(identity),
		KEM:      kem.MLKEM768,
		Suites:   seal.Offer(),
		Rand:     seeded(uint64(time.Now().UnixNano())),
		Path:     path.Path{Peer: to},
	}, &l.out)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// until runs the client until done, for at most 20 s.
func (l *live) until(done func() bool) bool {
	for end := time.Now().Add(20 * time.Second); !done(); {
		if time.Now().After(end) {
			return false
		}
		for _, p := range l.out.Packets {
			_, _ = l.conn.WriteBatch([]transport.Packet{{Data: p.Data, Path: p.Path}})
		}
		l.out.Reset()
		_ = l.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		n, _ := l.conn.ReadBatch(l.batch)
		for i := range l.batch[:n] {
			for datagram := range l.batch[i].Segments() {
				l.handle(datagram)
			}
		}
		if l.session == nil {
			l.client.Tick(time.Now(), &l.out)
		} else {
			l.session.Tick(time.Now(), &l.out)
		}
	}
	return true
}

func (l *live) handle(p []byte) {
	if l.session == nil {
		_ = l.client.Handle(time.Now(), p, &l.out)
		l.session = l.client.Session()
		return
	}
	g := l.session.Current()
	t, content, err := g.Open(time.Now(), p, path.Path{}, &l.out)
	if err != nil {
		return
	}
	if t == wire.TypeEncryptedData {
		l.got = append(l.got, string(content[wire.FlowHeaderSize:]))
		return
	}
	_ = l.session.Control(time.Now(), g, t, content, path.Path{}, &l.out)
	for _, e := range l.out.Events {
		if e.Kind == state.Closed {
			l.closed = e.Reason
		}
	}
}

func (l *live) connect() {
	l.t.Helper()
	if !l.until(func() bool { return l.session != nil && l.session.Terms() != state.Terms{} }) {
		l.t.Fatalf("no session within 5 s: %v", l.client.Err())
	}
}

// echo sends a datagram until its echo arrives: a gateway that has just learned that the client is
// still at its last address ignores a new one for a second.
func (l *live) echo(target netip.AddrPort, payload string) {
	l.t.Helper()
	var sent time.Time
	send := func() {
		sent = time.Now()
		m := &wire.EncryptedData{FlowID: 1, Flags: wire.FlagTarget, Target: wire.AddrTarget(target), Payload: []byte(payload)}
		if err := l.session.Send(wire.TypeEncryptedData, m, &l.out); err != nil {
			l.t.Fatal(err)
		}
	}
	send()
	l.got = nil
	if !l.until(func() bool {
		if time.Since(sent) > 2*time.Second {
			send()
		}
		return len(l.got) > 0
	}) || l.got[0] != payload {
		l.t.Fatalf("echo of %q: %q", payload, l.got)
	}
}

func TestGatewayOverBothFamilies(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
	g, target := started(t, nil)
	for _, bound := range g.Addrs() {
		host := netip.MustParseAddr("127.0.0.1")
		if bound.Addr().Is6() {
			host = netip.IPv6Loopback()
		}
		for i := range byte(6) { // over both shards
			l := dialLive(t, 2+i, netip.AddrPortFrom(host, bound.Port()))
			l.connect()
			l.echo(target, fmt.Sprintf("%v %d", host, i))
		}
	}
	for i, s := range g.shards {
		if s.Stats().Sessions == 0 {
			t.Errorf("shard %d has no session", i)
		}
	}
	if n, _ := g.Shutdown(context.Background()); n != 6*len(g.Addrs()) {
		t.Errorf("%d sessions closed, want %d", n, 6*len(g.Addrs()))
	}
}

func TestShutdownNotifiesClients(t *testing.T) {
	g, target := started(t, nil)
	l := dialLive(t, 2, loopback(g))
	l.connect()
	l.echo(target, "before")
	g.Shutdown(context.Background())
	if !l.until(func() bool { return l.closed != nil }) {
		t.Fatal("the client was not notified")
	}
	if why, ok := l.closed.(*state.PeerClosedError); !ok || why.Reason != wire.CloseShuttingDown {
		t.Errorf("closed because %v", l.closed)
	}
}

func loopback(g *Gateway) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), g.Addrs()[0].Port())
}

func TestOnlyListedClientsAreAdmitted(t *testing.T) {
	var mu sync.Mutex
	listed := map[identity.PublicKey]bool{testIdentity(2).Public(): true}
	g, target := started(t, func(c *Config) {
		c.Access = func(id identity.PublicKey) account.Standing {
			mu.Lock()
			defer mu.Unlock()
			return account.Standing{Admitted: listed[id], Listed: listed[id]}
		}
	})
	l := dialLive(t, 2, loopback(g))
	l.connect()
	l.echo(target, "listed")
	stranger := dialLive(t, 3, loopback(g))
	if !stranger.until(func() bool { return stranger.session != nil || g.Stats().Handshakes.Unlisted > 0 }) {
		t.Fatal("the refusal was not counted")
	}
	if n := g.Stats().Sessions; stranger.session != nil || n != 1 {
		t.Fatalf("a client that is not listed got a session; %d sessions", n)
	}
	mu.Lock()
	delete(listed, testIdentity(2).Public())
	mu.Unlock()
	if n := g.ReapplyAccess(); n != 1 {
		t.Errorf("%d sessions closed, want 1", n)
	}
	if !l.until(func() bool { return l.closed != nil }) {
		t.Error("the client that was removed from the list was not notified")
	}
}

// TestShardsShareTheBudgetOfASource sends the hellos of one source to a gateway of many shards: as many
// are accepted as the configuration says.
//
// Shows R12.2.
func TestShardsShareTheBudgetOfASource(t *testing.T) {
	const burst = 7
	g, _ := started(t, func(c *Config) { c.Shards, c.Rate, c.Burst = 16, 1e-6, burst })
	conn, err := net.Dial("udp", loopback(g).String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answers := map[wire.Type]int{}
	buffer := make([]byte, 2048)
	for n := range uint32(50) {
		h := newTestHello(time.Now(), 0x9E37_79B9*(n+1))
		if _, err := conn.Write(h.packet()); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		size, err := conn.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		kind, _, err := wire.ParseBody(wire.Body(buffer[:size]))
		if err != nil {
			t.Fatal(err)
		}
		answers[kind]++
	}
	if answers[wire.TypeAck] != burst || answers[wire.TypeBusy] != 50-burst {
		t.Errorf("answers to 50 hellos: %v, want %d Acks", answers, burst)
	}
}

func TestStartFailsIfPortIsTaken(t *testing.T) {
	g, _ := started(t, nil)
	_, err := Start(Config{
		Identity: gatewayID,
		KEMs:     []kem.ID{kem.MLKEM768},
		Policy:   policy.New(policy.Config{}),
		Shards:   1,
		Listen:   udp.Config{Addrs: []netip.AddrPort{g.Addrs()[0]}},
	})
	if err == nil {
		t.Fatal("a second gateway on the same port started")
	}
	t.Log(err)
}

// Shows R8.14.
func TestOnlyTheTargetAnswers(t *testing.T) {
	listen, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer listen.Close()
	at := listen.LocalAddr().(*net.UDPAddr).AddrPort()
	g, _ := started(t, func(c *Config) {
		c.Policy = allowing(t, at)
	})
	l := dialLive(t, 2, loopback(g))
	l.connect()
	m := &wire.EncryptedData{FlowID: 1, Flags: wire.FlagTarget, Target: wire.AddrTarget(at), Payload: []byte("x")}
	if err := l.session.Send(wire.TypeEncryptedData, m, &l.out); err != nil {
		t.Fatal(err)
	}
	done := make(chan netip.AddrPort)
	go func() {
		b := make([]byte, 100)
		_, from, _ := listen.ReadFromUDPAddrPort(b)
		done <- from
	}()
	var flow netip.AddrPort
	l.until(func() bool {
		select {
		case flow = <-done:
			return true
		default:
			return false
		}
	})
	stranger, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(flow))
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if _, err := stranger.Write([]byte("stranger")); err != nil {
		t.Fatal(err)
	}
	if _, err := listen.WriteToUDPAddrPort([]byte("target"), flow); err != nil {
		t.Fatal(err)
	}
	if !l.until(func() bool { return len(l.got) > 0 }) || fmt.Sprint(l.got) != "[target]" {
		t.Errorf("the client got %q", l.got)
	}
}

// TestSessionBoundIsOfTheGateway: with four shards and a bound of two sessions, two stand, whichever
// shards they select, and every other client is told to come back.
//
// Shows R12.3.
func TestSessionBoundIsOfTheGateway(t *testing.T) {
	g, _ := started(t, func(c *Config) {
		c.Shards, c.MaxSessions = 4, 2
		c.Access = func(identity.PublicKey) account.Standing { return account.Standing{Admitted: true, Listed: true} }
	})
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), g.Addrs()[0].Port())
	for i := range byte(2) {
		dialLive(t, i, to).connect()
	}
	for i := range byte(8) {
		if l := dialLive(t, 10+i, to); !l.until(func() bool { return g.Stats().Handshakes.Busy > uint64(i) || l.session != nil }) || l.session != nil {
			t.Errorf("client %d got a session beyond the bound, or no answer", i)
		}
	}
	if s := g.Stats(); s.Sessions != 2 {
		t.Errorf("%d sessions stand, want 2", s.Sessions)
	}
}
