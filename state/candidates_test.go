package state

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"lewes/crypto/seal"
	"lewes/state/path"
	"lewes/state/wire"
)

// Several copies of one ClientHello, each with a record of its own, and the candidates that a client
// makes of their answers (section 5).

// copied is a client whose packets reach the gateway from several sources.
type copied struct {
	c       *clientEnd
	g       *gatewayEnd
	sources []path.Path
}

// newCopied makes a record for each of n sources, of which the first is the client's address, and
// shows the client all answers, up to Handshake 2.
func newCopied(t testing.TB, n int, known bool) *copied {
	t.Helper()
	config := clientConfig(2)
	w := &copied{g: newGatewayEnd(t, gatewayConfig(t, 1)), sources: []path.Path{clientAt}}
	if known {
		config.KnownKEM = w.g.responders.config.KEMs.Find(config.KEM, 0).Public()
	}
	w.c = newClientEnd(t, epoch, config)
	for len(w.sources) < n {
		w.sources = append(w.sources, addr(fmt.Sprintf("203.0.113.%d:6666", len(w.sources))))
	}
	for w.c.session == nil {
		flight := w.c.take()
		if len(flight) == 0 {
			t.Fatalf("no session: %v, %v", w.c.drops, w.g.drops)
		}
		for _, from := range w.sources {
			for _, p := range flight {
				w.g.handle(epoch, bytes.Clone(p.Data), from)
			}
		}
		for _, p := range w.g.take() {
			w.c.handle(epoch, p.Data, gatewayAt)
		}
	}
	return w
}

// sourceOf returns the source of the record or session that a client's packet belongs to.
func (w *copied) sourceOf(t testing.TB, packet []byte) path.Path {
	t.Helper()
	index := headerOf(packet).ReceiverIdx
	if r := w.g.responders.indexes[index]; r != nil {
		return r.source
	}
	if k := w.g.sessions.Find(index); k != nil {
		return k.Session().Path()
	}
	t.Fatalf("a packet for the unknown index %#x", index)
	return path.Path{}
}

// deliver passes the client's packets to the gateway, each from the source of its record.
func (w *copied) deliver(t testing.TB, now time.Time, packets []Packet) {
	t.Helper()
	for _, p := range packets {
		w.g.handle(now, bytes.Clone(p.Data), w.sourceOf(t, p.Data))
	}
}

// thirds returns the Handshake 3 packets of a flight by receiver index, each followed by a Ping.
func (w *copied) thirds(t testing.TB, flight []Packet) map[uint32][]byte {
	t.Helper()
	out := map[uint32][]byte{}
	for n := 0; n+1 < len(flight); n += 2 {
		third, ping := flight[n].Data, flight[n+1].Data
		index := headerOf(third).ReceiverIdx
		if kindOf(third) != "handshake" || kindOf(ping) != "transport" || headerOf(ping).ReceiverIdx != index {
			t.Fatalf("packets %d and %d of a flight are %s and %s", n, n+1, kindOf(third), kindOf(ping))
		}
		if out[index] != nil {
			t.Fatalf("two Handshakes 3 of index %#x in a flight", index)
		}
		out[index] = third
	}
	if len(flight)%2 != 0 {
		t.Fatalf("%d packets in a flight", len(flight))
	}
	return out
}

