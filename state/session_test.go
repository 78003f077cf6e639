package state

import (
	"bytes"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"strings"
	"testing"
	"time"
	"unsafe"

	"lewes/state/parts"
	"lewes/state/wire"
)

// How a session stays, is doubted and ends (sections 2, 6 and 11).

// kinds returns the kinds of a client's events since the last call.
func (c *clientEnd) kinds() (k []EventKind) {
	c.settle()
	for _, e := range c.events {
		k = append(k, e.Kind)
	}
	c.events = nil
	return k
}

// Shows R11.6.
func TestIdleSessionsEnd(t *testing.T) {
	for _, ttl := range []time.Duration{24 * time.Hour, time.Hour} {
		config := gatewayConfig(t, 1)
		config.Session.Terms.IdleTTL = ttl
		config.Session.Terms.RekeyAfter = 10 * 24 * time.Hour
		g := newGatewayEnd(t, config)
		c := newClientEnd(t, epoch, clientConfig(2))
		converse(epoch, c, g)
		last := epoch.Add(ttl - time.Minute)
		checkExchange(t, last, c, g) // an authentic packet makes it young again
		index := c.session.keys.current.index
		end := last.Add(ttl)
		g.tick(end.Add(-time.Nanosecond))
		c.tick(end.Add(-time.Nanosecond))
		if g.sessions.Len() != 1 || c.session.Phase() != Transport {
			t.Fatalf("ttl %v: the session went early", ttl)
		}
		// Forged and replayed packets don't keep a session alive.
		sendData(t, c.session, &c.out, "x")
		damaged := c.take()[0].Data
		damaged[20] ^= 1
		g.handle(end.Add(-time.Nanosecond), damaged, clientAt)
		g.tick(end)
		c.tick(end)
		if g.sessions.Len() != 0 || g.sessions.Find(index) != nil || len(g.closed) != 1 || !errors.Is(g.closed[0], ErrIdleTimeout) {
			t.Errorf("ttl %v: the gateway has %d sessions, closed %v", ttl, g.sessions.Len(), g.closed)
		}
		if c.session.Phase() != Ended || !c.next().IsZero() {
			t.Errorf("ttl %v: the client's session is %v", ttl, c.session.Phase())
		}
	}
}

// measure makes the round trip of an established session known.
func measure(c *clientEnd, g *gatewayEnd, now time.Time, rtt time.Duration) {
	c.session.Ping(now, wire.MinPingPacket, &c.out)
	up(now, c, g)
	down(now.Add(rtt), c, g)
}

// TestLivenessCheck asks a gateway that is gone, and one that is there.
//
// Shows R11.1.
func TestLivenessCheck(t *testing.T) {
	for _, rtt := range []time.Duration{20 * time.Millisecond, 200 * time.Millisecond} {
		c, g := established(t)
		measure(c, g, epoch, rtt)
		if c.session.RTT() != rtt {
			t.Fatalf("RTT %v, want %v", c.session.RTT(), rtt)
		}
		c.kinds()
		within := max(300*time.Millisecond, 3*rtt) // the first measurement varies by a half
		began := epoch.Add(time.Second)
		c.session.CheckLiveness(began, &c.out)
		c.session.CheckLiveness(began, &c.out) // once is enough
		pings, now := len(c.take()), began
		for len(c.events) == 0 && now.Before(epoch.Add(time.Hour)) {
			now = c.next()
			c.tick(now)
			pings += len(c.take())
		}
		if got := fmt.Sprint(c.kinds()); got != fmt.Sprint([]EventKind{PeerUnresponsive}) || pings != 3 {
			t.Errorf("RTT %v: %d Pings and events %v", rtt, pings, got)
		}
		if silent := now.Sub(began); silent < within-time.Millisecond || silent > within+time.Millisecond {
			t.Errorf("RTT %v: silent after %v, want %v", rtt, silent, within)
		}
		if c.session.Phase() != Transport {
			t.Error("a silent session is given up")
		}
		// What arrives unasked does not end the doubt. An answer does.
		for _, answered := range []bool{false, true} {
			c.session.CheckLiveness(now, &c.out)
			if answered {
				converse(now, c, g)
			} else {
				c.take()
				sendData(t, g.only(), &g.out, "here")
				down(now.Add(within/2), c, g)
			}
			for until := now.Add(time.Minute); now.Before(until); now = now.Add(50 * time.Millisecond) {
				c.tick(now)
			}
			if got := c.kinds(); (len(got) == 0) != answered {
				t.Errorf("RTT %v, answered %v: events %v", rtt, answered, got)
			}
		}
	}
}

