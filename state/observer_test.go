package state

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"lewes/crypto/cookie"
	"lewes/crypto/kdf"
	"lewes/crypto/noise"
	"lewes/crypto/psq"
	"lewes/crypto/seal"
	"lewes/state/parts"
	"lewes/state/path"
	"lewes/state/wire"
)

// observer sees every packet at once and sends what it likes, as if it came from
// whom it likes; what it sends arrives before what it has seen. It loses no
// packet. It knows the gateway's identity, and so the key of MAC1.
type observer struct {
	w     *world
	rng   *rand.Rand
	mac   *cookie.MAC1Key
	tools []tool
	seen  []sighting
	at    path.Path
	sent  int
	rival rivals
	crowd crowd
}

// tool is one way in which an observer uses the packets it sees.
type tool struct {
	name string
	use  func(o *observer, s sighting, index uint32)
}

func newObserver(w *world, tools ...tool) *observer {
	o := &observer{w: w, rng: rand.New(rand.NewPCG(w.seed, 11)), mac: cookie.NewMAC1Key(w.config.Gateway), tools: tools, at: stranger}
	w.observer = func(s sighting) {
		s.packet = append([]byte(nil), s.packet...)
		index, _ := wire.ReceiverIdx(s.packet)
		for _, t := range o.tools {
			t.use(o, s, index)
		}
		o.seen = append(o.seen, s)
	}
	return o
}

func (o *observer) inject(s sighting) {
	o.sent++
	o.w.inject(s)
}

// toClient sends a clear packet to the client in the gateway's name.
func (o *observer) toClient(index uint32, t wire.Type, m message) {
	o.inject(sighting{packet: clearPacket(o.mac, index, t, m), toClient: true, from: gatewayAt, to: o.w.at})
}

// toGateway sends a clear packet to the gateway in the client's name.
func (o *observer) toGateway(index uint32, t wire.Type, m message) {
	o.inject(sighting{packet: clearPacket(o.mac, index, t, m), from: o.w.at, to: gatewayAt})
}

func (o *observer) random(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(o.rng.Uint32())
	}
	return b
}

// clearPart returns the type and part of a clear packet that bears one.
func clearPart(s sighting) (wire.Type, wire.Part, bool) {
	h, err := wire.ParseHeader(s.packet)
	if err != nil || h.Level != wire.LevelClear {
		return 0, wire.Part{}, false
	}
	t, content, err := wire.ParseBody(wire.Body(s.packet))
	if err != nil || t.MaxMessage() == 0 {
		return 0, wire.Part{}, false
	}
	part, err := wire.ParsePart(content)
	return t, part, err == nil
}

func isHello(s sighting) bool { return s.packet[0]|s.packet[1]|s.packet[2]|s.packet[3] == 0 }

