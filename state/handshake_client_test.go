package state

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"lewes/crypto/cookie"
	"lewes/crypto/kdf"
	"lewes/crypto/kem"
	"lewes/crypto/kkt"
	"lewes/crypto/seal"
	"lewes/state/parts"
	"lewes/state/path"
	"lewes/state/wire"
)

// What a client makes of what a gateway, or somebody else, says in clear
// (section 2), and how it goes on (sections 4, 5 and 10).

// hellos returns the ClientHellos among packets.
func hellos(t testing.TB, packets []Packet) (out []wire.ClientHello) {
	t.Helper()
	for _, p := range packets {
		if h, err := wire.ParseHeader(p.Data); err != nil || h.ReceiverIdx != 0 {
			continue
		}
		_, content, err := wire.ParseBody(wire.Body(p.Data))
		if err != nil {
			t.Fatal(err)
		}
		m, err := wire.ParseClientHello(content)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, m)
	}
	return out
}

// say passes a clear packet in the gateway's name to the client.
func (c *clientEnd) say(now time.Time, index uint32, t wire.Type, m message) {
	c.handle(now, clearPacket(cookie.NewMAC1Key(c.client.config.Gateway), index, t, m), gatewayAt)
}

// converseWith is converse between ends whose clocks differ.
func converseWith(client, gateway time.Time, c *clientEnd, g *gatewayEnd) {
	for {
		up, down := c.take(), g.take()
		if len(up)+len(down) == 0 {
			return
		}
		for _, p := range up {
			g.handle(gateway, p.Data, clientAt)
		}
		for _, p := range down {
			c.handle(client, p.Data, gatewayAt)
		}
	}
}

// wait ticks a client without answers until its handshake has failed.
func (c *clientEnd) wait(now time.Time) (failed time.Time, sent []Packet) {
	for range 1000 {
		sent = append(sent, c.take()...)
		if c.client.Err() != nil {
			return now, sent
		}
		now = c.next()
		c.tick(now)
	}
	c.t.Fatal("the handshake does not fail")
	return now, nil
}

// TestHeldEndsAttempt: only a client that doubts a session is told that the gateway still has it, and
// the forged answer to any other hello means nothing.
//
// Shows R2.2, R2.9, R2.15, R4.9.
func TestHeldEndsAttempt(t *testing.T) {
	_, g := established(t)
	config := clientConfig(4)
	config.Doubted = g.only().keys.current.index
	c := newClientEnd(t, epoch, config)
	converse(epoch, c, g)
	if !errors.Is(c.client.Err(), ErrHeld) || c.session != nil || g.sessions.Len() != 1 {
		t.Errorf("the client ends with %v, %d sessions", c.client.Err(), g.sessions.Len())
	}
	c = newClientEnd(t, epoch, clientConfig(5))
	c.say(epoch, c.client.attempts[0].index, wire.TypeHeld, &wire.Empty{}) // forged
	converse(epoch, c, g)
	if c.session == nil || len(c.client.attempts) != 1 {
		t.Fatalf("%d attempts, session %v", len(c.client.attempts), c.session)
	}
}

// Shows R2.10.
func TestCookieIsAnsweredAtOnce(t *testing.T) {
	config := gatewayConfig(t, 1)
	config.Burst = 1
	g := newGatewayEnd(t, config)
	g.askOne(epoch, g.helloPacket(goodHello(epoch, 7)), clientAt)
	c := newClientEnd(t, epoch, clientConfig(2))
	flight := c.take()
	first := hellos(t, flight)[0]
	for _, p := range flight {
		g.handle(epoch, p.Data, clientAt)
	}
	for _, p := range g.take() {
		c.handle(epoch, p.Data, gatewayAt)
	}
	second := hellos(t, c.out.Packets)
	if len(second) != 1 || !second[0].HasCookie || second[0].Hello() != first.Hello() {
		t.Fatalf("after Busy the client sends %+v", second)
	}
	converse(epoch, c, g)
	if c.session == nil {
		t.Fatalf("no session: %v, %v", c.drops, g.drops)
	}
	checkExchange(t, epoch, c, g)
}

