package router

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport/tcp"
)

// talker is a target that sends datagrams when the test asks it to.
type talker struct {
	t    *testing.T
	conn *net.UDPConn
	flow netip.AddrPort // the gateway's end, once a datagram came
}

// withTalker starts a gateway with TCP, a target, and a client with a session over TCP and a
// flow to the target.
func withTalker(t *testing.T, change func(*Config)) (*Gateway, *talker, *live) {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	k := &talker{t: t, conn: conn}
	at := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	g, _ := started(t, func(c *Config) {
		withTCP(c)
		c.Policy = allowing(t, at)
		if change != nil {
			change(c)
		}
	})
	to := g.TCPAddrs()[0]
	l := dialStream(t, 2, to)
	l.connectStream(to)
	if n := len(l.answers(l.visit(to, l.datagram(at, "hello")))); n != 0 {
		t.Fatalf("%d answers to a datagram without an answer", n)
	}
	k.hear("hello")
	return g, k, l
}

// hear waits for a datagram of the client.
func (k *talker) hear(want string) {
	k.t.Helper()
	_ = k.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 2048)
	n, from, err := k.conn.ReadFromUDPAddrPort(b)
	if err != nil || string(b[:n]) != want {
		k.t.Fatalf("the target heard %q: %v", b[:n], err)
	}
	k.flow = from
}

// say sends datagrams to the client, and waits after each until the gateway has received it.
func (k *talker) say(g *Gateway, payloads ...string) {
	k.t.Helper()
	for _, p := range payloads {
		before := g.Stats().Down.Packets
		if _, err := k.conn.WriteToUDPAddrPort([]byte(p), k.flow); err != nil {
			k.t.Fatal(err)
		}
		eventually(k.t, "the gateway has the datagram", func() bool { return g.Stats().Down.Packets > before })
	}
}

func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not within 20 s: ", what)
		}
	}
}

// fetch polls once and returns the payloads received.
func (l *live) fetch(to netip.AddrPort, wait time.Duration) []string {
	l.t.Helper()
	l.got = nil
	for _, p := range l.answers(l.visit(to, l.poll(wait))) {
		l.handle(p)
	}
	return l.got
}

// TestPoll checks that a Poll is answered at once if packets are queued, or when one arrives, or
// closed without an answer at the end of its wait, which the gateway bounds.
//
// Shows R10.7, R10.8.
func TestPoll(t *testing.T) {
	leakless(t)
	const longest = 500 * time.Millisecond
	g, k, l := withTalker(t, func(c *Config) { c.TCP.PollWait = longest })
	to := g.TCPAddrs()[0]

	k.say(g, "one", "two", "three")
	if got := fmt.Sprint(l.fetch(to, 10*time.Second)); got != "[one two three]" {
		t.Errorf("what waited: %s", got)
	}

	conn := l.visit(to, l.poll(10*time.Second))
	eventually(t, "the Poll waits", func() bool { return g.Stats().Polls == 2 })
	k.say(g, "late")
	l.got = nil
	for _, p := range l.answers(conn) {
		l.handle(p)
	}
	if fmt.Sprint(l.got) != "[late]" {
		t.Errorf("a Poll that waited got %q", l.got)
	}

	for _, row := range []struct{ wait, want time.Duration }{
		{0, 0},
		{100 * time.Millisecond, 100 * time.Millisecond},
		{time.Minute, longest},
	} {
		start := time.Now()
		got := l.fetch(to, row.wait)
		if took := time.Since(start); len(got) != 0 || took < row.want-10*time.Millisecond {
			t.Errorf("a Poll of %v got %q after %v", row.wait, got, took)
		}
	}
	if s := g.TCP(); s.HoldTimeouts != 2 {
		t.Errorf("%d Polls timed out", s.HoldTimeouts)
	}
	if s := g.Stats(); s.Polls != 5 || s.Migrations != 0 || s.QueuedBytes != 0 {
		t.Errorf("counted %+v", s)
	}
}