var (
	forgedAcks = tool{"Acks", func(o *observer, _ sighting, index uint32) {
		ack := wire.Ack{AEAD: uint8(seal.ChaCha20Poly1305), KEM: uint8(o.w.config.KEM)}
		copy(ack.Nonce[:], o.random(len(ack.Nonce)))
		ack.ReceiverIdx = o.rng.Uint32() | 1
		o.toClient(index, wire.TypeAck, &ack)
	}}
	forgedRejects = tool{"Rejects", func(o *observer, _ sighting, index uint32) {
		clocks := []uint64{uint64(o.w.now.Unix()), 0, 1 << 40, 1 << 63, ^uint64(0)}
		o.toClient(index, wire.TypeReject, &wire.Reject{
			Code:           wire.RejectCode(1 + o.rng.IntN(7)),
			GatewaySeconds: clocks[o.rng.IntN(len(clocks))],
			Detail:         wire.Detail("go away"),
		})
	}}
	forgedBusy = tool{"Busy", func(o *observer, _ sighting, index uint32) {
		busy := wire.Busy{RetryAfterMillis: o.rng.Uint32(), HasCookie: o.rng.IntN(3) > 0}
		copy(busy.Cookie[:], o.random(len(busy.Cookie)))
		o.toClient(index, wire.TypeBusy, &busy)
	}}
	forgedHeld = tool{"Held", func(o *observer, _ sighting, index uint32) {
		o.toClient(index, wire.TypeHeld, &wire.Empty{})
	}}
	forgedParts = tool{"parts", func(o *observer, s sighting, index uint32) {
		t, part, ok := clearPart(s)
		if !ok {
			return
		}
		forged := part
		forged.Data = o.random(len(part.Data))
		if o.rng.IntN(2) == 0 { // one that begins like the honest one
			copy(forged.Data, part.Data[:len(part.Data)/2])
		}
		if s.toClient {
			o.toClient(index, t, &forged)
		} else {
			o.toGateway(index, t, &forged)
		}
	}}
	ownFirst = tool{"own Handshake 1", func(o *observer, s sighting, index uint32) {
		if s.toClient {
			return
		}
		// Everything about it is right but whose it is.
		ephemeral := noise.KeyPairFrom([32]byte(o.random(32)))
		private, public := testIdentity(66).X25519()
		t := kdf.Hash(s.packet)
		key := sharedKEMs().Find(o.w.config.KEM, 0).Public()
		payload, _, err := psq.Initiate(o.w.config.KEM, key, t[:], testIdentity(66), o.w.now, seeded(o.rng.Uint64()))
		if err != nil {
			panic(err)
		}
		gateway, _ := o.w.config.Gateway.X25519()
		m, err := noise.NewXKInitiator(noisePrologue(&t), noise.KeyPair{Private: private, Public: public}, ephemeral, gateway).WriteMessage1(payload)
		if err != nil {
			panic(err)
		}
		o.sendFirst(index, m)
	}}
	junkFirst = tool{"Handshake 1 with the right e and junk", func(o *observer, s sighting, index uint32) {
		if t, part, ok := clearPart(s); ok && t == wire.TypeHandshake && part.Index == 0 {
			o.sendFirst(index, slices.Concat(part.Data[:32], o.random(1281)))
		}
	}}
	junkSealed = tool{"sealed junk", func(o *observer, _ sighting, index uint32) {
		for _, level := range []wire.Level{wire.LevelTransport, wire.LevelHandshake} {
			var seq uint64
			if level == wire.LevelTransport {
				seq = uint64(o.rng.IntN(100))
			}
			p := append(wire.Begin(nil, index, level, seq, wire.TypeClose), o.random(100)...)
			o.inject(sighting{packet: p, toClient: true, from: gatewayAt, to: o.w.at})
			o.inject(sighting{packet: p, from: o.w.at, to: gatewayAt})
		}
	}}
	// copies sends the client's packets, hellos included, from elsewhere and first.
	copies = tool{"copies from elsewhere", func(o *observer, s sighting, _ uint32) {
		if !s.toClient {
			s.from = o.at
			o.inject(s)
		}
	}}
	// rotatingCopies come from another address each time.
	rotatingCopies = tool{"copies from ever other addresses", func(o *observer, s sighting, _ uint32) {
		if s.toClient || isHello(s) {
			return
		}
		s.from = addr(fmt.Sprintf("198.51.100.66:%d", 1024+o.rng.IntN(60_000)))
		o.inject(s)
	}}
	repeats = tool{"replays", func(o *observer, _ sighting, _ uint32) {
		for range min(3, len(o.seen)) {
			o.inject(o.seen[o.rng.IntN(len(o.seen))])
		}
		if len(o.seen) > 0 {
			o.inject(o.seen[len(o.seen)-1])
		}
	}}

	allTools = []tool{
		forgedAcks, forgedRejects, forgedBusy, forgedHeld, forgedParts,
		ownFirst, junkFirst, junkSealed, copies, repeats,
		relays, admittedRival, admittedRivalInTheClientsName, crowdElsewhere, crowdInTheClientsName,
	}
)

func (o *observer) sendFirst(index uint32, message []byte) {
	for _, p := range splitFor(message, false) {
		o.toGateway(index, wire.TypeHandshake, &p)
	}
}

// steady is a network that loses nothing and delays every packet alike, so that
// nothing but an observer can delay a handshake.
func steady(seed uint64) faults {
	return faults{delay: time.Duration(1+seed*7%90) * time.Millisecond}
}