// TestGenuineCookieAmongForgedOnes has a gateway that wants a cookie and a forger who
// sends others before it.
//
// Shows R2.6, R2.10, R4.20.
func TestGenuineCookieAmongForgedOnes(t *testing.T) {
	for seed := range uint64(10) {
		w := newWorld(t, seed, steady(seed), steady(seed), func(g *GatewayConfig, _ *ClientConfig) { g.Burst = 1 })
		w.gateway.askOne(epoch, w.gateway.helloPacket(goodHello(epoch, 7)), clientAt)
		newObserver(w, forgedBusy)
		w.dial()
		if !w.run(handshakeDeadline, w.joined) {
			t.Fatalf("seed %d: no session: %v, %v", seed, w.client.drops, w.gateway.drops)
		}
		// Two round trips and a half, one for the cookie, and at most one
		// repetition.
		if took, most := w.now.Sub(epoch), 7*w.up.delay+firstRetry+firstRetry/10; took > most {
			t.Errorf("seed %d: it took %v, more than %v", seed, took, most)
		}
	}
}

// TestWrongClockIsCorrectedByReject has a client whose clock is wrong: the gateway says by how
// much, and the second attempt goes by its clock. Nothing else does.
//
// Shows R2.12.
func TestWrongClockIsCorrectedByReject(t *testing.T) {
	for _, off := range []time.Duration{time.Hour, -time.Hour, 31 * time.Second, -40 * 365 * 24 * time.Hour} {
		for _, known := range []bool{false, true} {
			g := newGatewayEnd(t, gatewayConfig(t, 1))
			config := clientConfig(2)
			if known {
				config.KnownKEM = g.responders.config.KEMs.Find(config.KEM, 0).Public()
			}
			here := epoch.Add(off)
			c := newClientEnd(t, here, config)
			converseWith(here, epoch, c, g)
			if c.session == nil || g.sessions.Len() != 1 || len(c.client.attempts) != 2 {
				t.Fatalf("%v off, KEM key known %v: %d attempts, drops %v, %v", off, known, len(c.client.attempts), c.drops, g.drops)
			}
			if got := c.client.attempts[1].hello.Seconds(); got != uint64(epoch.Unix()) {
				t.Errorf("%v off: the second hello's time is %d, not the gateway's", off, got)
			}
			if s := c.session; !s.lastOpened.Equal(here) || !s.Started().Equal(here) || !c.client.Progress().Started.Equal(here) {
				t.Errorf("%v off: the session goes by the gateway's clock", off)
			}
		}
	}
}

// TestClockIsCorrectedOnce has a gateway that refuses the second attempt as
// well: there is no third, and the error names both clocks.
//
// Shows R2.8, R2.12, R10.3.
func TestClockIsCorrectedOnce(t *testing.T) {
	for _, theirs := range []time.Time{epoch.Add(5 * time.Hour), time.Unix(0, 0), time.Unix(1<<60, 0), time.Unix(-1, 0)} {
		c := newClientEnd(t, epoch, clientConfig(2))
		at := epoch.Add(time.Second)
		seconds := uint64(theirs.Unix())
		for range 5 {
			for _, i := range c.client.attempts {
				c.say(at, i.index, wire.TypeReject, &wire.Reject{Code: wire.RejectClock, GatewaySeconds: seconds})
			}
		}
		if n := len(c.client.attempts); n != 2 {
			t.Errorf("a gateway at %v: %d attempts, want 2", theirs, n)
		}
		failed, _ := c.wait(at)
		if !failed.Equal(epoch.Add(DefaultDeadline)) {
			t.Errorf("a gateway at %v: given up after %v", theirs, failed.Sub(epoch))
		}
		text := c.client.Err().Error()
		here, there := at.UTC().Format(time.RFC3339), time.Unix(int64(seconds), 0).UTC().Format(time.RFC3339)
		if !strings.Contains(text, here) || !strings.Contains(text, there) {
			t.Errorf("the error %q does not name both clocks, %s and %s", text, here, there)
		}
	}
}