// answersSim is a client's session with a peer at a distance, in virtual time.
type answersSim struct {
	t        *testing.T
	c        *clientEnd
	g        *gatewayEnd
	now      time.Time
	oneWay   time.Duration
	up, down bool // packets pass
	flying   []answersFly
	pings    []time.Duration // when the client sent Pings
	events   []EventKind
}

type answersFly struct {
	at   time.Time
	up   bool
	data []byte
}

func newAnswersSim(t *testing.T, rtt time.Duration) *answersSim {
	c, g := established(t)
	for range 40 { // the variation becomes small
		measure(c, g, epoch, rtt)
	}
	c.kinds()
	return &answersSim{t: t, c: c, g: g, now: epoch.Add(time.Minute), oneWay: rtt / 2, up: true, down: true}
}

// run passes time in steps of a millisecond. at is called for each, with the time since the start.
func (s *answersSim) run(d time.Duration, at func(time.Duration)) {
	s.pings, s.events = nil, nil
	for began, end := s.now, s.now.Add(d); s.now.Before(end); s.now = s.now.Add(time.Millisecond) {
		if at != nil {
			at(s.now.Sub(began))
		}
		if next := s.c.session.Deadline(); !next.IsZero() && !next.After(s.now) {
			s.c.tick(s.now)
		}
		for _, p := range s.c.take() {
			if len(p.Data) == wire.MinPingPacket {
				s.pings = append(s.pings, s.now.Sub(began))
			}
			if s.up {
				s.flying = append(s.flying, answersFly{s.now.Add(s.oneWay), true, p.Data})
			}
		}
		for _, p := range s.g.take() {
			if s.down {
				s.flying = append(s.flying, answersFly{s.now.Add(s.oneWay), false, p.Data})
			}
		}
		for len(s.flying) > 0 && !s.flying[0].at.After(s.now) {
			f := s.flying[0]
			s.flying = s.flying[1:]
			if f.up {
				s.g.handle(s.now, f.data, clientAt)
			} else {
				before := len(s.c.data)
				s.c.handle(s.now, f.data, gatewayAt)
				if len(s.c.data) > before {
					s.c.session.NoteReceived(s.now)
				}
			}
		}
		s.events = append(s.events, s.c.kinds()...)
	}
}

// sends sends a datagram of the client.
func (s *answersSim) sends() {
	sendData(s.t, s.c.session, &s.c.out, "up")
	if s.c.session.SentUnnoted() {
		s.c.session.NoteSent(s.now)
	}
}

// streams sends a datagram to the client.
func (s *answersSim) streams() { sendData(s.t, s.g.only(), &s.g.out, "down") }

func each(d time.Duration, f func()) func(time.Duration) {
	return func(at time.Duration) {
		if at%d == 0 {
			f()
		}
	}
}

// A Ping follows what was sent: two a second while datagrams are sent, whether others arrive or not,
// and none while none are.
//
// Shows R11.12.
func TestPingsFollowDatagrams(t *testing.T) {
	for _, rtt := range []time.Duration{10 * time.Millisecond, 100 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond} {
		for _, streams := range []bool{false, true} {
			s := newAnswersSim(t, rtt)
			s.run(20*time.Second, each(20*time.Millisecond, func() {
				s.sends()
				if streams {
					s.streams()
				}
			}))
			least, most := 19, 40
			if rtt > 500*time.Millisecond { // one is outstanding
				most = 26
			} else if !streams { // nothing else arrives
				most = 67
			}
			if n := len(s.pings); n < least || n > most || len(s.events) != 0 {
				t.Errorf("RTT %v, streams %v: %d Pings in 20 s, events %v", rtt, streams, n, s.events)
			}
			s.run(6*time.Second, nil)
			if n := len(s.pings); n > 3 { // a receiver's among them
				t.Errorf("RTT %v, streams %v: %d Pings after the last datagram", rtt, streams, n)
			}
			if at := s.c.session.liveness.deadline(s.c.session); !at.IsZero() {
				t.Errorf("RTT %v: a timer runs long after the last datagram", rtt)
			}
			s.run(time.Minute, nil)
			if n := len(s.pings); n != 0 {
				t.Errorf("RTT %v, streams %v: %d Pings in an idle minute", rtt, streams, n)
			}
		}
	}
}

