package state

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"lewes/crypto/kem"
	"lewes/crypto/seal"
	"lewes/state/path"
	"lewes/state/replay"
	"lewes/state/snapshot"
	"lewes/state/wire"
)

// written freezes all sessions of a gateway and writes them.
func written(t testing.TB, now time.Time, g *gatewayEnd) [][]byte {
	t.Helper()
	var forms [][]byte
	g.sessions.All(func(s *Session) {
		s.Freeze()
		w := snapshot.NewWriter(nil, now)
		if err := s.Write(w); err != nil {
			t.Fatal(err)
		}
		forms = append(forms, w.Bytes())
	})
	return forms
}

// successor returns a gateway that has read what another wrote at now, at later by
// its own clock; the other one's secrets are gone then.
func successor(t testing.TB, now, later time.Time, g *gatewayEnd) *gatewayEnd {
	t.Helper()
	config := *g.responders.config
	w := snapshot.NewWriter(nil, now)
	if err := config.KEMs.Write(w); err != nil {
		t.Fatal(err)
	}
	r := snapshot.NewReader(w.Bytes(), later)
	var err error
	if config.KEMs, err = NewKEMKeys(later, config.KEMs.ids, config.Session.Rand); err != nil {
		t.Fatal(err)
	}
	if err := config.KEMs.Read(r); err != nil || r.End() != nil {
		t.Fatal(err, r.End())
	}
	s := newGatewayEnd(t, &config)
	s.nextIndex, s.registers = g.nextIndex, g.registers
	s.data, s.closed, s.drops = g.data, g.closed, g.drops
	s.responders.Stats = g.responders.Stats

	w = snapshot.NewWriter(nil, now)
	g.responders.Write(w)
	r = snapshot.NewReader(w.Bytes(), later)
	if err := s.responders.Read(r); err != nil || r.End() != nil {
		t.Fatal(err, r.End())
	}
	for _, form := range written(t, now, g) {
		r := snapshot.NewReader(form, later)
		session, err := ReadSession(r, &config.Session)
		if err != nil || r.End() != nil {
			t.Fatal(err, r.End())
		}
		if !s.sessions.Restore(session) {
			t.Fatal("an index is there twice")
		}
	}
	g.sessions.All((*Session).Wipe)
	return s
}

// handOver puts another process in the gateway's place: all sessions go on there.
func (w *world) handOver() {
	w.flush()
	w.audit.skip = skipAhead
	w.gateway = successor(w.t, w.now, w.now, w.gateway)
	w.flush()
}

// TestSessionSnapshot brings sessions into every state that a session may be
// in and hands them over: what the successor knows is what the predecessor knew, an
// hour later by its clock, but that it goes on behind a gap in the sequence, and it
// carries the session on.
func TestSessionSnapshot(t *testing.T) {
	for name, bring := range map[string]func(c *clientEnd, g *gatewayEnd){
		"new":  func(*clientEnd, *gatewayEnd) {},
		"used": func(c *clientEnd, g *gatewayEnd) { checkExchange(t, epoch, c, g) },
		"rekeyed": func(c *clientEnd, g *gatewayEnd) {
			for range 3 {
				c.session.Rekey(epoch, &c.out)
				converse(epoch, c, g)
			}
		},
		"subsession answered, and the answer lost": func(c *clientEnd, g *gatewayEnd) {
			c.session.Rekey(epoch, &c.out)
			for _, p := range c.take() {
				g.handle(epoch, p.Data, clientAt)
			}
			g.take()
		},
		"subsession asked for": func(c *clientEnd, g *gatewayEnd) {
			g.only().RequestRekey(epoch, &g.out)
			g.take()
		},
		"half a question": func(c *clientEnd, g *gatewayEnd) {
			c.session.Rekey(epoch, &c.out)
			g.handle(epoch, c.take()[0].Data, clientAt)
		},
		"on trial": func(c *clientEnd, g *gatewayEnd) {
			sendData(t, c.session, &c.out, "from elsewhere")
			g.handle(epoch, c.take()[0].Data, addr("203.0.113.5:5"))
			g.take()
		},
		"searching for the path's limit": func(c *clientEnd, g *gatewayEnd) {
			g.only().Fits(1400)
			g.only().ProbeMTU(epoch, 1452, &g.out)
			g.take()
		},
		"resting": func(c *clientEnd, g *gatewayEnd) {
			checkExchange(t, epoch, c, g)
			g.tick(epoch.Add(2 * compactAfter))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, g := established(t)
			bring(c, g)
			later := epoch.Add(time.Hour)
			before := shootSession(g.only())
			next := successor(t, epoch, later, g)
			after := shootSession(next.only())
			shift(&before, time.Hour)
			gap := skipAhead
			for _, shot := range append([]*keySetShot{&before.current, &before.reply.child}, pointersTo(before.demoted[:])...) {
				if shot.index != 0 {
					shot.sealed += uint64(gap)
				}
			}
			before.echoes, after.echoes = rttEstimator{}, rttEstimator{}
			if d := difference(before, after); d != "" {
				t.Errorf("handed over: %s", d)
			}
			if next.only().RTT() != g.only().RTT() {
				t.Error("the round trip is forgotten")
			}
			if seals(g.only().keys.current) || g.only().exporter != [32]byte{} || g.only().rekey.seed != [32]byte{} {
				t.Error("the predecessor still has its secrets")
			}
			g = next
			for step := range 60 { // lost packets are repeated
				at := later.Add(time.Duration(step) * 100 * time.Millisecond)
				c.tick(at)
				g.tick(at)
				converse(at, c, g)
			}
			now := later.Add(10 * time.Second)
			checkExchange(t, now, c, g)
			if c.session.rekey.seed != g.only().rekey.seed || c.session.keys.current.number != g.only().keys.current.number {
				t.Errorf("generations %d and %d", c.session.keys.current.number, g.only().keys.current.number)
			}
			if len(g.closed) != 0 || g.sessions.Len() != 1 {
				t.Error("the session has ended")
			}
		})
	}
}