// TestAbsurdClockHintIsIgnored forges a clock that no credential can bear, for a
// client that would make Handshake 1 with it at once.
//
// Shows R2.6, R2.12.
func TestAbsurdClockHintIsIgnored(t *testing.T) {
	for _, seconds := range []uint64{0, 1 << 40, 1 << 62, 1 << 63, 1<<63 - 1, ^uint64(0)} {
		g := newGatewayEnd(t, gatewayConfig(t, 1))
		config := clientConfig(2)
		config.KnownKEM = g.responders.config.KEMs.Find(config.KEM, 0).Public()
		c := newClientEnd(t, epoch, config)
		c.say(epoch, c.client.attempts[0].index, wire.TypeReject, &wire.Reject{Code: wire.RejectClock, GatewaySeconds: seconds})
		if err := c.client.Err(); err != nil {
			t.Fatalf("a forged clock of %d ends the handshake: %v", seconds, err)
		}
		converse(epoch, c, g)
		if c.session == nil {
			t.Errorf("after a forged clock of %d there is no session: %v, %v", seconds, c.drops, g.drops)
		}
	}
}

// Shows R2.11, R4.11.
func TestStaleKEMKeyFallsBackToKKT(t *testing.T) {
	g := newGatewayEnd(t, gatewayConfig(t, 1))
	config := clientConfig(2)
	pair, err := kem.Generate(kem.MLKEM768, seeded(5))
	if err != nil {
		t.Fatal(err)
	}
	config.KnownKEM = pair.Public()
	c := newClientEnd(t, epoch, config)
	converse(epoch, c, g)
	if c.session == nil || len(c.client.attempts) != 2 || c.client.attempts[1].request == nil {
		t.Fatalf("%d attempts, session %v", len(c.client.attempts), c.session)
	}
	key, byKKT := c.client.KEMKey()
	if !byKKT || !bytes.Equal(key, g.responders.config.KEMs.Find(kem.MLKEM768, 0).Public()) {
		t.Errorf("KEM key %x…, by KKT: %v", key[:8], byKKT)
	}
	checkExchange(t, epoch, c, g)
	// One that ran KKT already does not run it for a forged Reject 6.
	c = newClientEnd(t, epoch, clientConfig(3))
	c.say(epoch, c.client.attempts[0].index, wire.TypeReject, &wire.Reject{Code: wire.RejectStaleKey})
	if n := len(c.client.attempts); n != 1 {
		t.Errorf("a Reject 6 to a client that runs KKT makes %d attempts", n)
	}
}

// TestKnownKEMKeySkipsKKT completes a handshake with a kept KEM key: one round trip to the
// first data, and no KKT.
//
// Shows R4.31, R5.32.
func TestKnownKEMKeySkipsKKT(t *testing.T) {
	for _, id := range []kem.ID{kem.MLKEM768, kem.XWing} {
		g := newGatewayEnd(t, gatewayConfig(t, 1))
		config := clientConfig(2)
		config.KEM = id
		config.KnownKEM = g.responders.config.KEMs.Find(id, 0).Public()
		c := newClientEnd(t, epoch, config)
		flight := c.take()
		if len(flight) != 3 || len(hellos(t, flight)) != 1 {
			t.Fatalf("%v: the first flight has %d packets", id, len(flight))
		}
		for _, p := range flight {
			g.handle(epoch, p.Data, clientAt)
		}
		for _, p := range g.take() {
			c.handle(epoch, p.Data, gatewayAt)
		}
		if c.session == nil {
			t.Fatalf("%v: no session after one round trip: %v, %v", id, c.drops, g.drops)
		}
		sendData(t, c.session, &c.out, "after one round trip")
		for _, p := range c.take() {
			g.handle(epoch, p.Data, clientAt)
		}
		if got := payloads(g.data); len(got) != 1 || g.responders.indexes[c.session.keys.current.index].request != nil {
			t.Errorf("%v: the gateway has %q", id, got)
		}
		if _, byKKT := c.client.KEMKey(); byKKT {
			t.Errorf("%v: KKT was run", id)
		}
		converse(epoch, c, g)
		checkExchange(t, epoch, c, g)
	}
}

