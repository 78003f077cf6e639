package state

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

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
func TestIdleSessionsGo(t *testing.T) {
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
		// What does not open, and what was seen before, keeps nothing alive.
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

// TestDoubt asks a gateway that is gone, and one that is there.
//
// Shows R11.3.
func TestDoubt(t *testing.T) {
	for _, rtt := range []time.Duration{0, 20 * time.Millisecond, 200 * time.Millisecond} {
		c, g := established(t)
		if rtt > 0 { // measure it
			c.session.Ping(epoch, wire.MinPingPacket, &c.out)
			up(epoch, c, g)
			down(epoch.Add(rtt), c, g)
			if c.session.RTT() != rtt {
				t.Fatalf("RTT %v, want %v", c.session.RTT(), rtt)
			}
		}
		c.kinds()
		within := max(300*time.Millisecond, 4*rtt)
		c.session.CheckLiveness(epoch, &c.out)
		c.session.CheckLiveness(epoch, &c.out) // once is enough
		pings, now := len(c.take()), epoch
		for len(c.events) == 0 && now.Before(epoch.Add(time.Hour)) {
			now = c.next()
			c.tick(now)
			pings += len(c.take())
		}
		if got := fmt.Sprint(c.kinds()); got != fmt.Sprint([]EventKind{PeerUnresponsive}) || pings != 3 {
			t.Errorf("RTT %v: %d Pings and events %v", rtt, pings, got)
		}
		if silent := now.Sub(epoch); silent < within-time.Millisecond || silent > within+time.Millisecond {
			t.Errorf("RTT %v: silent after %v, want %v", rtt, silent, within)
		}
		if c.session.Phase() != Transport {
			t.Error("a silent session is given up")
		}
		// Any authentic packet ends the doubt.
		c.session.CheckLiveness(now, &c.out)
		c.take()
		sendData(t, g.only(), &g.out, "here")
		down(now.Add(within/2), c, g)
		for at := within / 2; at < time.Minute; at += 50 * time.Millisecond {
			c.tick(now.Add(at))
		}
		if got := c.kinds(); len(got) != 0 {
			t.Errorf("RTT %v: after a sign of life: %v", rtt, got)
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

// TestCloseOnAnyKeys closes by a packet on the present keys and on those of a
// parent that is demoted.
//
// Shows R11.5.
func TestCloseOnAnyKeys(t *testing.T) {
	for _, onParent := range []bool{false, true} {
		c, g := established(t)
		parent := c.session.keys.current
		c.session.Rekey(epoch, &c.out)
		converse(epoch, c, g)
		s := g.only()
		indexes := []uint32{parent.index, s.keys.current.index}
		var out Output
		on := c.session.keys.current
		if onParent {
			on = parent
		}
		c.session.sendOn(on, wire.TypeClose, &wire.Close{Reason: wire.CloseDone, Detail: wire.Detail("bye")}, &out)
		g.handle(epoch, out.Packets[0].Data, clientAt)
		g.take() // the Ack that a packet on the parent gets
		var why *PeerClosedError
		if len(g.closed) != 1 || !errors.As(g.closed[0], &why) || why.Reason != wire.CloseDone || why.Detail != "bye" || !errors.Is(why, ErrPeerClosed) {
			t.Fatalf("on the parent %v: closed %v", onParent, g.closed)
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
		// The record that still lingers does not bring it back.
		g.handle(epoch, out.Packets[0].Data, clientAt)
		if len(g.take()) != 0 || g.sessions.Len() != 0 {
			t.Error("a packet of a closed session has an effect")
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
		t.Error("what was to make a child is not wiped")
	}
	last := c.events[len(c.events)-1]
	var why *PeerClosedError
	if last.Kind != Closed || !errors.As(last.Reason, &why) || len(why.Detail) > wire.MaxDetail || why.Detail == "" {
		t.Errorf("the client's last event is %+v", last)
	}
}

// Shows R2.1, R1.4, R1.6, R5.33.
func TestWhatASessionDrops(t *testing.T) {
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
func TestPacketsThatAreNone(t *testing.T) {
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
// tick puts the deadline into the future, so that nobody spins.
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