func pointersTo[T any](all []T) (pointers []*T) {
	for i := range all {
		pointers = append(pointers, &all[i])
	}
	return pointers
}

// shift moves all times of a snapshot but those that are zero.
func shift(shot any, by time.Duration) { shiftValue(reflect.ValueOf(shot).Elem(), by) }

func shiftValue(v reflect.Value, by time.Duration) {
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
		at := (*time.Time)(v.Addr().UnsafePointer())
		if !at.IsZero() {
			*at = at.Add(by)
		}
	case v.Type() == reflect.TypeFor[path.Path]():
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			shiftValue(v.Field(i), by)
		}
	case v.Kind() == reflect.Array:
		for i := range v.Len() {
			shiftValue(v.Index(i), by)
		}
	}
}

// TestSnapshotCoversAllFields fails when a field is added to what sessions are made
// of, so that its author decides whether it goes to a successor. Those in
// brackets do not.
func TestSnapshotCoversAllFields(t *testing.T) {
	for of, want := range map[reflect.Type][]string{
		reflect.TypeFor[Session](): {"[User]", "[timer]", "[ofPeer]", "[config]", "[role]", "peer", "peerStatic", "suite", "handle", "exporter", "terms",
			"keys", "migration", "rekey", "liveness", "mtu", "registration", "started", "lastOpened", "compactAt", "demotedAckAt", "[deadline]", "[closed]"},
		reflect.TypeFor[keyRing]():        {"current", "demoted", "[sender]"},
		reflect.TypeFor[rekey]():          {"[initiator]", "responder", "requestAt", "seed"},
		reflect.TypeFor[liveness]():       {"rtt", "[answers]", "[check]", "[confirmation]"},
		reflect.TypeFor[registration]():   {"[parts]", "kept", "[id]", "[message]", "[next]", "[wait]"},
		reflect.TypeFor[keptResult]():     {"id", "hash", "cbor"},
		reflect.TypeFor[pmtu]():           {"prober", "limit", "largeWanted"},
		reflect.TypeFor[activePath]():     {"state"},
		reflect.TypeFor[KeySet]():         {"[session]", "number", "index", "sender", "receive", "binding", "window", "failed", "since", "lastOpened", "readOnly"},
		reflect.TypeFor[Sender]():         {"[index]", "key", "next"},
		reflect.TypeFor[pathState]():      {"path", "validated", "fallback", "budget"},
		reflect.TypeFor[migration]():      {"active", "newestKeySet", "anyPacket", "newestSequence", "validation", "holdUntil"},
		reflect.TypeFor[pathValidation](): {"previous", "tokens", "nextChallenge", "deadline"},
		reflect.TypeFor[rekeyResponder](): {"[kk1Parts]", "answered", "kk1Hash", "kk2Noise", "secrets", "child"},
		reflect.TypeFor[rekeySecrets]():   {"split", "psk", "ss"},
		reflect.TypeFor[mtuProber]():      {"largest", "fits", "fails", "raiseAt", "probing", "token", "size", "tries", "since", "next", "sealed"},
		reflect.TypeFor[Terms]():          {"IdleTTL", "RekeyAfter", "MaxDatagram", "Flags"},
		reflect.TypeFor[replay.Window]():  {"next", "floor", "ring"},
		reflect.TypeFor[path.Path]():      {"Peer", "Local", "IfIndex", "Transport", "[Conn]"},
		reflect.TypeFor[responder](): {"[table]", "attempt", "index", "[crowded]", "hello", "salt", "source", "created", "timer", "[ofPeer]", "class", "[charged]", "[kind]", "[turn]", "[place]", "[next]", "suite", "kem", "keyID",
			"ack", "bytesIn", "bytesOut", "request", "kktPackets", "[inbox]", "[transcript]", "[noise]", "[tryCount]", "[tryTimes]", "[handshake1]", "[client]",
			"[static]", "[psq]", "[psk]", "[receive]", "[handshake2]", "[earlyData]", "[handshake3]", "[session]"},
	} {
		var got []string
		for i := range of.NumField() {
			got = append(got, of.Field(i).Name)
		}
		for i := range want {
			want[i] = string(bytes.Trim([]byte(want[i]), "[]"))
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%v has the fields\n%q; this test knows\n%q", of, got, want)
		}
	}
}