// TestForgedHintsDoNotPreventSession gives a client every hint that there is, again and again. It
// makes three attempts and no more, offers in each what it offered in the first,
// and the gateway's real answer completes one of them.
//
// Shows R2.6, R2.7, R2.13, R2.15, R10.3.
func TestForgedHintsDoNotPreventSession(t *testing.T) {
	g := newGatewayEnd(t, gatewayConfig(t, 1))
	for _, known := range []bool{false, true} {
		config := clientConfig(2)
		if known {
			config.KnownKEM = g.responders.config.KEMs.Find(config.KEM, 0).Public()
		}
		c := newClientEnd(t, epoch, config)
		offers := hellos(t, c.out.Packets)
		flights := 0
		now := epoch
		for n := range 200 {
			now = epoch.Add(time.Duration(n) * 40 * time.Millisecond)
			c.tick(now)
			for _, i := range c.client.attempts {
				c.say(now, i.index, wire.TypeHeld, &wire.Empty{})
				for code := range wire.RejectCode(8) {
					c.say(now, i.index, wire.TypeReject, &wire.Reject{Code: code, GatewaySeconds: uint64(now.Unix()) + uint64(n)})
				}
				c.say(now, i.index, wire.TypeBusy, &wire.Busy{RetryAfterMillis: 1 << 31, HasCookie: true, Cookie: [16]byte{byte(n), byte(i.index)}})
			}
			sent := c.take()
			offers = append(offers, hellos(t, sent)...)
			if len(sent) > 0 {
				flights++
			}
		}
		if c.client.Err() != nil {
			t.Fatalf("given up: %v", c.client.Err())
		}
		salts, commitments := map[[32]byte]bool{}, map[string]bool{}
		for _, m := range offers {
			salts[m.Salt], commitments[string(m.Salt[8:])] = true, true
			if m.AEADOffer != offers[0].AEADOffer || m.KEM != offers[0].KEM {
				t.Fatalf("a hello offers AEADs %d and KEM %d, the first %d and %d", m.AEADOffer, m.KEM, offers[0].AEADOffer, offers[0].KEM)
			}
		}
		if len(salts) > 3 || len(salts) != len(commitments) {
			t.Errorf("%d different hellos with %d ephemerals, at most 3 are allowed", len(salts), len(commitments))
		}
		// Without a hint an attempt sends 11 flights in these 8 s.
		if flights > 40 {
			t.Errorf("a forger made the client send %d times", flights)
		}
		c.tick(now.Add(time.Second))
		converse(now.Add(time.Second), c, g)
		if c.session == nil {
			t.Errorf("the real answer completes nothing: %v, %v", c.drops, g.drops)
		}
	}
}

// TestOneSessionOfTwoAttempts has two attempts that could both succeed.
//
// Shows R2.14.
func TestOneSessionOfTwoAttempts(t *testing.T) {
	g := newGatewayEnd(t, gatewayConfig(t, 1))
	c := newClientEnd(t, epoch, clientConfig(2))
	c.say(epoch, c.client.attempts[0].index, wire.TypeReject, &wire.Reject{Code: wire.RejectClock, GatewaySeconds: uint64(epoch.Unix())}) // forged
	if len(c.client.attempts) != 2 {
		t.Fatal("no second attempt")
	}
	converse(epoch, c, g)
	if c.session == nil || g.sessions.Len() != 1 || g.responders.Len() != 2 {
		t.Fatalf("%d sessions, %d responders", g.sessions.Len(), g.responders.Len())
	}
	for _, i := range c.client.attempts {
		if i.session == nil && (i.ephemeral.Private != [32]byte{} || i.ecdh != [32]byte{}) {
			t.Error("the attempt given up is not wiped")
		}
	}
	checkExchange(t, epoch, c, g)
}