// TestEachHandshake2IsAnswered answers several copies of a hello: every Handshake 2 gets a Handshake 3
// from a Noise state of its own, which opens at its record alone, and a Ping. Another copy of a
// Handshake 2 gets nothing.
//
// Shows R5.29, R5.32, R5.35.
func TestEachHandshake2IsAnswered(t *testing.T) {
	for n := 1; n <= maxAcks; n++ {
		for _, known := range []bool{false, true} {
			w := newCopied(t, n, known)
			flight := w.c.take()
			thirds := w.thirds(t, flight)
			if len(thirds) != n {
				t.Fatalf("%d copies: %d Handshakes 3", n, len(thirds))
			}
			var keys []fingerprint
			for _, c := range w.c.session.liveness.confirmation.candidates {
				send, _ := fingerprintOf(c.keys.sender.key)
				receive, _ := fingerprintOf(c.keys.receive)
				if slices.Contains(keys, send) || slices.Contains(keys, receive) || send == receive {
					t.Errorf("%d copies: two candidates have the same key", n)
				}
				keys = append(keys, send, receive)
			}
			for _, from := range w.sources { // Handshake 2 again
				w.g.sendFirst(epoch, w.c.client.attempts[0].index, w.c.client.attempts[0].handshake1, from)
			}
			for _, r := range w.g.responders.indexes {
				w.c.handle(epoch, bytes.Clone(r.handshake2), gatewayAt)
			}
			if again := w.c.take(); len(again) != 0 {
				t.Errorf("%d copies: %d packets for copies of Handshake 2", n, len(again))
			}
			w.deliver(t, epoch, flight)
			if w.g.sessions.Len() != n || w.g.responders.Stats.Established != uint64(n) {
				t.Errorf("%d copies: %d sessions, drops %v", n, w.g.sessions.Len(), w.g.drops)
			}
		}
	}
}

// TestFifthAckIsIgnored shows a client a fifth authentic Ack when the four that it keeps have each
// opened a Handshake 2.
//
// Shows R5.29, R5.35.
func TestFifthAckIsIgnored(t *testing.T) {
	w := newCopied(t, maxAcks+1, true)
	if got := len(w.thirds(t, w.c.take())); got != maxAcks {
		t.Errorf("%d Handshakes 3 for %d records", got, maxAcks+1)
	}
	if a := w.c.client.attempts[0]; len(a.acks) != maxAcks {
		t.Errorf("%d Acks are kept", len(a.acks))
	}
}

// TestFirstAuthenticPacketDecides shows a client the packets of one candidate's session first: it
// becomes the session, and the others end at both ends.
//
// Shows R5.36.
func TestFirstAuthenticPacketDecides(t *testing.T) {
	for n := 1; n <= maxAcks; n++ {
		for winner := range n {
			for _, what := range []string{"Ack", "Pong", "data"} {
				name := fmt.Sprintf("%s of candidate %d of %d", what, winner+1, n)
				w := newCopied(t, n, true)
				w.deliver(t, epoch, w.c.take())
				var indexes []uint32
				for _, c := range w.c.session.liveness.confirmation.candidates {
					indexes = append(indexes, c.keys.index)
				}
				theirs := w.g.sessions.Find(indexes[winner]).Session()
				var answers [][]byte // the Ack and the Pong of the winner
				for _, p := range w.g.take() {
					if headerOf(p.Data).ReceiverIdx == indexes[winner] {
						answers = append(answers, p.Data)
					}
				}
				if len(answers) != 2 {
					t.Fatalf("%s: %d answers", name, len(answers))
				}
				if what == "Pong" {
					slices.Reverse(answers)
				}
				if what == "data" {
					sendData(t, theirs, &w.g.out, "down")
					answers = append([][]byte{w.g.take()[0].Data}, answers...)
				}
				w.c.handle(epoch, answers[0], gatewayAt)
				s := w.c.session
				if s.Current().Index() != indexes[winner] || s.exporter != theirs.exporter || s.rekey.seed != theirs.rekey.seed || !s.Confirmed() {
					t.Fatalf("%s: the session is that of index %#x, want %#x", name, s.Current().Index(), indexes[winner])
				}
				if len(w.c.byIndex) != 1 {
					t.Errorf("%s: the client still has %d indexes", name, len(w.c.byIndex))
				}
				closing := w.c.take()
				if len(closing) != n-1 {
					t.Errorf("%s: %d packets under the others", name, len(closing))
				}
				w.deliver(t, epoch, closing)
				w.g.settle()
				if w.g.sessions.Len() != 1 || w.g.only() != theirs || len(w.g.closed) != n-1 {
					t.Errorf("%s: the gateway has %d sessions, closed %v", name, w.g.sessions.Len(), w.g.closed)
				}
				for _, reason := range w.g.closed {
					var why *PeerClosedError
					if !errors.As(reason, &why) || why.Reason != wire.CloseDone {
						t.Errorf("%s: closed because of %v", name, reason)
					}
				}
				for _, p := range answers[1:] {
					w.c.handle(epoch, p, gatewayAt)
				}
				if w.c.confirms != 1 || s.liveness.confirmation != nil {
					t.Errorf("%s: %d confirmations", name, w.c.confirms)
				}
				theirs.migration.active.set(clientAt)
				checkExchange(t, epoch, w.c, w.g)
				s.Rekey(epoch, &w.c.out)
				converse(epoch, w.c, w.g)
				checkExchange(t, epoch, w.c, w.g)
				if s.keys.current.number != 1 {
					t.Errorf("%s: generation %d after a subsession", name, s.keys.current.number)
				}
			}
		}
	}
}