// TestPollWaitIsCapped checks the default bound of a wait.
//
// Shows R10.8.
func TestPollWaitIsCapped(t *testing.T) {
	r := newRig(t, nil)
	content := (&wire.Poll{WaitMillis: 65_535}).Append(nil)
	if wait := r.shard.st.handlePoll(&rxContext{from: path.NewTCP(clientAt.Peer, netip.Addr{}, 1)}, content); wait != 10*time.Second {
		t.Errorf("a Poll of 65 s waits %v", wait)
	}
}

// TestPollOverUDP checks that a Poll over UDP is dropped.
//
// Shows R10.8.
func TestPollOverUDP(t *testing.T) {
	r := newRig(t, nil)
	p := r.connect(2, clientAt)
	p.send(wire.TypePoll, &wire.Poll{WaitMillis: 1000})
	if s := r.shard.Stats(); s.Misplaced != 1 || s.Polls != 0 || len(p.got) != 0 {
		t.Errorf("%d misplaced, %d Polls, %d answers", s.Misplaced, s.Polls, len(p.got))
	}
}

// TestNewerPollReplacesWaitingOne checks that the older Poll is closed without an answer.
//
// Shows R10.12.
func TestNewerPollReplacesWaitingOne(t *testing.T) {
	leakless(t)
	g, k, l := withTalker(t, nil)
	to := g.TCPAddrs()[0]
	older := l.visit(to, l.poll(10*time.Second))
	eventually(t, "the Poll waits", func() bool { return g.Stats().Polls == 1 })
	newer := l.visit(to, l.poll(10*time.Second))
	if got := l.answers(older); len(got) != 0 {
		t.Errorf("the older Poll got %d answers", len(got))
	}
	// Another packet in between takes its own answers; the Poll keeps waiting.
	ping := l.answers(l.visit(to, l.message(wire.TypePing, &wire.Ping{Data: [8]byte{1}})))
	if len(ping) != 1 {
		t.Errorf("%d answers to a Ping", len(ping))
	}
	k.say(g, "late")
	l.got = nil
	for _, p := range l.answers(newer) {
		l.handle(p)
	}
	if fmt.Sprint(l.got) != "[late]" {
		t.Errorf("the newer Poll got %q", l.got)
	}
	if s := g.Stats(); s.PollsReplaced != 1 {
		t.Errorf("%d replaced", s.PollsReplaced)
	}
}

// maxHeld is the default bound of a session's queue (section 12).
const maxHeld = 128 << 10

// TestPollQueueIsBounded checks that a full queue keeps the newest packets.
//
// Shows R10.7, R12.5.
func TestPollQueueIsBounded(t *testing.T) {
	leakless(t)
	var defaults TCP
	if defaults.fill(); defaults.MaxHeld != maxHeld {
		t.Errorf("%d bytes are queued for a session, want %d", defaults.MaxHeld, maxHeld)
	}
	g, k, l := withTalker(t, nil)
	to := g.TCPAddrs()[0]
	const size = 1000
	const framed = size + flowOverhead + frameLength
	const sent, fit = 200, maxHeld / framed
	for n := range sent {
		k.say(g, fmt.Sprintf("%04d", n)+strings.Repeat("x", size-4))
	}
	s := g.Stats()
	if s.QueuedBytes != fit*framed || s.QueueFull != sent-fit {
		t.Errorf("%d bytes wait and %d packets were dropped, want %d and %d", s.QueuedBytes, s.QueueFull, fit*framed, sent-fit)
	}
	got := l.fetch(to, 0)
	if len(got) != fit || !strings.HasPrefix(got[0], fmt.Sprintf("%04d", sent-fit)) || !strings.HasPrefix(got[fit-1], fmt.Sprintf("%04d", sent-1)) {
		t.Errorf("%d came, want the last %d", len(got), fit)
	}
	if s := g.Stats(); s.QueuedBytes != 0 {
		t.Errorf("%d bytes wait yet", s.QueuedBytes)
	}
}