// TestHandshakeErrorNamesCause lets handshakes run out of time after one hint or another.
//
// Shows R2.8, R10.3.
func TestHandshakeErrorNamesCause(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(c *clientEnd, index uint32)
		want string
	}{
		{"nothing", func(*clientEnd, uint32) {}, "no answer within"},
		{"KEM", func(c *clientEnd, index uint32) {
			c.say(epoch, index, wire.TypeReject, &wire.Reject{Code: wire.RejectKEM, Detail: wire.Detail("try another")})
		}, wire.RejectKEM.String() + " (try another)"},
		{"version", func(c *clientEnd, index uint32) {
			c.say(epoch, index, wire.TypeReject, &wire.Reject{Code: wire.RejectVersion})
		}, wire.RejectVersion.String()},
		{"shutting down", func(c *clientEnd, index uint32) {
			c.say(epoch, index, wire.TypeReject, &wire.Reject{Code: wire.RejectShuttingDown})
		}, wire.RejectShuttingDown.String()},
		{"busy", func(c *clientEnd, index uint32) {
			c.say(epoch, index, wire.TypeBusy, &wire.Busy{RetryAfterMillis: 1500})
		}, "busy for 10s; retry in 1.5s"},
		{"the last of three", func(c *clientEnd, index uint32) {
			c.say(epoch, index, wire.TypeReject, &wire.Reject{Code: wire.RejectKEM})
			c.say(epoch, index, wire.TypeReject, &wire.Reject{Code: wire.RejectAEAD})
			c.say(epoch, index, wire.TypeBusy, &wire.Busy{RetryAfterMillis: 1})
		}, "busy"},
		{"an Ack alone", func(c *clientEnd, index uint32) {
			c.say(epoch, index, wire.TypeAck, &wire.Ack{AEAD: 1, KEM: uint8(kem.MLKEM768), ReceiverIdx: 5})
		}, "did not arrive"},
	} {
		c := newClientEnd(t, epoch, clientConfig(2))
		test.do(c, c.client.attempts[0].index)
		failed, _ := c.wait(epoch)
		var e *HandshakeError
		if !errors.As(c.client.Err(), &e) || !failed.Equal(epoch.Add(DefaultDeadline)) {
			t.Errorf("%s: %v after %v", test.name, c.client.Err(), failed.Sub(epoch))
			continue
		}
		if !strings.Contains(e.Error(), test.want) {
			t.Errorf("%s: the error is %q, want something with %q", test.name, e, test.want)
		}
		if c.client.Handle(failed, nil, &c.out) == nil || len(c.take()) != 0 || !c.next().IsZero() {
			t.Errorf("%s: the client goes on after it gave up", test.name)
		}
	}
}

// Shows R10.1, R10.2, R10.3.
func TestRetransmissionSchedule(t *testing.T) {
	for _, rtt := range []time.Duration{0, 50 * time.Millisecond, 300 * time.Millisecond, 2 * time.Second} {
		config := clientConfig(2)
		config.RTT, config.Deadline = rtt, time.Minute
		g := newGatewayEnd(t, gatewayConfig(t, 1))
		c := newClientEnd(t, epoch, config)
		now := epoch
		check := func(what string, repetitions int) {
			t.Helper()
			first := max(200*time.Millisecond, 2*rtt)
			wait := first
			for n := range repetitions {
				if n := len(c.take()); n == 0 {
					t.Fatalf("RTT %v, %s: nothing was sent", rtt, what)
				}
				next := c.next()
				if got := next.Sub(now); got < wait*3/4 || got > wait*5/4 {
					t.Errorf("RTT %v, %s: repetition %d after %v, want %v within a quarter", rtt, what, n, got, wait)
				}
				wait = min(wait*3/2, max(time.Second, first))
				now = next
				c.tick(now)
			}
		}
		check("hello", 3)
		// The KKT response is whole: a step.
		for _, p := range c.take() {
			g.handle(epoch, p.Data, clientAt)
		}
		for _, p := range g.take() {
			c.handle(now, p.Data, gatewayAt)
		}
		check("Handshake 1", 2)
		for _, p := range c.take() {
			g.handle(epoch, p.Data, clientAt)
		}
		for _, p := range g.take() {
			c.handle(now, p.Data, gatewayAt)
		}
		if c.session == nil {
			t.Fatal("no session")
		}
		check("Handshake 3", 4)
	}
}