// TestObserverDelaysHandshakeLittle makes each handshake twice: undisturbed, and under the
// eyes of an observer with each of its tools and with all of them together. The
// second takes at most one retransmission more than the first, and a round trip where a cookie is needed.
//
// Shows R1.18, R2.6, R2.14, R4.9, R4.20, R4.27, R4.34, R5.15, R5.19, R5.28, R5.29, R5.37.
func TestObserverDelaysHandshakeLittle(t *testing.T) {
	const oneRetransmission = firstRetry + firstRetry/10
	sets := [][]tool{allTools}
	for _, one := range allTools {
		sets = append(sets, []tool{one})
	}
	for n, tools := range sets {
		name := "everything"
		if n > 0 {
			name = tools[0].name
		}
		t.Run(name, func(t *testing.T) {
			worst := time.Duration(0)
			for seed := range uint64(runs(30, 6)) {
				seed++
				join := func(tools ...tool) time.Duration {
					w := newWorld(t, seed, steady(seed), steady(seed), variety(seed))
					o := newObserver(w, tools...)
					w.dial()
					done := w.run(handshakeDeadline, w.joined)
					if len(tools) > 0 && o.sent == 0 {
						t.Fatal("the observer did nothing")
					}
					if !done {
						t.Fatalf("seed %d: no session (%v); drops: client %v, gateway %v", seed, w.client.client.Err(), w.client.drops, w.gateway.drops)
					}
					if w.session().Peer() != w.config.Identity.Public() {
						t.Fatalf("seed %d: the gateway's session is with somebody else", seed)
					}
					took := w.now.Sub(epoch)
					sendData(t, w.client.session, &w.client.out, "up")
					if !w.run(5*time.Second, func() bool { return len(w.gateway.data) == 1 && w.confirmed() }) {
						t.Fatalf("seed %d: no data, or no terms; drops: client %v, gateway %v", seed, w.client.drops, w.gateway.drops)
					}
					for at, rival := range o.rival {
						if len(tools) == 1 && rival.session == nil {
							t.Errorf("seed %d: the rival at %v has no session: %v", seed, at.Peer, rival.drops)
						}
					}
					return took
				}
				alone, watched := join(), join(tools...)
				worst = max(worst, watched-alone)
				most := alone + oneRetransmission
				if name == "everything" || name == crowdInTheClientsName.name {
					most += 2 * steady(seed).delay // for a cookie
				}
				if watched > most {
					t.Errorf("seed %d: %v under the observer's eyes, %v without", seed, watched, alone)
				}
			}
			t.Logf("at most %v later", worst)
		})
	}
}

// TestObserverUnderLoss makes handshakes through loss under an observer's eyes.
//
// Shows R2.6, R5.29.
func TestObserverUnderLoss(t *testing.T) {
	n := runs(80, 12)
	failed := 0
	for seed := range uint64(n) {
		seed += 1000
		w := newWorld(t, seed, lossy(0.1), lossy(0.1), variety(seed))
		newObserver(w, allTools...)
		w.dial()
		if !w.run(handshakeDeadline, w.joined) {
			failed++
			t.Logf("seed %d: no session (%v); drops: client %v, gateway %v", seed, w.client.client.Err(), w.client.drops, w.gateway.drops)
		}
	}
	if failed > 0 {
		t.Errorf("%d of %d handshakes failed", failed, n)
	}
}

// TestObserverCannotMigrateSession lets an observer copy and forge while a session
// carries data and takes new keys. The gateway's path leaves the client's true
// address for no longer than three seconds at a time, and for a small part of the
// whole; the ends come to the same keys, and data goes on both ways.
//
// (A real move under the eyes of an observer whose copies of every packet are
// faster cannot be seen: whatever comes from the new address has come before.)
//
// Shows R5.33, R6.5, R6.8, R6.11.
func TestObserverCannotMigrateSession(t *testing.T) {
	left := tool{"copies from the address that was left", func(o *observer, s sighting, _ uint32) {
		if !s.toClient {
			s.from = clientAt
			o.inject(s)
		}
	}}
	for _, c := range []struct {
		name  string
		tools []tool
		move  bool // the client has just moved when the observer begins
	}{
		{"copies", []tool{copies}, false},
		{"copies from ever other addresses", []tool{rotatingCopies}, false},
		{"copies from the address that was left", []tool{left}, true},
		{"forgeries", []tool{junkSealed, forgedRejects, forgedBusy, forgedHeld, repeats}, false},
		{"everything", []tool{rotatingCopies, copies, left, junkSealed, repeats, forgedAcks}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for seed := range uint64(runs(6, 1)) {
				onlookAtSession(t, seed, c.tools, c.move)
			}
		})
	}
}