// A direction that fails is noticed within the Ping's delay and the time for its answer, whatever
// arrives from the other one.
//
// Shows R11.12.
func TestDeadDirectionIsNoticed(t *testing.T) {
	for _, rtt := range []time.Duration{10 * time.Millisecond, 100 * time.Millisecond, 400 * time.Millisecond} {
		for _, dead := range []string{"up", "down"} {
			s := newAnswersSim(t, rtt)
			traffic := each(20*time.Millisecond, func() { s.sends(); s.streams() })
			s.run(5*time.Second, traffic)
			s.up, s.down = dead != "up", dead != "down"
			limit := 500*time.Millisecond + 2*max(300*time.Millisecond, 2*rtt)
			s.run(limit+500*time.Millisecond, traffic)
			if fmt.Sprint(s.events) != fmt.Sprint([]EventKind{PeerUnresponsive}) {
				t.Errorf("RTT %v, %s dead: events %v in %v", rtt, dead, s.events, limit)
			}
			if n := len(s.pings); n == 0 || n > 3 {
				t.Errorf("RTT %v, %s dead: Pings at %v: more than one waits for its answer", rtt, dead, s.pings)
			}
		}
	}
}

// A client that only receives asks once when datagrams stop, and never while they arrive at whatever
// rate, or were few.
//
// Shows R11.8.
func TestReceiverAsksOnceForEachStop(t *testing.T) {
	for _, gap := range []time.Duration{time.Millisecond, 20 * time.Millisecond, 120 * time.Millisecond} {
		s := newAnswersSim(t, 40*time.Millisecond)
		traffic := each(gap, s.streams)
		for range 3 {
			s.run(3*time.Second, traffic)
			if len(s.pings) != 0 {
				t.Errorf("each %v: Pings at %v while datagrams arrive", gap, s.pings)
			}
			s.run(10*time.Second, nil)
			if len(s.pings) != 1 || s.pings[0] > 600*time.Millisecond || len(s.events) != 0 {
				t.Errorf("each %v: Pings at %v after they stopped, events %v", gap, s.pings, s.events)
			}
		}
		s.run(3*time.Second, traffic)
		s.down = false
		s.run(5*time.Second, traffic)
		if fmt.Sprint(s.events) != fmt.Sprint([]EventKind{PeerUnresponsive}) {
			t.Errorf("each %v: events %v after the way back failed", gap, s.events)
		}
	}
	s := newAnswersSim(t, 40*time.Millisecond)
	s.run(10*time.Second, each(300*time.Millisecond, s.streams))
	s.run(10*time.Second, nil)
	if len(s.pings) != 0 {
		t.Errorf("Pings at %v for a few datagrams", s.pings)
	}
}

// The time for an answer follows RFC 9002.
//
// Shows R11.12.
func TestAnswerTime(t *testing.T) {
	var e rttEstimator
	s := &Session{}
	s.liveness.rtt = &e
	if got := s.AnswerTime(); got != 999*time.Millisecond {
		t.Errorf("%v before the first measurement", got)
	}
	ms := time.Millisecond
	for _, row := range []struct{ rtt, smoothed, variation, answer time.Duration }{
		{200 * ms, 200 * ms, 100 * ms, 600 * ms},
		{200 * ms, 200 * ms, 75 * ms, 500 * ms},
		{280 * ms, 210 * ms, 76250 * time.Microsecond, 515 * ms},
		{50 * ms, 190 * ms, 97187500 * time.Nanosecond, 578750 * time.Microsecond},
	} {
		e.measured(row.rtt)
		if e.smoothed != row.smoothed || e.variation != row.variation || s.AnswerTime() != row.answer {
			t.Errorf("after %v: %v, %v, answer within %v", row.rtt, e.smoothed, e.variation, s.AnswerTime())
		}
	}
}