// TestHelloIsRepeatedWithHandshake1 repeats Handshake 1 with and without the Ack: the
// hello goes with every repetition.
//
// Shows R5.28.
func TestHelloIsRepeatedWithHandshake1(t *testing.T) {
	for _, known := range []bool{false, true} {
		c, g, i := atFirst(t, gatewayConfig(t, 1))
		if known {
			config := clientConfig(3)
			config.KnownKEM = g.responders.config.KEMs.Find(config.KEM, 0).Public()
			c = newClientEnd(t, epoch, config)
			i = c.client.attempts[0]
		}
		c.take()
		for n := range 8 {
			c.tick(c.next())
			flight := c.take()
			if got := hellos(t, flight); len(got) != 1 || got[0].Hello() != i.hello.Hello() || len(flight) != 3 {
				t.Errorf("repetition %d has %d packets, %d of them hellos", n, len(flight), len(got))
			}
		}
	}
}

// Shows R4.27, R4.28, R4.29.
func TestKKTResponses(t *testing.T) {
	g := newGatewayEnd(t, gatewayConfig(t, 1))
	for _, pinned := range []bool{false, true} {
		config := clientConfig(2)
		ours := g.responders.config.KEMs.Find(config.KEM, 0)
		if pinned {
			pin := kdf.Hash(ours.Public())
			config.PinnedKEM = &pin
		}
		c := newClientEnd(t, epoch, config)
		i := c.client.attempts[0]
		other, err := kem.Generate(kem.MLKEM768, seeded(6))
		if err != nil {
			t.Fatal(err)
		}
		response := func(key *kem.KeyPair, sid kkt.SessionID, signer byte) []byte {
			return kkt.AppendResponse(nil, key.ID(), key.Public(), sid, testIdentity(signer))
		}
		give := func(frame []byte) {
			for _, p := range parts.Split(frame, parts.MaxData) {
				c.say(epoch, i.index, wire.TypeKKTResponse, &p)
			}
		}
		good := response(ours, i.sessionID, 1)
		status := bytes.Clone(good)
		status[1] |= 1 << 5
		for name, frame := range map[string][]byte{
			"another signer":     response(ours, i.sessionID, 3),
			"another session id": response(ours, kkt.SessionID{1}, 1),
			"a status":           status,
			"a byte more":        append(bytes.Clone(good), 0),
			"a byte less":        good[:len(good)-1],
			"nearly nothing":     {0x11},
		} {
			if give(frame); i.handshake1 != nil {
				t.Fatalf("a KKT response with %s was taken", name)
			}
		}
		give(response(other, i.sessionID, 1)) // signed by the gateway, and not the key that is pinned
		if pinned && i.handshake1 != nil {
			t.Fatal("a key that is not the pinned one was taken")
		}
		give(good)
		if i.handshake1 == nil {
			t.Fatal("a good KKT response was not taken")
		}
		want := other
		if pinned {
			want = ours
		}
		first := bytes.Clone(i.handshake1)
		give(good)
		give(response(other, i.sessionID, 1))
		if !bytes.Equal(i.kemKey, want.Public()) || !bytes.Equal(i.handshake1, first) {
			t.Error("a KKT response after the first good one was used")
		}
	}
}