// TestPollQueueExpires checks that packets that are not fetched expire without further events.
//
// Shows R12.5.
func TestPollQueueExpires(t *testing.T) {
	leakless(t)
	g, k, l := withTalker(t, func(c *Config) { c.TCP.HeldAge = 300 * time.Millisecond })
	k.say(g, "one", "two")
	if s := g.Stats(); s.QueuedBytes == 0 {
		t.Error("nothing waits")
	}
	eventually(t, "what waits is gone", func() bool { return g.Stats().QueuedBytes == 0 })
	if s := g.Stats(); s.QueueExpired != 2 || s.QueueFull != 0 {
		t.Errorf("%d packets too old, %d too many", s.QueueExpired, s.QueueFull)
	}
	if got := l.fetch(g.TCPAddrs()[0], 0); len(got) != 0 {
		t.Errorf("what was too old came: %q", got)
	}
	k.say(g, "three")
	if got := l.fetch(g.TCPAddrs()[0], 0); fmt.Sprint(got) != "[three]" {
		t.Errorf("afterwards came %q", got)
	}
}

// TestPollQueuesShareABound checks the bound of all sessions together: one account may use a third of
// it, whatever the number of shards. Then its other sessions get no room in their queues, but a Poll
// that waits is answered.
//
// Shows R10.8, R12.5.
func TestPollQueuesShareABound(t *testing.T) {
	leakless(t)
	const one = 100 + flowOverhead + frameLength
	g, k, l := withTalker(t, func(c *Config) { c.Shards, c.TCP.MaxHeldInAll, c.TCP.HeldAge = 4, 6*one, time.Hour })
	to := g.TCPAddrs()[0]
	for n := range 3 {
		k.say(g, fmt.Sprint(n)+strings.Repeat("x", 99))
	}
	if s := g.Stats(); s.QueuedBytes != 2*one || s.QueueFull != 1 {
		t.Errorf("%d bytes wait, %d packets were dropped", s.QueuedBytes, s.QueueFull)
	}
	for identity := range byte(4) { // on any shard
		other := dialStream(t, 3+identity, to)
		other.connectStream(to)
		other.answers(other.visit(to, other.datagram(k.conn.LocalAddr().(*net.UDPAddr).AddrPort(), "hello")))
		first := k.flow
		k.hear("hello")
		k.say(g, "no room")
		if got := other.fetch(to, 0); len(got) != 0 {
			t.Errorf("%q was queued", got)
		}
		polls := g.Stats().Polls
		poll := other.visit(to, other.poll(10*time.Second))
		eventually(t, "the Poll waits", func() bool { return g.Stats().Polls > polls })
		k.say(g, "delivered")
		other.got = nil
		for _, p := range other.answers(poll) {
			other.handle(p)
		}
		if fmt.Sprint(other.got) != "[delivered]" {
			t.Errorf("the Poll got %q", other.got)
		}
		k.flow = first
	}
	if s := g.Stats(); s.QueuedBytes != 2*one || s.QueueFull != 5 {
		t.Errorf("%d bytes wait, %d packets were dropped", s.QueuedBytes, s.QueueFull)
	}
	if got := l.fetch(to, 0); len(got) != 2 || got[0][0] != '1' {
		t.Errorf("%d came", len(got))
	}
	if n := g.Stats().QueuedBytes; n != 0 {
		t.Errorf("%d bytes wait yet", n)
	}
}