// Shows R2.5, R2.4.
func TestPingIsAnsweredByOnePong(t *testing.T) {
	c, g := established(t)
	for _, size := range []int{wire.MinPingPacket, 100, 1000, 1400} {
		for _, ofClient := range []bool{true, false} {
			from, to := g.only(), c.session
			fromOut, handle := &g.out, func(p []byte) { c.handle(epoch, p, gatewayAt) }
			take := c.take
			if ofClient {
				from, to = c.session, g.only()
				fromOut, handle = &c.out, func(p []byte) { g.handle(epoch, p, clientAt) }
				take = g.take
			}
			token := from.Ping(epoch, size, fromOut)
			ping := fromOut.Packets[0].Data
			fromOut.Reset()
			if len(ping) != size {
				t.Errorf("a Ping of %d bytes has %d", size, len(ping))
			}
			if _, kind, content := openedBy(t, to, ping); kind != wire.TypePing || !bytes.Equal(content[:8], token[:]) {
				t.Errorf("a %v, %x", kind, content)
			}
			handle(ping)
			answer := take()
			if len(answer) != 1 || len(answer[0].Data) != 42 {
				t.Fatalf("%d answers to a Ping", len(answer))
			}
			if _, kind, content := openedBy(t, from, answer[0].Data); kind != wire.TypePong || !bytes.Equal(content, token[:]) {
				t.Errorf("the answer is a %v with %x, want %x", kind, content, token)
			}
			handle(bytes.Clone(ping))
			if got := take(); len(got) != 0 {
				t.Errorf("a Ping repeated got %d answers", len(got))
			}
		}
	}
	// Short ones, and those with something in their padding, get none.
	for _, content := range [][]byte{make([]byte, 29), make([]byte, 8), append(make([]byte, 29), 1), append(make([]byte, 100), 7)} {
		if err := c.session.Send(wire.TypePing, raw(content), &c.out); err != nil {
			t.Fatal(err)
		}
		up(epoch, c, g)
		if got := g.take(); len(got) != 0 {
			t.Errorf("a Ping of %d bytes of content got %d answers", len(content), len(got))
		}
	}
	checkExchange(t, epoch, c, g)
}

// TestCloseOnLivingKeys closes by a packet on the current keys, and on those of a child that only
// this packet proves.
//
// Shows R11.5.
func TestCloseOnLivingKeys(t *testing.T) {
	for _, onChild := range []bool{false, true} {
		c, g := established(t)
		parent := c.session.keys.current
		c.session.Rekey(epoch, &c.out)
		on := func() *KeySet { return c.session.keys.current }
		if onChild {
			up(epoch, c, g)
			down(epoch, c, g)
			c.take() // Ready is lost
			on = func() *KeySet { return c.session.rekey.initiator.child }
		} else {
			converse(epoch, c, g)
		}
		s := g.only()
		indexes := []uint32{parent.index, on().index}
		var out Output
		c.session.sendOn(on(), wire.TypeClose, &wire.Close{Reason: wire.CloseDone, Detail: wire.Detail("bye")}, &out)
		g.handle(epoch, out.Packets[0].Data, clientAt)
		var why *PeerClosedError
		if len(g.closed) != 1 || !errors.As(g.closed[0], &why) || why.Reason != wire.CloseDone || why.Detail != "bye" || !errors.Is(why, ErrPeerClosed) {
			t.Fatalf("on the child %v: closed %v", onChild, g.closed)
		}
		for _, index := range indexes {
			if g.sessions.Find(index) != nil {
				t.Errorf("index %#x still names a session", index)
			}
		}
		if g.sessions.Len() != 0 || s.Phase() != Ended || s.rekey.seed != [32]byte{} || s.exporter != [32]byte{} {
			t.Error("the session is not ended, or not wiped")
		}
		for _, k := range []*KeySet{s.keys.current} {
			if _, ok := fingerprintOf(k.receive); ok {
				t.Error("a key is left")
			}
		}
		if err := s.Send(wire.TypePing, &wire.Ping{}, &g.out); !errors.Is(err, ErrClosed) || len(g.take()) != 0 {
			t.Errorf("a closed session sends: %v", err)
		}
		s.Tick(epoch.Add(time.Hour), &g.out)
		s.RequestRekey(epoch.Add(time.Hour), &g.out)
		s.Close(wire.CloseDone, "again", &g.out)
		if len(g.out.Packets)+len(g.out.Events) != 0 {
			t.Error("a closed session goes on")
		}
		// The responder that still lingers does not bring it back.
		g.handle(epoch, out.Packets[0].Data, clientAt)
		if len(g.take()) != 0 || g.sessions.Len() != 0 {
			t.Error("a packet of a closed session has an effect")
		}
	}
}

