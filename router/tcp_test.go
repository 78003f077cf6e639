package router

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lewes/crypto/kem"
	"lewes/crypto/seal"
	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/tcp"
	"lewes/transport/uri"
)

// withTCP configures a gateway to serve TCP on a free port of loopback.
func withTCP(c *Config) {
	c.TCP.On = true
	c.TCP.Listen = tcp.Config{Addrs: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}}
}

// leakless fails the test if it leaves goroutines behind.
func leakless(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, ignore) })
}

// dialStream returns a client without UDP.
func dialStream(t testing.TB, identity byte, to netip.AddrPort) *live {
	t.Helper()
	l := &live{t: t, batch: make([]transport.Packet, 8)}
	config := state.ClientConfig{
		Gateway:  gatewayID.Public(),
		Identity: testIdentity(identity),
		KEM:      kem.MLKEM768,
		Suites:   seal.Offer(),
		Rand:     seeded(uint64(time.Now().UnixNano())),
		Path:     path.NewTCP(to, netip.Addr{}, 0),
	}
	config.Session.Stream = true
	var err error
	if l.client, err = state.NewClient(time.Now(), config, &l.out); err != nil {
		t.Fatal(err)
	}
	return l
}

// visit sends one packet over a new connection and returns the connection.
func (l *live) visit(to netip.AddrPort, packet []byte) net.Conn {
	l.t.Helper()
	conn, err := net.Dial("tcp", to.String())
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = conn.Close() })
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(packet))), packet...)); err != nil {
		l.t.Fatal(err)
	}
	return conn
}

// answers reads packets from a connection until the gateway closes it.
func (l *live) answers(conn net.Conn) [][]byte {
	l.t.Helper()
	defer conn.Close()
	packets, err := readFrames(conn)
	if err != nil {
		l.t.Fatalf("after %d packets: %v", len(packets), err)
	}
	return packets
}

// exchange sends the client's packets and handles the answers until there are no more packets.
// It returns the number of answers.
func (l *live) exchange(to netip.AddrPort) (answers int) {
	l.t.Helper()
	for len(l.out.Packets) > 0 {
		p := l.out.Packets[0]
		l.out.Packets = slices.Delete(l.out.Packets, 0, 1)
		for _, answer := range l.answers(l.visit(to, p.Data)) {
			answers++
			l.handle(answer)
		}
	}
	return answers
}

// message returns the packet of a sealed message of the client.
func (l *live) message(t wire.Type, m interface{ Append([]byte) []byte }) []byte {
	l.t.Helper()
	var out state.Output
	if err := l.session.Send(t, m, &out); err != nil {
		l.t.Fatal(err)
	}
	return out.Packets[0].Data
}

func (l *live) poll(wait time.Duration) []byte {
	return l.message(wire.TypePoll, &wire.Poll{WaitMillis: uint16(wait.Milliseconds())})
}

func (l *live) datagram(target netip.AddrPort, payload string) []byte {
	return l.message(wire.TypeEncryptedData, &wire.EncryptedData{FlowID: 1, Flags: wire.FlagTarget, Target: wire.AddrTarget(target), Payload: []byte(payload)})
}

// echoStream sends a datagram over TCP and polls until its echo arrives.
func (l *live) echoStream(to, target netip.AddrPort, payload string) {
	l.t.Helper()
	l.got = nil
	for _, p := range l.answers(l.visit(to, l.datagram(target, payload))) {
		l.handle(p)
	}
	for end := time.Now().Add(10 * time.Second); len(l.got) == 0 && time.Now().Before(end); {
		for _, p := range l.answers(l.visit(to, l.poll(2*time.Second))) {
			l.handle(p)
		}
		l.exchange(to)
	}
	l.exchange(to)
	if len(l.got) != 1 || l.got[0] != payload {
		l.t.Fatalf("echo of %d bytes: %d answers", len(payload), len(l.got))
	}
}

func (l *live) connectStream(to netip.AddrPort) {
	l.t.Helper()
	l.exchange(to)
	if l.session == nil || l.session.Terms() == (state.Terms{}) {
		l.t.Fatalf("no session: %v", l.client.Err())
	}
}