func onlookAtSession(t *testing.T, seed uint64, tools []tool, move bool) {
	network := faults{loss: 0.02, delay: 20 * time.Millisecond, jitter: 20 * time.Millisecond}
	w := newWorld(t, seed, network, network, func(g *GatewayConfig, _ *ClientConfig) {
		g.Session.Terms.RekeyAfter = 5 * time.Second
	})
	w.established()
	stop := w.traffic(10 * time.Millisecond)
	if move {
		w.at = moved
		if !w.run(3*time.Second, func() bool { return w.session().Path() == moved && w.session().migration.active.state.Load().validated }) {
			t.Fatalf("seed %d: the move is not seen", seed)
		}
	}
	newObserver(w, tools...)
	began, last := w.now, w.now
	var since time.Time // of being away
	longest, away := time.Duration(0), time.Duration(0)
	w.watch = func() {
		if !since.IsZero() { // until now
			longest = max(longest, w.now.Sub(since))
			away += w.now.Sub(last)
		}
		if last = w.now; w.session().Path() == w.at {
			since = time.Time{}
		} else if since.IsZero() {
			since = w.now
		}
	}
	w.run(30*time.Second, nil)
	whole := w.now.Sub(began)
	if longest > validationTimeout || away > whole/5 {
		t.Errorf("seed %d: of %v the session was away for %v at a time and %v in all", seed, whole, longest, away)
	}
	stop()
	w.observer, w.watch = nil, nil
	w.up, w.down = faults{}, faults{}
	if !w.run(15*time.Second, func() bool { return w.client.session.Phase() == Transport && w.session().Phase() == Transport }) {
		t.Errorf("seed %d: a subsession does not come to its end", seed)
	}
	w.checkSameKeys()
	if n := w.session().keys.current.number; n < 4 {
		t.Errorf("seed %d: only %d subsessions", seed, n)
	}
	up, down := len(w.gateway.data), len(w.client.data)
	if up < w.numbered*4/10 || down < w.numbered*3/10 {
		t.Errorf("seed %d: of %d datagrams %d came up and %d down", seed, w.numbered, up, down)
	}
	t.Logf("seed %d: away for %v at a time and %v in all; of %d datagrams %d came up and %d down; generation %d",
		seed, longest, away, w.numbered, up, down, w.session().keys.current.number)
}

// TestForgedPartsInOrder shows, for parts alone, what the others show in passing:
// honest parts join with forged ones of the right id before, between and behind.
//
// Shows R1.18, R1.19.
func TestForgedPartsInOrder(t *testing.T) {
	message := make([]byte, 1500)
	for i := range message {
		message[i] = byte(i * 7)
	}
	honest := parts.Split(message, parts.MaxData)
	forged := func(index int) wire.Part {
		p := honest[index]
		p.Data = append([]byte(nil), p.Data...)
		p.Data[0] ^= 1
		return p
	}
	for name, order := range map[string][]wire.Part{
		"before":  {forged(0), forged(1), honest[0], honest[1]},
		"between": {honest[0], forged(0), forged(1), honest[1]},
		"around":  {forged(1), honest[1], forged(0), honest[0]},
	} {
		a := parts.Assembler{Limit: parts.MaxHandshake}
		for round := range 2 {
			var whole []byte
			for _, p := range order {
				if m, err := a.Add(epoch, p); err != nil {
					t.Errorf("%s: %v", name, err)
				} else if m != nil {
					whole = m
				}
			}
			if string(whole) != string(message) {
				t.Errorf("%s, round %d: the message did not come together", name, round)
			}
		}
	}
}

// captured is every packet that two ends sent, in order.
type captured []sighting

// conversation runs a whole session through a network that loses nothing (what
// it lost would not be a replay later): handshake, data, Pings, a subsession, a
// move of the client. It returns all that an observer saw.
func conversation(w *world) (seen captured) {
	w.observer = func(s sighting) {
		s.packet = append([]byte(nil), s.packet...)
		seen = append(seen, s)
	}
	defer func() { w.observer = nil }()
	w.reached = func(path.Path) bool { return true } // the client keeps its old address for a while
	w.established()
	talk := func() {
		stop := w.traffic(5 * time.Millisecond)
		w.run(300*time.Millisecond, nil)
		stop()
		w.client.session.Ping(w.now, 64, &w.client.out)
		w.session().Ping(w.now, 64, &w.gateway.out)
		w.run(300*time.Millisecond, nil)
	}
	talk()
	w.client.session.Rekey(w.now, &w.client.out)
	talk()
	w.at = addr("192.0.2.77:7777")
	talk()
	w.checkSameKeys()
	w.checkTraffic()
	return seen
}

// reordering is a network that loses nothing.
var reordering = faults{duplicate: 0.1, delay: 10 * time.Millisecond, jitter: 30 * time.Millisecond}