// TestFrozenSessionSealsNothing holds a Sender that some goroutine has taken, seals
// with it after Freeze and after Thaw, and with the one that was read.
//
// Shows R6.1.
func TestFrozenSessionSealsNothing(t *testing.T) {
	c, g := established(t)
	checkExchange(t, epoch, c, g)
	s := g.only()
	held, before := s.Sender(), s.Sender().Sealed()
	if err := s.Write(snapshot.NewWriter(nil, epoch)); !errors.Is(err, ErrNotFrozen) {
		t.Errorf("written though it seals: %v", err)
	}
	form := written(t, epoch, g)[0]
	packet := make([]byte, wire.MinPacket)
	for range 3 {
		if err := held.Seal(packet); !errors.Is(err, ErrExhausted) {
			t.Fatalf("a frozen session seals: %v", err)
		}
	}
	s.Freeze() // again: nothing changes
	read, err := ReadSession(snapshot.NewReader(form, epoch), g.responders.config.session())
	if err != nil {
		t.Fatal(err)
	}
	if got := read.Sender().Sealed(); got != before+skipAhead {
		t.Errorf("the successor goes on at %d, the predecessor stopped at %d", got, before)
	}
	s.Thaw()
	if got := held.Sealed(); got != before+3 { // the three that failed count
		t.Errorf("thawed at %d, frozen at %d", got, before)
	}
	checkExchange(t, epoch, c, g)
}

func (c *GatewayConfig) session() *SessionConfig { return &c.Session }

// TestHandshakeSnapshot hands the gateway over after each packet of a
// handshake, with and without KKT. Whatever the moment, the client comes to a
// session, at the latest with another handshake, and no nonce comes twice, which
// the world's audit sees.
func TestHandshakeSnapshot(t *testing.T) {
	for packets := range 12 {
		w := newWorld(t, uint64(packets+1), faults{delay: 20 * time.Millisecond}, faults{delay: 20 * time.Millisecond})
		seen := 0
		w.observer = func(sighting) {
			if seen++; seen == packets+1 {
				w.after(0, func() { w.handOver() })
			}
		}
		w.dial()
		if w.run(2*time.Second, w.joined) && w.run(2*time.Second, func() bool { return w.client.session.Confirmed() }) {
			w.sendData(false, "up 1")
			w.sendData(true, "down 1")
			w.run(time.Second, nil)
			w.checkTraffic()
			continue
		}
		if w.client.session == nil && w.gateway.responders.Stats.Opened == 0 {
			t.Errorf("handed over after packet %d: the handshake is lost, though no Handshake 1 had opened: %v %v", packets+1, w.client.drops, w.gateway.drops)
		}
	}
}

// TestHandshakeSnapshotIsBounded writes a store that a flood has filled: what is
// handed over of it stays small, and holds what came last, in its order.
func TestHandshakeSnapshotIsBounded(t *testing.T) {
	const flood, frame = 30_000, 32 << 20 // responders, and bytes that a hand-over takes at once
	config := gatewayConfig(t, 1)
	config.Memory = 1 << 30
	g := newGatewayEnd(t, config)
	h := g.responders
	pair := h.config.KEMs.Find(kem.MLKEM768, 0)
	packets := [][]byte{make([]byte, 1080), make([]byte, 269)} // as long as a KKT response
	for index := uint32(1); index <= flood; index++ {
		h.add(&responder{table: h, attempt: index, index: index, kem: pair, suite: seal.ChaCha20Poly1305, source: clientAt, created: epoch, kktPackets: packets}, epoch.Add(time.Minute))
	}
	w := snapshot.NewWriter(nil, epoch)
	h.Write(w)
	if w.Len() > frame/2 {
		t.Fatalf("%d bytes", w.Len())
	}
	next := newGatewayEnd(t, gatewayConfig(t, 1)).responders
	next.config.KEMs = h.config.KEMs
	r := snapshot.NewReader(w.Bytes(), epoch)
	if err := next.Read(r); err != nil || r.End() != nil {
		t.Fatal(err, r.End())
	}
	if next.Len() < 1000 || !next.Has(flood) || next.Has(1) {
		t.Errorf("%d responders; the newest: %v, the oldest: %v", next.Len(), next.Has(flood), next.Has(1))
	}
	before := uint32(0)
	for e := next.queues[Unproved][waitingRecord].Front(); e != nil; e = e.Next() {
		if index := e.Value.(*responder).index; index <= before {
			t.Fatalf("responder %d comes behind %d", index, before)
		} else {
			before = index
		}
	}
}