// TestPollQueueIsReleased checks that a queue is released when its session moves to UDP or
// closes.
func TestPollQueueIsReleased(t *testing.T) {
	leakless(t)
	g, k, l := withTalker(t, func(c *Config) { c.Shards = 1 })
	to, s := g.TCPAddrs()[0], g.sessionOf(l)
	k.say(g, "one", "two")
	// Back on UDP: queued packets follow it.
	l.conn = dialLive(t, 3, loopback(g)).conn
	l.got = nil
	l.session.SetPath(time.Now(), path.Path{Peer: loopback(g)}, &l.out)
	l.session.Ping(time.Now(), wire.MinPingPacket, &l.out)
	if !l.until(func() bool { return len(l.got) == 2 }) || fmt.Sprint(l.got) != "[one two]" {
		t.Fatalf("after the return came %q", l.got)
	}
	eventually(t, "it is forgotten", func() bool { return s.User.(*client).queue.Load() == nil })

	// Closed on TCP, with queued packets, a waiting Poll, or neither.
	other := dialStream(t, 4, to)
	other.connectStream(to)
	waits := other.visit(to, other.poll(10*time.Second))
	eventually(t, "the Poll waits", func() bool { return g.Stats().Polls == 1 })
	if n := len(other.answers(other.visit(to, other.message(wire.TypeClose, &wire.Close{})))); n != 0 {
		t.Errorf("%d answers to a Close", n)
	}
	if n := len(other.answers(waits)); n != 0 {
		t.Errorf("the Poll of a session that has ended got %d answers", n)
	}
	if s := g.Stats(); s.QueuedBytes != 0 || s.Sessions != 1 {
		t.Errorf("%d bytes wait, %d sessions", s.QueuedBytes, s.Sessions)
	}
}

// TestShutdownAnswersWaitingPoll checks that a waiting Poll receives the Close with its reason.
func TestShutdownAnswersWaitingPoll(t *testing.T) {
	leakless(t)
	g, _, l := withTalker(t, nil)
	conn := l.visit(g.TCPAddrs()[0], l.poll(10*time.Second))
	eventually(t, "the Poll waits", func() bool { return g.Stats().Polls == 1 })
	g.Shutdown(context.Background())
	for _, p := range l.answers(conn) {
		l.handle(p)
	}
	if why, ok := l.closed.(*state.PeerClosedError); !ok || why.Reason != wire.CloseShuttingDown {
		t.Errorf("closed because %v", l.closed)
	}
}