// replay sends everything again, to both ends: as it was, from another address,
// and back to where it came from.
func (w *world) replay(seen captured) {
	for _, s := range seen {
		w.inject(s)
		back := s
		back.toClient, back.from, back.to = !s.toClient, s.to, s.from
		w.inject(back)
		if !s.toClient {
			s.from = addr("203.0.113.99:9999")
			w.inject(s)
		}
	}
	w.run(time.Millisecond, nil)
}

// TestReplaysChangeNothing sends every packet of a run again, to both ends, at
// times when handshake responders still answer repetitions, when they are gone, and
// when the first generation is gone too.
//
// Shows R5.22, R5.33, R6.4, R6.7.
func TestReplaysChangeNothing(t *testing.T) {
	eachSeed(t, runs(8, 2), func(t *testing.T, seed uint64) {
		w := newWorld(t, seed, reordering, reordering, variety(seed))
		seen := conversation(w)
		for _, at := range []struct {
			name string
			time.Duration
		}{
			{"while the responder lingers", 5 * time.Second},
			{"when the responder is gone", 20 * time.Second},
			{"when the clock refuses the hello", 40 * time.Second},
			{"when the parent is gone", 80 * time.Second},
		} {
			w.run(epoch.Add(at.Duration).Sub(w.now), nil)
			data := len(w.client.data) + len(w.gateway.data)
			before := shoot(w.client, w.gateway)
			w.replay(seen)
			after := shoot(w.client, w.gateway)
			if len(w.client.data)+len(w.gateway.data) != data {
				t.Errorf("seed %d, %s: a replay brought data", seed, at.name)
			}
			if after.gateway.established != 1 || w.gateway.sessions.Len() != 1 {
				t.Errorf("seed %d, %s: a replay made a session", seed, at.name)
			}
			// The final Ack is sealed anew for a copy of Handshake 3. A copy of the hello
			// makes a record that comes to nothing: its Ack is another.
			before.gateway.session.current.sealed, after.gateway.session.current.sealed = 0, 0
			before.gateway.responders, after.gateway.responders = 0, 0
			before.gateway.responder, after.gateway.responder = responderShot{}, responderShot{}
			before.gateway.opened, after.gateway.opened = 0, 0
			if before != after {
				t.Errorf("seed %d, %s: a replay changed %s", seed, at.name, difference(before, after))
			}
		}
		stop := w.traffic(5 * time.Millisecond)
		w.run(time.Second, nil)
		stop()
		w.run(time.Second, nil)
		w.checkTraffic()
	})
}

// TestReplayToAnotherProcess sends a whole session's packets to a gateway that
// knows nothing of it, with the same identity and KEM keys: one that was started
// anew. It answers, with another nonce in its Ack, and no session stands.
//
// Shows R4.14, R5.10, R5.25.
func TestReplayToAnotherProcess(t *testing.T) {
	first := newWorld(t, 1, reordering, reordering)
	seen := conversation(first)
	g := newWorld(t, 2, reordering, reordering).gateway
	for range 2 {
		for _, s := range seen {
			g.handle(epoch, s.packet, s.from)
		}
	}
	if g.responders.Stats.Opened == 0 {
		t.Fatalf("the copies of Handshake 1 did not open; drops %v", g.drops)
	}
	if g.sessions.Len() != 0 || len(g.data) != 0 || g.responders.Stats.Established != 0 {
		t.Errorf("%d sessions, %d datagrams after a replay", g.sessions.Len(), len(g.data))
	}
}

// TestReplayAfterClose sends a session's packets again once it is closed and its
// index free: the hello is younger than the tolerance, so a responder is made, and
// nothing more.
//
// Shows R5.10, R5.25.
func TestReplayAfterClose(t *testing.T) {
	w := newWorld(t, 3, reordering, reordering)
	seen := conversation(w)
	w.session().Close(0, "", &w.gateway.out)
	w.run(12*time.Second, nil)
	if w.gateway.sessions.Len() != 0 || w.gateway.responders.Len() != 0 {
		t.Fatalf("%d sessions and %d responders are left", w.gateway.sessions.Len(), w.gateway.responders.Len())
	}
	data := len(w.gateway.data) + len(w.client.data)
	w.replay(seen)
	if w.gateway.responders.Stats.Established != 1 || w.gateway.sessions.Len() != 0 || len(w.gateway.data)+len(w.client.data) != data {
		t.Error("a replay after the end made a session or brought data")
	}
}