// TestForgeryDecidesNothing sends packets that do not open to a client with two candidates.
//
// Shows R5.33, R5.36.
func TestForgeryDecidesNothing(t *testing.T) {
	w := newCopied(t, 2, true)
	w.c.take()
	before := shootClient(w.c)
	for _, c := range w.c.session.liveness.confirmation.candidates {
		for _, level := range []wire.Level{wire.LevelTransport, wire.LevelHandshake} {
			w.c.handle(epoch, append(wire.Begin(nil, c.keys.index, level, 0, wire.TypeAck), make([]byte, 40)...), gatewayAt)
		}
	}
	if after := shootClient(w.c); after != before || w.c.session.Confirmed() || len(w.c.take()) != 0 {
		t.Errorf("forged packets changed %s", difference(before, after))
	}
}

// TestEachCandidateIsRetransmitted loses every answer to Handshake 3: each repetition is ClientHello and
// Handshake 1, and of each candidate the same Handshake 3 and a Ping sealed anew.
//
// Shows R5.28, R5.32.
func TestEachCandidateIsRetransmitted(t *testing.T) {
	w := newCopied(t, 3, true)
	first := w.thirds(t, w.c.take())
	repetitions := 0
	for now := w.c.next(); ; now = w.c.next() {
		w.c.tick(now)
		flight := w.c.take()
		if w.c.session.closed {
			break
		}
		repetitions++
		for n, want := range []string{"ClientHello", "Handshake", "Handshake"} {
			if got := kindOf(flight[n].Data); got != want {
				t.Fatalf("packet %d of repetition %d is %s, want %s", n, repetitions, got, want)
			}
		}
		flight = flight[3:]
		for index, third := range w.thirds(t, flight) {
			if !bytes.Equal(third, first[index]) {
				t.Fatalf("repetition %d of Handshake 3 of index %#x is another", repetitions, index)
			}
		}
		for n := 1; n < len(flight); n += 2 {
			if seq := headerOf(flight[n].Data).Sequence; seq != uint64(repetitions) {
				t.Errorf("repetition %d is followed by a Ping of sequence %d", repetitions, seq)
			}
		}
		if len(flight) != 2*len(first) {
			t.Errorf("repetition %d has %d packets", repetitions, len(flight))
		}
	}
	if repetitions < 3 {
		t.Errorf("%d repetitions", repetitions)
	}
}