// TestUnauthenticatedPacketsOverTCP checks that a packet that authenticates nothing gets no
// answer, and that its connection is closed when an idle one is.
//
// Shows R10.11.
func TestUnauthenticatedPacketsOverTCP(t *testing.T) {
	leakless(t)
	const timeout = 700 * time.Millisecond
	g, _ := started(t, func(c *Config) {
		withTCP(c)
		c.TCP.Listen.ReceiveTimeout = timeout
	})
	to := g.TCPAddrs()[0]
	l := dialStream(t, 2, to)
	l.connectStream(to)
	forged := l.message(wire.TypePing, &wire.Ping{})
	forged[len(forged)-1] ^= 1
	replayed := l.message(wire.TypePing, &wire.Ping{})
	if n := len(l.answers(l.visit(to, replayed))); n != 1 {
		t.Fatalf("%d answers to a Ping", n)
	}
	hello := dialStream(t, 3, to).out.Packets[0].Data
	hello = bytes.Clone(hello)
	hello[len(hello)-1] ^= 1
	level3 := bytes.Repeat([]byte{0xff}, 100)
	small := wire.Finish(wire.Begin(nil, 0xABCD, wire.LevelTransport, 5, wire.TypePing))
	unknown := wire.Finish(append(wire.Begin(nil, 0xABCD, wire.LevelTransport, 5, wire.TypePing), make([]byte, 40)...))

	start := time.Now()
	idle, err := net.Dial("tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	conns := []net.Conn{idle}
	for _, packet := range [][]byte{forged, replayed, hello, level3, small, unknown, bytes.Repeat([]byte{7}, 60)} {
		conns = append(conns, l.visit(to, packet))
	}
	for n, conn := range conns {
		if got := l.answers(conn); len(got) != 0 {
			t.Errorf("connection %d got %d answers", n, len(got))
		}
		if took := time.Since(start); took < timeout-10*time.Millisecond {
			t.Errorf("connection %d was closed after %v", n, took)
		}
	}
}

// TestAnswersEndTheirConnection checks that the gateway closes a connection once it has
// answered, and that a Pong is not queued.
//
// Shows R10.5.
func TestAnswersEndTheirConnection(t *testing.T) {
	leakless(t)
	g, _ := started(t, func(c *Config) {
		withTCP(c)
		c.TCP.Listen.ReceiveTimeout = time.Minute
	})
	to := g.TCPAddrs()[0]
	l := dialStream(t, 2, to)
	l.connectStream(to) // whose reads end after 20 s
	for range 50 {
		if n := len(l.answers(l.visit(to, l.message(wire.TypePing, &wire.Ping{})))); n != 1 {
			t.Fatalf("%d answers to a Ping", n)
		}
	}
	if s := g.Stats(); s.Migrations != 0 || s.QueuedBytes != 0 {
		t.Errorf("a session on TCP moved %d times; %d bytes wait", s.Migrations, s.QueuedBytes)
	}
}

// TestLargePacketsOverTCP checks that max_datagram applies to UDP only.
func TestLargePacketsOverTCP(t *testing.T) {
	leakless(t)
	g, target := started(t, func(c *Config) {
		withTCP(c)
		c.Terms.MaxDatagram = 1100
	})
	to := g.TCPAddrs()[0]
	l := dialStream(t, 2, to)
	l.connectStream(to)
	l.echoStream(to, target, strings.Repeat("x", 9000))
	if s := g.Stats(); s.Malformed != 0 || s.TooLarge != 0 {
		t.Errorf("counted %+v", s)
	}
}

// TestTCPPortTaken checks that a gateway that cannot serve TCP serves UDP and logs the reason.
func TestTCPPortTaken(t *testing.T) {
	leakless(t)
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	core, logs := observer.New(zapcore.WarnLevel)
	g, target := started(t, func(c *Config) {
		c.TCP.On = true
		c.TCP.Listen = tcp.Config{Addrs: []netip.AddrPort{netip.MustParseAddrPort(taken.Addr().String())}}
		c.Logger = zap.New(core)
	})
	l := dialLive(t, 2, loopback(g))
	l.connect()
	l.echo(target, "over UDP")
	if n := logs.FilterMessageSnippet("cannot serve TCP").Len(); n != 1 {
		t.Errorf("%d warnings: %v", n, logs.All())
	}
	if len(g.TCPAddrs()) != 0 || g.TCP() != (tcp.Stats{}) {
		t.Error("it serves TCP nevertheless")
	}
}

// TestHandshakeAnswersWait sends more handshakes than a shard handles in one slice: each
// connection waits for its answer.
func TestHandshakeAnswersWait(t *testing.T) {
	leakless(t)
	g, _ := started(t, func(c *Config) {
		withTCP(c)
		c.TCP.Listen.MaxPerSource, c.Shards = 200, 1
	})
	to := g.TCPAddrs()[0]
	var clients []*live
	for range 40 {
		clients = append(clients, dialStream(t, 2, to))
	}
	for waiting := len(clients); waiting > 0; {
		waiting = 0
		conns := make([]net.Conn, len(clients))
		for i, l := range clients {
			if len(l.out.Packets) > 0 {
				conns[i] = l.visit(to, l.out.Packets[0].Data)
				l.out.Packets = l.out.Packets[1:]
			}
		}
		for i, conn := range conns {
			if conn == nil {
				continue
			}
			got := clients[i].answers(conn)
			if len(got) != 1 {
				t.Fatalf("client %d got %d answers", i, len(got))
			}
			clients[i].handle(got[0])
			waiting += len(clients[i].out.Packets)
		}
	}
	if s := g.Stats(); s.Sessions != 40 {
		t.Errorf("%d sessions of 40 clients", s.Sessions)
	}
}

// TestLostAnswerDoesNotBlockQueue closes a connection whose Poll is being answered: that answer
// is lost, later ones are not.
func TestLostAnswerDoesNotBlockQueue(t *testing.T) {
	leakless(t)
	g, k, l := withTalker(t, nil)
	to := g.TCPAddrs()[0]
	conn := l.visit(to, l.poll(10*time.Second)).(*net.TCPConn)
	eventually(t, "the Poll waits", func() bool { return g.Stats().Polls == 1 })
	_ = conn.SetLinger(0)
	_ = conn.Close()
	k.say(g, "lost")
	eventually(t, "the connection is gone", func() bool { return g.TCP().Open == 0 })
	k.say(g, "kept")
	got := l.fetch(to, 5*time.Second)
	if len(got) == 0 || got[len(got)-1] != "kept" {
		t.Errorf("came %q", got)
	}
}

// TestCopyOfHandshake3GetsAckAlone sends a copy of a client's Handshake 3 over TCP from the same
// address while packets wait for the session: the copy is answered by an Ack, and the packets stay
// for the client.
//
// Shows R5.22.
func TestCopyOfHandshake3GetsAckAlone(t *testing.T) {
	leakless(t)
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	k := &talker{t: t, conn: conn}
	at := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	g, _ := started(t, func(c *Config) {
		withTCP(c)
		c.Policy = allowing(t, at)
	})
	to := g.TCPAddrs()[0]
	l := dialStream(t, 2, to)
	for l.session == nil {
		packets := l.out.Packets
		l.out.Packets = nil
		for _, p := range packets {
			for _, answer := range l.answers(l.visit(to, p.Data)) {
				l.handle(answer)
			}
		}
	}
	handshake3 := bytes.Clone(l.out.Packets[0].Data)
	if n := l.exchange(to); n != 2 {
		t.Fatalf("%d answers to Handshake 3 and the Ping behind it", n)
	}
	l.answers(l.visit(to, l.datagram(at, "hello")))
	k.hear("hello")
	k.say(g, "one", "two", "three")
	for range 2 {
		answers := l.answers(l.visit(to, handshake3))
		if len(answers) != 1 {
			t.Fatalf("a copy of Handshake 3 got %d packets", len(answers))
		}
		if kind, _, err := l.session.Current().Open(time.Now(), answers[0], path.Path{}, &l.out); err != nil || kind != wire.TypeAck {
			t.Errorf("a copy of Handshake 3 got a packet of type %v: %v", kind, err)
		}
	}
	if got := fmt.Sprint(l.fetch(to, 0)); got != "[one two three]" {
		t.Errorf("the client got %s", got)
	}
}

// TestWaitingPollOutlastsStrangers has strangers take every connection of the client's source: its
// Poll keeps waiting and gets its packet, and its other packets find a place.
//
// Shows R12.10, R12.5.
func TestWaitingPollOutlastsStrangers(t *testing.T) {
	leakless(t)
	g, k, l := withTalker(t, func(c *Config) { c.TCP.Listen.MaxPerSource = 4 })
	to := g.TCPAddrs()[0]
	poll := l.visit(to, l.poll(10*time.Second))
	eventually(t, "the Poll waits", func() bool { return g.Stats().Polls == 1 })
	strangers := func() {
		for range 8 {
			conn, err := net.Dial("tcp", to.String())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
		}
	}
	strangers()
	eventually(t, "strangers are evicted", func() bool { return g.TCP().EvictedSource >= 5 })
	if n := len(l.answers(l.visit(to, l.message(wire.TypePing, &wire.Ping{Data: [8]byte{1}})))); n != 1 {
		t.Errorf("%d answers to a Ping", n)
	}
	strangers()
	k.say(g, "late")
	l.got = nil
	for _, p := range l.answers(poll) {
		l.handle(p)
	}
	if fmt.Sprint(l.got) != "[late]" {
		t.Errorf("the Poll got %q", l.got)
	}
	if s := g.TCP(); s.RefusedSource != 0 {
		t.Errorf("counted %+v", s)
	}
}