// TestKEMKeysAndCookiesSnapshot takes a client through a handshake whose KEM key
// and whose cookie come from the predecessor.
func TestKEMKeysAndCookiesSnapshot(t *testing.T) {
	config := gatewayConfig(t, 1)
	config.CookieThreshold = math.MaxInt
	g := newGatewayEnd(t, config)
	c := newClientEnd(t, epoch, clientConfig(2))
	converse(epoch, c, g)
	key, byKKT := c.client.KEMKey()
	if !byKKT {
		t.Fatal("no KKT")
	}
	salt := [32]byte{1}
	cookie, err := g.responders.jar.Make(epoch, clientAt.Peer, 77, &salt)
	if err != nil {
		t.Fatal(err)
	}
	g = successor(t, epoch, epoch, g)
	if !g.responders.jar.Valid(epoch, clientAt.Peer, 77, &salt, cookie[:]) {
		t.Error("the predecessor's cookie is not taken")
	}
	again := clientConfig(3)
	again.KnownKEM = key
	c = newClientEnd(t, epoch, again)
	converse(epoch, c, g)
	if c.session == nil || g.responders.Stats.Rejects[wire.RejectStaleKey] != 0 {
		t.Errorf("the KEM key of the predecessor is not taken: %v %v", c.drops, g.responders.Stats)
	}
	if _, byKKT := c.client.KEMKey(); byKKT {
		t.Error("the client had to ask for the key again")
	}
}

// FuzzReadSession reads any bytes as what a predecessor sent.
func FuzzReadSession(f *testing.F) {
	c, g := established(f)
	c.session.Rekey(epoch, &c.out)
	for _, p := range c.take() {
		g.handle(epoch, p.Data, addr("203.0.113.5:5"))
	}
	g.take()
	keys := snapshot.NewWriter(nil, epoch)
	if err := g.responders.config.KEMs.Write(keys); err != nil {
		f.Fatal(err)
	}
	waiting := snapshot.NewWriter(nil, epoch)
	newClientEndHello(f, g)
	g.responders.Write(waiting)
	f.Add(uint8(0), written(f, epoch, g)[0])
	f.Add(uint8(1), keys.Bytes())
	f.Add(uint8(2), waiting.Bytes())
	config := g.responders.config
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		r := snapshot.NewReader(b, epoch)
		switch kind {
		case 0:
			s, err := ReadSession(r, &config.Session)
			if err != nil {
				return
			}
			table := NewSessions()
			if !table.Restore(s) {
				return
			}
			var out Output
			for range 3 {
				s.Tick(s.Deadline(), &out)
			}
			_, _, _ = s.Current().Open(epoch, bytes.Repeat([]byte{7}, 64), clientAt, &out)
			if !s.closed {
				s.Freeze()
				if err := s.Write(snapshot.NewWriter(nil, epoch)); err != nil {
					t.Fatal(err)
				}
			}
		case 1:
			keys := &KEMKeys{}
			keys.set.Store(&kemSet{})
			if keys.Read(r) == nil {
				keys.Find(kem.MLKEM768, 0)
			}
		default:
			h, err := NewResponderTable(epoch, config)
			if err != nil {
				t.Fatal(err)
			}
			if h.Read(r) == nil {
				for h.TickOne(epoch.Add(time.Hour)) {
				}
			}
		}
	})
}

// newClientEndHello leaves a responder at the gateway that waits for Handshake 1.
func newClientEndHello(t testing.TB, g *gatewayEnd) {
	c := newClientEnd(t, epoch, clientConfig(9))
	for _, p := range c.take() {
		g.handle(epoch, p.Data, clientAt)
	}
	g.take()
	if g.responders.queues[Unproved][waitingRecord].Len() == 0 {
		t.Fatal("no responder waits")
	}
}