// TestCloseOnDemotedKeys shows that whoever has stolen replaced keys can't end the session, while the
// client's own Close ends it whether the gateway has proved the child or not.
//
// Shows R7.24, R11.5.
func TestCloseOnDemotedKeys(t *testing.T) {
	c, g := established(t)
	parent := c.session.keys.current
	c.session.Rekey(epoch, &c.out)
	converse(epoch, c, g)
	var out Output
	c.session.sendOn(parent, wire.TypeClose, &wire.Close{}, &out)
	g.handle(epoch, out.Packets[0].Data, clientAt)
	if len(g.closed) != 0 || g.sessions.Len() != 1 {
		t.Error("a Close on demoted keys ended the session")
	}
	checkExchange(t, epoch, c, g)
	for _, readyLost := range []bool{false, true} {
		c, g := established(t)
		c.session.Rekey(epoch, &c.out)
		up(epoch, c, g)
		down(epoch, c, g)
		if ready := c.take(); !readyLost {
			g.handle(epoch, ready[0].Data, clientAt)
			g.take() // the Ack is lost
		}
		c.session.Close(wire.CloseDone, "", &c.out)
		up(epoch, c, g)
		if len(g.closed) != 1 || g.sessions.Len() != 0 {
			t.Errorf("Ready lost %v: the gateway closed %d sessions", readyLost, len(g.closed))
		}
	}
}

// TestCloseWhileRekeying closes with a subsession under way at both ends.
//
// Shows R11.5, R7.21.
func TestCloseWhileRekeying(t *testing.T) {
	c, g := established(t)
	c.session.Rekey(epoch, &c.out)
	up(epoch, c, g)
	down(epoch, c, g)
	c.take() // Ready is lost
	s := g.only()
	reply, offer := s.rekey.responder, c.session.rekey.initiator
	s.Close(wire.CloseShuttingDown, strings.Repeat("ü", 100), &g.out)
	converse(epoch, c, g)
	if s.Phase() != Ended || c.session.Phase() != Ended || len(g.sessions.table) != 0 {
		t.Errorf("gateway %v, client %v, %d indexes", s.Phase(), c.session.Phase(), len(g.sessions.table))
	}
	if reply.secrets != (rekeySecrets{}) || offer.psk != [32]byte{} || offer.child == nil {
		t.Error("the rekey's secrets are not wiped")
	}
	last := c.events[len(c.events)-1]
	var why *PeerClosedError
	if last.Kind != Closed || !errors.As(last.Reason, &why) || len(why.Detail) > wire.MaxDetail || why.Detail == "" {
		t.Errorf("the client's last event is %+v", last)
	}
}

// Shows R2.1, R1.4, R1.6, R5.33.
func TestDroppedMessages(t *testing.T) {
	c, g := established(t)
	s := g.only()
	before := shootSession(s)
	give := func(what string, kind wire.Type, content []byte, change func(p []byte)) {
		t.Helper()
		p := unsealed(c.session.keys.current.index, wire.LevelTransport, kind, raw(content))
		if change != nil {
			change(p)
		}
		if err := c.session.keys.current.sender.Seal(p); err != nil {
			t.Fatal(err)
		}
		drops := 0
		for _, n := range g.drops {
			drops -= n
		}
		g.handle(epoch, p, clientAt)
		for _, n := range g.drops {
			drops += n
		}
		after := shootSession(s)
		before.current.window, before.route.newest = after.current.window, after.route.newest
		before.route.any = true
		if len(g.take()) != 0 || after != before || drops != 1 {
			t.Errorf("%s: it changed %s, and was counted %d times", what, difference(before, after), drops)
		}
	}
	give("version 1", wire.TypePing, make([]byte, 30), func(p []byte) { p[wire.HeaderSize] = 1 })
	give("version 3", wire.TypePing, make([]byte, 30), func(p []byte) { p[wire.HeaderSize] = 3 })
	give("a reserved byte", wire.TypePing, make([]byte, 30), func(p []byte) { p[wire.HeaderSize+2] = 1 })
	for _, kind := range []wire.Type{0x0000, 0x0001, 0x0003, 0x0004, 0x0005, 0x0007, 0x000E, 0x000F, 0x0016, 0x0017, 0x0019, 0x1234, 0xFFFF} {
		give(fmt.Sprintf("type %v", kind), kind, []byte{1, 2, 3}, nil)
	}
	for _, kind := range []wire.Type{wire.TypeAck, wire.TypeSubsessionRequest, wire.TypeSubsessionKK2, wire.TypeRegisterResult} {
		give(fmt.Sprintf("%v, which only a gateway sends", kind), kind, make([]byte, 12), nil)
	}
	for kind, content := range map[wire.Type][]byte{
		wire.TypeSubsessionReady: {1, 0, 0, 0, 0},
		wire.TypeSubsessionAbort: {1, 0, 0, 0, 1, 0, 0, 0, 0},
		wire.TypeSubsessionKK1:   {0x55, 0, 0, 0, 0, 1},
		wire.TypePong:            make([]byte, 9),
		wire.TypeClose:           append([]byte{0}, bytes.Repeat([]byte("x"), 121)...),
	} {
		give(fmt.Sprintf("a %v with a wrong content", kind), kind, content, nil)
	}
	give("a Close with a detail that is no text", wire.TypeClose, []byte{0, 0xFF, 0xFE}, nil)
	give("a Close with nothing in it", wire.TypeClose, nil, nil)
	checkExchange(t, epoch, c, g)
}