// TestSessionOverTCP establishes sessions over TCP alone, on both shards, and passes datagrams
// of any size.
//
// Shows R10.5, R10.7.
func TestSessionOverTCP(t *testing.T) {
	leakless(t)
	g, target := started(t, withTCP)
	at := g.TCPAddrs()[0]
	empty := func() bool {
		return slices.ContainsFunc(g.shards, func(s *Shard) bool { return s.Stats().Sessions == 0 })
	}
	for i := byte(0); empty() && i < 64; i++ {
		l := dialStream(t, 2+i, at)
		l.connectStream(at)
		for _, size := range []int{1, 1400, 2000, 20_000} {
			l.echoStream(at, target, string(bytes.Repeat([]byte{'a' + i%26}, size)))
		}
	}
	if empty() {
		t.Error("a shard has no session")
	}
	if s := g.Stats(); s.Misrouted != 0 || s.Malformed != 0 || s.Misplaced != 0 || s.QueueFull != 0 || s.QueueExpired != 0 {
		t.Errorf("counted %+v", s)
	}
	g.Shutdown(context.Background())
	if s := g.TCP(); s.Open != 0 {
		t.Errorf("%d connections are open after the end", s.Open)
	}
}

// TestSessionStaysAcrossTransports moves a session with a flow from UDP to TCP and back:
// datagrams follow the client.
func TestSessionStaysAcrossTransports(t *testing.T) {
	leakless(t)
	g, target := started(t, withTCP)
	at := g.TCPAddrs()[0]
	l := dialLive(t, 2, loopback(g))
	l.connect()
	s := g.sessionOf(l)
	for round := range 3 {
		l.echo(target, fmt.Sprint("over UDP ", round))
		if !l.until(func() bool { p, ok := s.PathFor(10_000); return ok && p.Transport == path.UDP }) {
			t.Fatal("the session is not wholly on UDP")
		}
		l.echoStream(at, target, fmt.Sprint("over TCP ", round))
		if s.Path().Transport != path.TCP {
			t.Fatal("the session is not on TCP")
		}
	}
	if s := g.Stats(); s.Sessions != 1 || s.FlowsOpened != 1 || s.Handshakes.Established != 1 {
		t.Errorf("%d sessions, %d flows, %d handshakes", s.Sessions, s.FlowsOpened, s.Handshakes.Established)
	}
}

// sessionOf returns the gateway's end of a client's session.
func (g *Gateway) sessionOf(l *live) *state.Session {
	l.t.Helper()
	index := l.session.Current().Index()
	s := g.shards[g.shards[0].steer.Shard(index)]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st.sessions.Find(index).Session()
}

// TestForwardingOverTCP reaches an exit through an entry over TCP.
func TestForwardingOverTCP(t *testing.T) {
	leakless(t)
	exitKey := testIdentity(9)
	exit, _ := started(t, func(c *Config) { c.Identity = exitKey })
	entry, _ := started(t, func(c *Config) {
		withTCP(c)
		c.Directory = NewDirectory([]uri.Gateway{{Identity: exitKey.Public(), Host: "127.0.0.1", Port: exit.Addrs()[0].Port()}}, nil)
		if err := c.Directory.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	to := entry.TCPAddrs()[0]
	l := dialStream(t, 2, to)
	l.connectStream(to)

	var out state.Output
	inner, err := state.NewClient(time.Now(), state.ClientConfig{
		Gateway:  exitKey.Public(),
		Identity: testIdentity(3),
		KEM:      kem.MLKEM768,
		Suites:   seal.Offer(),
		Rand:     seeded(uint64(time.Now().UnixNano())),
	}, &out)
	if err != nil {
		t.Fatal(err)
	}
	take := func(packets [][]byte) {
		for _, p := range packets {
			kind, content, err := l.session.Current().Open(time.Now(), p, path.Path{}, &l.out)
			if err != nil {
				t.Fatal(err)
			}
			if kind != wire.TypeForwardPacket {
				continue
			}
			m, err := wire.ParseForwardPacket(content)
			if err != nil {
				t.Fatal(err)
			}
			_ = inner.Handle(time.Now(), m.Inner, &out) // of no use to it: an answer that came twice
		}
	}
	for end := time.Now().Add(10 * time.Second); inner.Session() == nil; {
		if time.Now().After(end) {
			t.Fatal("no session with the exit within 10 s")
		}
		for _, p := range out.Packets {
			take(l.answers(l.visit(to, l.message(wire.TypeForwardPacket, &wire.ForwardPacket{FlowID: 1, Flags: wire.FlagIdentity, Identity: exitKey.Public(), Inner: p.Data}))))
		}
		out.Reset()
		take(l.answers(l.visit(to, l.poll(100*time.Millisecond))))
		inner.Tick(time.Now(), &out)
	}
	if s := entry.Stats(); s.Forwarded == 0 || s.Returned == 0 || s.QueueExpired+s.QueueFull != 0 {
		t.Errorf("counted %+v", s)
	}
}