// TestUnconfirmedCandidatesEnd has no candidate confirmed before the deadline, or closes the session
// before: nothing is left of any at the client, and in the second case at the gateway.
//
// Shows R5.32, R5.36.
func TestUnconfirmedCandidatesEnd(t *testing.T) {
	for _, closed := range []bool{false, true} {
		w := newCopied(t, 3, true)
		w.deliver(t, epoch, w.c.take())
		w.g.take()
		candidates := w.c.session.liveness.confirmation.candidates
		if len(candidates) != 3 || w.g.sessions.Len() != 3 || len(w.c.byIndex) != 3 {
			t.Fatalf("%d candidates, %d sessions, %d indexes", len(candidates), w.g.sessions.Len(), len(w.c.byIndex))
		}
		if closed {
			w.c.session.Close(wire.CloseDone, "", &w.c.out)
			w.deliver(t, epoch, w.c.take())
			w.g.settle()
			if w.g.sessions.Len() != 0 {
				t.Errorf("%d sessions are left at the gateway", w.g.sessions.Len())
			}
		} else {
			w.c.tick(epoch.Add(DefaultDeadline))
			w.c.settle()
		}
		if len(w.c.byIndex) != 0 || w.c.session.liveness.confirmation != nil || !w.c.session.closed {
			t.Errorf("closed %v: %d indexes are left", closed, len(w.c.byIndex))
		}
		for _, c := range candidates {
			if seals(c.keys) || c.exporter != [32]byte{} || c.seed != [32]byte{} {
				t.Errorf("closed %v: a candidate's secrets are not wiped", closed)
			}
		}
	}
}

// TestForgedAckChangesNoSuite keeps a forged Ack with another AEAD beside the authentic one: what opens
// decides the session's AEAD.
//
// Shows R5.29, R5.36.
func TestForgedAckChangesNoSuite(t *testing.T) {
	c, g, i := atFirst(t, gatewayConfig(t, 1))
	genuine := i.acks[0].content
	other := uint8(seal.ChaCha20Poly1305|seal.AES256GCM) &^ genuine[0]
	c.say(epoch, i.index, wire.TypeAck, &wire.Ack{AEAD: other, KEM: genuine[1], ReceiverIdx: 9})
	converse(epoch, c, g)
	if c.session == nil || c.session.Suite() != seal.Suite(genuine[0]) || g.only().Suite() != c.session.Suite() {
		t.Fatalf("no session with AEAD %d: %v, %v", genuine[0], c.drops, g.drops)
	}
	checkExchange(t, epoch, c, g)
}

// TestProvedHelloDisplacesProvedOne fills the records of an attempt index in the client's name with
// hellos that have cookies: the client's own flight of hello and Handshake 1 still makes a session, also
// when another record answered its KKTRequest. A record past Handshake 1 does not give way.
//
// Shows R4.34, R5.28, R5.37.
func TestProvedHelloDisplacesProvedOne(t *testing.T) {
	g := newGatewayEnd(t, gatewayConfig(t, 1))
	c := newClientEnd(t, epoch, clientConfig(2))
	a := c.client.attempts[0]
	fill := func(salts ...byte) {
		for _, n := range salts {
			m := a.hello
			m.Salt[20] ^= n
			made, err := g.responders.jar.Make(epoch, clientAt.Peer, m.Attempt, &m.Salt)
			if err != nil {
				t.Fatal(err)
			}
			m.HasCookie, m.Cookie = true, made
			g.handle(epoch, g.helloPacket(m), clientAt)
		}
		g.take()
	}
	exchange := func(between func()) {
		for _, p := range c.take() {
			g.handle(epoch, p.Data, clientAt)
		}
		answers := g.take()
		between()
		for _, p := range answers {
			c.handle(epoch, p.Data, gatewayAt)
		}
	}
	fill(1, 2, 3, 4)
	exchange(func() {}) // a Busy
	exchange(func() {   // Ack and KKTResponse
		fill(5, 6, 7, 8)
		if g.responders.find(&a.hello, clientAt) != nil {
			t.Error("the client's record has not given way")
		}
	})
	if a.handshake1 == nil || len(hellos(t, c.out.Packets)) != 1 {
		t.Fatalf("no ClientHello with Handshake 1: %v", c.drops)
	}
	exchange(func() { // Handshake 2
		fill(9, 10, 11, 12)
		if r := g.responders.find(&a.hello, clientAt); r == nil || r.handshake1 == nil {
			t.Errorf("a record past Handshake 1 has given way, or there was none: %v", g.drops)
		}
	})
	converse(epoch, c, g)
	checkExchange(t, epoch, c, g)
	if n := g.responders.Stats.KEMKeys; n != 2 {
		t.Errorf("%d KKT responses were made", n)
	}
}