// Shows R1.2, R1.3, R1.9.
func TestMalformedPacketsAreDropped(t *testing.T) {
	c, g := established(t)
	c.session.Ping(epoch, wire.MinPingPacket, &c.out)
	good := c.take()[0].Data
	before := shootGateway(g)
	for name, p := range map[string][]byte{
		"nothing":                 {},
		"33 bytes":                good[:33],
		"level 3":                 append(append(bytes.Clone(good[:11]), good[11]|0xC0), good[12:]...),
		"level 1 with a sequence": append(append(bytes.Clone(good[:4]), 1, 0, 0, 0, 0, 0, 0, 0x40), good[12:]...),
	} {
		if g.handle(epoch, p, clientAt); shootGateway(g) != before || len(g.take()) != 0 {
			t.Errorf("%s has an effect", name)
		}
	}
	// A clear packet is taken whatever its sequence.
	g = newGatewayEnd(t, gatewayConfig(t, 1))
	hello := g.changed(g.helloPacket(goodHello(epoch, 7)), func(p []byte) { p[4], p[9] = 0xAB, 0xCD })
	if a := g.askOne(epoch, hello, clientAt); a.kind != wire.TypeAck {
		t.Errorf("a hello with a sequence got %v", a.kind)
	}
}

// TestDeadlines runs sessions through hours of ticks with nothing to do: each
// tick moves the deadline into the future, so that the owner does not spin.
func TestDeadlines(t *testing.T) {
	config := gatewayConfig(t, 1)
	g := newGatewayEnd(t, config)
	client := clientConfig(2)
	client.Session.Keepalive = 25 * time.Second
	c := newClientEnd(t, epoch, client)
	converse(epoch, c, g)
	ticks := 0
	for now := epoch; now.Before(epoch.Add(6 * time.Hour)); {
		next := earliest(c.next(), g.next())
		if next.IsZero() || next.Before(now) {
			t.Fatalf("at %v the next deadline is %v", now.Sub(epoch), next.Sub(epoch))
		}
		if now = next; !c.next().After(now) {
			c.tick(now)
		}
		if !g.next().IsZero() && !g.next().After(now) {
			g.tick(now)
		}
		converse(now, c, g)
		ticks++
		if at := c.next(); !at.After(now) {
			t.Fatalf("after a tick at %v the client wants to be ticked at %v", now.Sub(epoch), at.Sub(epoch))
		}
		if at := g.next(); !at.IsZero() && !at.After(now) {
			t.Fatalf("after a tick at %v the gateway wants to be ticked at %v", now.Sub(epoch), at.Sub(epoch))
		}
	}
	if ticks > 6*60*15 { // of which ten a minute look whether the client was quiet
		t.Errorf("%d ticks in six hours of silence", ticks)
	}
	if n := g.only().keys.current.number; n != 24 {
		t.Errorf("generation %d after six hours of subsessions every 15 minutes", n)
	}
}

const keepaliveInterval = 25 * time.Second