// Shows R5.29, R5.30, R5.31.
func TestAcks(t *testing.T) {
	type step func(c *clientEnd, i *attempt, ack, second []byte)
	forge := func(n int) step {
		return func(c *clientEnd, i *attempt, _, _ []byte) {
			for k := range n {
				c.say(epoch, i.index, wire.TypeAck, &wire.Ack{AEAD: 1 + uint8(k%2), KEM: uint8(kem.MLKEM768), Nonce: [16]byte{byte(k), 1}, ReceiverIdx: 9})
			}
		}
	}
	junk := func(n int) step {
		return func(c *clientEnd, i *attempt, _, second []byte) {
			for k := range n {
				p := bytes.Clone(second)
				p[50] ^= byte(k + 1)
				c.handle(epoch, p, gatewayAt)
			}
		}
	}
	ack := func(c *clientEnd, _ *attempt, ack, _ []byte) { c.handle(epoch, ack, gatewayAt) }
	second := func(c *clientEnd, _ *attempt, _, second []byte) { c.handle(epoch, second, gatewayAt) }
	for name, test := range map[string]struct {
		steps []step
		want  bool
	}{
		"in order":                          {[]step{ack, second}, true},
		"Handshake 2 before the Ack":        {[]step{second, ack}, true},
		"three forged Acks before":          {[]step{forge(3), ack, second}, true},
		"three forged Acks behind":          {[]step{ack, forge(3), second}, true},
		"the same forged Ack ten times":     {[]step{ack, forge(1), forge(1), forge(1), forge(1), forge(1), second}, true},
		"the fourth pushes out the first":   {[]step{ack, forge(4), second}, false},
		"and then it comes again":           {[]step{ack, forge(4), second, ack}, true},
		"Handshake 2 among forged ones":     {[]step{junk(1), second, forge(9), ack}, true},
		"the last two Handshake 2 are kept": {[]step{second, junk(1), ack}, true},
		"and no more":                       {[]step{second, junk(2), ack}, false},
		"and then it comes again too":       {[]step{second, junk(2), ack, second}, true},
	} {
		c, g, i := atFirst(t, gatewayConfig(t, 1))
		i.acks = nil
		genuine := clearPacket(g.responders.MAC1(), i.index, wire.TypeAck, raw(g.responders.attempts[keyOf(i.index, clientAt)].ack))
		answer := g.sendFirst(epoch, i.index, i.handshake1, clientAt)[0].Data
		for _, s := range test.steps {
			s(c, i, genuine, answer)
		}
		if (c.session != nil) != test.want {
			t.Errorf("%s: session %v, want %v", name, c.session != nil, test.want)
			continue
		}
		if test.want {
			converse(epoch, c, g)
			checkExchange(t, epoch, c, g)
		}
	}
	// What the client did not offer is no Ack to its hello.
	for _, a := range []wire.Ack{
		{AEAD: uint8(seal.AES256GCM), KEM: uint8(kem.MLKEM768)}, {AEAD: 3, KEM: uint8(kem.MLKEM768)}, {AEAD: 0, KEM: uint8(kem.MLKEM768)},
		{AEAD: 4, KEM: uint8(kem.MLKEM768)}, {AEAD: 1, KEM: uint8(kem.XWing)},
	} {
		config := clientConfig(2)
		config.Suites = seal.ChaCha20Poly1305
		c := newClientEnd(t, epoch, config)
		c.say(epoch, c.client.attempts[0].index, wire.TypeAck, &a)
		if n := len(c.client.attempts[0].acks); n != 0 {
			t.Errorf("an Ack of AEAD %d and KEM %d was kept", a.AEAD, a.KEM)
		}
	}
}