// keptAlive returns two ends whose client keeps its session alive.
func keptAlive(t *testing.T) (*clientEnd, *gatewayEnd) {
	g := newGatewayEnd(t, gatewayConfig(t, 1))
	config := clientConfig(2)
	config.Session.Keepalive = keepaliveInterval
	c := newClientEnd(t, epoch, config)
	converse(epoch, c, g)
	if c.session == nil {
		t.Fatal("no session")
	}
	return c, g
}

// runKeepalive ticks the client for a while. deliver reports whether packets pass. It returns
// when packets were sent, and when the session was found silent.
func runKeepalive(c *clientEnd, g *gatewayEnd, from, to time.Duration, deliver bool) (sent, silent []time.Duration) {
	for at := from; at < to; at += 50 * time.Millisecond {
		now := epoch.Add(at)
		c.events = nil
		c.tick(now)
		packets := c.take()
		for _, e := range c.events {
			if e.Kind == PeerUnresponsive {
				silent = append(silent, at)
			}
		}
		if len(packets) > 0 {
			sent = append(sent, at)
		}
		if !deliver {
			continue
		}
		for _, p := range packets {
			g.handle(now, p.Data, clientAt)
		}
		converse(now, c, g)
	}
	return sent, silent
}

func TestKeepalivePingsEachInterval(t *testing.T) {
	c, g := keptAlive(t)
	runKeepalive(c, g, 0, 2*keepaliveInterval+time.Second, true)
	sent, silent := runKeepalive(c, g, 2*keepaliveInterval+time.Second, 6*keepaliveInterval+time.Second, true)
	if len(sent) != 4 || len(silent) != 0 {
		t.Errorf("Pings at %v, silent at %v; want one Ping each %s", sent, silent, keepaliveInterval)
	}
}

// An unused session detects an unresponsive peer as well: its keepalive is not answered.
func TestKeepaliveChecksIdleSession(t *testing.T) {
	c, g := keptAlive(t)
	runKeepalive(c, g, 0, 3*keepaliveInterval+time.Second, true)
	_, silent := runKeepalive(c, g, 3*keepaliveInterval+time.Second, 6*keepaliveInterval, false)
	if len(silent) != 1 || silent[0] > 4*keepaliveInterval+2*time.Second {
		t.Errorf("found silent at %v, want within an interval of %s", silent, keepaliveInterval)
	}
}

// TestExhaustedKeysEndSession fails to open one packet too many: the session
// wants to be ticked at once and ends.
//
// Shows R6.3.
func TestExhaustedKeysEndSession(t *testing.T) {
	for _, underWay := range []bool{false, true} {
		_, g := established(t)
		s := g.only()
		if underWay {
			s.RequestRekey(epoch, &g.out)
			g.take()
		}
		s.keys.current.failed = MaxPackets - 2
		forged := wire.Finish(append(wire.Begin(nil, s.keys.current.index, wire.LevelTransport, 50, wire.TypePing), make([]byte, 30)...))
		now := epoch.Add(time.Millisecond)
		for n, want := range []int{1, 0} {
			g.handle(now, bytes.Clone(forged), clientAt)
			for !g.next().After(now) {
				g.tick(now)
			}
			g.settle()
			if g.sessions.Len() != want {
				t.Fatalf("subsession under way %v: %d sessions after %d packets that failed", underWay, g.sessions.Len(), MaxPackets-1+uint64(n))
			}
			if want == 0 {
				break
			}
		}
		if len(g.closed) != 1 || g.closed[0] != ErrPacketLimit {
			t.Errorf("closed for %v", g.closed)
		}
	}
}

// TestProtocolConstants compares what the tests of this package go by with the
// numbers in PROTOCOL.md.
//
// Shows R1.20, R5.23, R6.11.
func TestProtocolConstants(t *testing.T) {
	for name, c := range map[string]struct{ got, want time.Duration }{
		"responder after Handshake 3": {responderLinger, 10 * time.Second},
		"validation of an address":    {validationTimeout, 3 * time.Second},
		"SubsessionRequest again":     {requestRetry, 5 * time.Second},
		"KK1 again, at first":         {rekeyRetry, 500 * time.Millisecond},
		"KK1 again, later":            {rekeySlowRetry, 10 * time.Second},
		"Acks for a demoted parent":   {ackInterval, 500 * time.Millisecond},
		"a demoted parent":            {DefaultDemotedTTL, time.Minute},
		"first repetition":            {firstRetry, 200 * time.Millisecond},
		"longest wait":                {longestRetry, time.Second},
		"deadline":                    {DefaultDeadline, 10 * time.Second},
		"handshake_ttl":               {(&GatewayConfig{}).handshakeTTL(), 90 * time.Second},
		"tolerance":                   {(&GatewayConfig{}).tolerance(), 30 * time.Second},
		"largest probe every":         {confirmEvery, 30 * time.Second},
		"larger sizes probed every":   {raiseEvery, 10 * time.Minute},
		"probes of a size":            {probeWait, 500 * time.Millisecond},
		"keys of a KEM are offered":   {kemRenewal, 24 * time.Hour},
		"keys of a KEM are accepted":  {kemAccepted, time.Hour},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v, want %v", name, c.got, c.want)
		}
	}
	for name, c := range map[string]struct{ got, want int }{
		"tries a second and responder": {triesPerSecond, 4},
		"early packets of a responder": {maxEarlyPackets, 4},
		"memory of handshakes":         {defaultHandshakeMemory, 64 << 20},
		"responders":                   {(&GatewayConfig{}).maxHandshakes(), 65_536},
		"tries before cookies":         {(&GatewayConfig{}).cookieThreshold(), 500},
		"amplification":                {amplificationFactor, 3},
		"quick repetitions of KK1":     {rekeyFastTries, 5},
		"attempts":                     {maxAttempts, 3},
		"Acks kept":                    {maxAcks, 4},
		"Handshake 2 packets kept":     {maxHandshake2s, 2},
		"Pings in doubt":               {livenessPings, 3},
		"probes of each size":          {probeTries, 3},
		"what fits every path":         {basePacket, 1232},
		"new keys at":                  {DefaultRekeyPackets, 1 << 28},
		"keys spent at":                {MaxPackets, 1 << 34},
		"a handshake message":          {parts.MaxHandshake, 4096},
		"a Register":                   {parts.MaxRegister, 8192},
		"smallest hello":               {wire.MinHelloDatagram, 1000},
		"largest handshake packet":     {wire.MaxHandshakeDatagram, 1080},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d, want %d", name, c.got, c.want)
		}
	}
}

// Deadlines grows and shrinks by whole blocks that never move, so that no insertion
// costs more than one allocation and one path through the heap.
func TestDeadlinesGrowWithoutCopying(t *testing.T) {
	const timerCount = 20 * perBlock
	var d Deadlines[int]
	timers := make([]Timer[int], timerCount)
	var made []*[perBlock]*Timer[int]
	for i := range timers {
		d.Set(&timers[i], epoch.Add(time.Duration(mathrand.Int64N(int64(time.Hour)))))
		if len(d.heap.blocks.blocks) > len(made)+1 {
			t.Fatalf("timer %d: %d blocks made at once", i, len(d.heap.blocks.blocks)-len(made))
		}
		if len(d.heap.blocks.blocks) > len(made) {
			made = append(made, d.heap.blocks.blocks[len(made)])
		}
	}
	if want := timerCount / perBlock; len(made) != want {
		t.Fatalf("%d blocks for %d timers, want %d", len(made), timerCount, want)
	}
	for i, b := range d.heap.blocks.blocks {
		if b != made[i] {
			t.Errorf("block %d has moved", i)
		}
	}
	for range timers {
		if _, ok := d.Pop(epoch.Add(time.Hour)); !ok {
			t.Fatal("a timer is missing")
		}
		if spare := len(d.heap.blocks.blocks)*perBlock - d.heap.n; spare >= 2*perBlock {
			t.Fatalf("%d places stay allocated for %d timers", spare+d.heap.n, d.heap.n)
		}
	}
}

// A gateway holds a million sessions. What the allocator gives out comes in
// classes: past one of these sizes each of them takes 64 bytes more.
func TestSessionFitsSizeClass(t *testing.T) {
	const header = 8 // the allocator's, on objects above 512 bytes with pointers
	for _, row := range []struct {
		what       string
		size, most uintptr
	}{
		{"Session", unsafe.Sizeof(Session{}), 576 - header},
		{"Generation", unsafe.Sizeof(KeySet{}), 160},
		{"waypoint", unsafe.Sizeof(pathState{}), 96},
	} {
		if row.size > row.most {
			t.Errorf("a %s has %d bytes, its size class ends at %d", row.what, row.size, row.most)
		}
	}
}