// TestTermsArriveLate loses the final Ack while data comes through: the client
// goes on repeating Handshake 3 until it knows the gateway's terms.
//
// Shows R5.22, R5.32.
func TestTermsArriveLate(t *testing.T) {
	c, g, i := atFirst(t, gatewayConfig(t, 1))
	c.take()
	for _, p := range g.sendFirst(epoch, i.index, i.handshake1, clientAt) {
		c.handle(epoch, p.Data, gatewayAt)
	}
	third := c.take()
	g.handle(epoch, third[0].Data, clientAt)
	g.take() // the Ack is lost
	sendData(t, g.only(), &g.out, "down")
	converse(epoch, c, g)
	if len(c.data) != 1 || !c.session.Confirmed() || c.confirms != 0 {
		t.Fatalf("%d datagrams, %d confirmations", len(c.data), c.confirms)
	}
	now := c.next()
	c.tick(now)
	again := c.take()
	if len(again) != 2 || !bytes.Equal(again[0].Data, third[0].Data) { // and a Ping
		t.Fatalf("the client sends %d packets", len(again))
	}
	g.handle(now, again[0].Data, clientAt)
	converse(now, c, g)
	if c.confirms != 1 || c.session.Terms() != g.only().Terms() {
		t.Errorf("the client's terms are %+v", c.session.Terms())
	}
	if c.session.liveness.confirmation != nil {
		t.Error("the client goes on repeating Handshake 3")
	}
}

// Shows R4.3.
func TestIdentityIsNeverInClear(t *testing.T) {
	public := testIdentity(2).Public()
	static, err := public.X25519()
	if err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(12) {
		w := newWorld(t, seed, steady(1), steady(1), variety(seed))
		var sent [][]byte
		w.observer = func(s sighting) { sent = append(sent, bytes.Clone(s.packet)) }
		w.established()
		for _, p := range sent {
			if bytes.Contains(p, public[:]) || bytes.Contains(p, static[:]) {
				t.Errorf("seed %d: the client's key is in a packet of %d bytes", seed, len(p))
			}
		}
	}
}

// TestXWing takes a session with X-Wing through a subsession.
func TestXWing(t *testing.T) {
	g := newGatewayEnd(t, gatewayConfig(t, 1))
	config := clientConfig(2)
	config.KEM = kem.XWing
	c := newClientEnd(t, epoch, config)
	converse(epoch, c, g)
	if c.session == nil {
		t.Fatalf("no session: %v, %v", c.drops, g.drops)
	}
	checkExchange(t, epoch, c, g)
	c.session.Rekey(epoch, &c.out)
	converse(epoch, c, g)
	checkExchange(t, epoch, c, g)
	if n := g.only().keys.current.number; n != 1 {
		t.Errorf("generation %d", n)
	}
}

// TestLaterSource shows that after the hello a responder answers its source alone,
// and over TCP any connection from its address.
//
// Shows R4.24.
func TestLaterSource(t *testing.T) {
	g := newGatewayEnd(t, gatewayConfig(t, 1))
	tcp := func(at string, conn uint64) path.Path {
		return path.NewTCP(addr(at).Peer, gatewayAt.Peer.Addr(), conn)
	}
	m := goodHello(epoch, 7)
	g.askOne(epoch, g.helloPacket(m), tcp("192.0.2.1:1", 1))
	for from, want := range map[path.Path]int{
		tcp("192.0.2.1:2", 2): 1, // one part over TCP
		tcp("192.0.2.2:1", 3): 0,
		addr("192.0.2.1:1"):   0,
	} {
		if got := g.ask(epoch, g.kktPacket(m), from); len(got) != want {
			t.Errorf("a KKT request from %v got %d answers, want %d: %v", from, len(got), want, fmt.Sprint(g.drops))
		}
	}
}

// A client that has the gateway's KEM key sends Handshake 1 before anything has
// come: that is no answer.
func TestTimeoutReportsNoAnswer(t *testing.T) {
	keys := gatewayConfig(t, 1).KEMs
	for name, known := range map[string][]byte{
		"with KKT": nil,
		"with key": keys.Find(kem.MLKEM768, 0).Public(),
	} {
		config := clientConfig(2)
		config.KnownKEM = known
		c := newClientEnd(t, epoch, config)
		c.tick(epoch.Add(DefaultDeadline + time.Second))
		err := c.client.Err()
		if err == nil || !strings.Contains(err.Error(), "the gateway is down, UDP is blocked") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
