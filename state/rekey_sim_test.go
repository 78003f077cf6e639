package state

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"lewes/crypto/seal"
	"lewes/state/path"
	"lewes/state/wire"
)

// rekeys is how a session comes to new keys in a test.
type rekeys struct {
	name string
	tune func(*GatewayConfig, *ClientConfig)
	ask  time.Duration // the gateway asks this often; 0: never
	// refuse is how often the index of a child is taken on its way to the
	// gateway, in percent.
	refuse int
	// handOver is how often another process takes the gateway's place; 0: never.
	handOver time.Duration
}

// traffic sends numbered datagrams both ways, one on average each gap, until stop
// is called.
func (w *world) traffic(gap time.Duration) (stop func()) {
	stopped := false
	var tick func()
	tick = func() {
		if stopped {
			return
		}
		w.numbered++
		if w.rng.IntN(2) == 0 {
			w.sendData(false, fmt.Sprint("up ", w.numbered))
		} else {
			w.sendData(true, fmt.Sprint("down ", w.numbered))
		}
		w.after(time.Duration(w.rng.Int64N(int64(2*gap))), tick)
	}
	tick()
	return func() { stopped = true }
}

// checkTraffic shows that all data arrived that the network did not lose.
func (w *world) checkTraffic() {
	w.t.Helper()
	w.checkData("upstream", w.gateway.data, func(s string) bool { return strings.HasPrefix(s, "up") })
	w.checkData("downstream", w.client.data, func(s string) bool { return strings.HasPrefix(s, "down") })
}

// checkSameKeys shows that the two ends have come to the same generation.
func (w *world) checkSameKeys() {
	w.t.Helper()
	c, g := w.client.session, w.session()
	if c.keys.current.number != g.keys.current.number || c.keys.current.index != g.keys.current.index {
		w.t.Fatalf("seed %d: the client is at generation %d (%#x), the gateway at %d (%#x)",
			w.seed, c.keys.current.number, c.keys.current.index, g.keys.current.number, g.keys.current.index)
	}
	if c.rekey.seed != g.rekey.seed || c.keys.current.binding != g.keys.current.binding || c.exporter != g.exporter {
		w.t.Errorf("seed %d: seed, binding or exporter of generation %d differ", w.seed, c.keys.current.number)
	}
	send, _ := fingerprintOf(c.keys.current.sender.key)
	receive, _ := fingerprintOf(g.keys.current.receive)
	back, _ := fingerprintOf(g.keys.current.sender.key)
	forth, _ := fingerprintOf(c.keys.current.receive)
	if send != receive || back != forth || send == back {
		w.t.Errorf("seed %d: the keys of generation %d do not fit each other", w.seed, c.keys.current.number)
	}
}

// TestRekeysUnderTraffic takes sessions through a thousand subsessions while data
// goes both ways through a network that loses 10 %, reorders, repeats and
// damages. No datagram is lost that the network let through, and no session is
// stranded.
//
// Shows R6.1, R6.2, R7.3, R7.5, R7.10, R7.12, R7.22.
func TestRekeysUnderTraffic(t *testing.T) {
	generations := uint32(250)
	if testing.Short() {
		generations = 40
	}
	for _, r := range []rekeys{
		{name: "time", tune: func(g *GatewayConfig, _ *ClientConfig) {
			g.Session.Terms.RekeyAfter = 2 * time.Second
		}},
		{name: "the client's packets", tune: func(_ *GatewayConfig, c *ClientConfig) {
			c.Session.RekeyPackets = 90
		}},
		{name: "the gateway's packets", tune: func(g *GatewayConfig, _ *ClientConfig) {
			g.Session.RekeyPackets = 90
		}},
		{name: "request", ask: 2 * time.Second},
		{name: "a successor each second", handOver: time.Second, tune: func(g *GatewayConfig, _ *ClientConfig) {
			g.Session.Terms.RekeyAfter = time.Second
		}},
		{name: "refused indexes", refuse: 40, tune: func(g *GatewayConfig, c *ClientConfig) {
			g.Session.Terms.RekeyAfter = 3 * time.Second
			c.Session.RekeyPackets = 150
		}},
	} {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			rekeyUnderTraffic(t, &r, max(1, *simSeed), generations)
		})
	}
}

func rekeyUnderTraffic(t *testing.T, r *rekeys, seed uint64, generations uint32) {
	tune := r.tune
	if tune == nil {
		tune = func(*GatewayConfig, *ClientConfig) {}
	}
	w := newWorld(t, seed, lossy(0.10), lossy(0.10), tune)
	w.established()
	exporter := w.session().Exporter()
	stop := w.traffic(15 * time.Millisecond)
	if r.ask > 0 {
		var ask func()
		ask = func() {
			w.session().RequestRekey(w.now, &w.gateway.out)
			w.after(r.ask, ask)
		}
		ask()
	}
	if r.refuse > 0 {
		refuseIndexes(w, r.refuse)
	}
	if r.handOver > 0 {
		var next func()
		next = func() {
			w.handOver()
			w.after(r.handOver/2+time.Duration(w.rng.Int64N(int64(r.handOver))), next)
		}
		w.after(r.handOver, next)
	}
	reached := w.run(time.Hour, func() bool {
		return w.session().keys.current.number >= generations && w.client.session.keys.current.number >= generations
	})
	if !reached {
		t.Fatalf("seed %d: stranded: client at generation %d (%v), gateway at %d (%v); drops %v %v", seed, w.client.session.keys.current.number,
			w.client.session.Phase(), w.session().keys.current.number, w.session().Phase(), w.client.drops, w.gateway.drops)
	}
	took := w.now.Sub(epoch)

	// The network recovers, and pending exchanges complete.
	w.up, w.down = faults{delay: 10 * time.Millisecond}, faults{delay: 10 * time.Millisecond}
	quiet := func() bool { return w.client.session.Phase() == Transport && w.session().Phase() == Transport }
	if !w.run(20*time.Second, quiet) {
		t.Errorf("seed %d: a subsession does not come to its end", seed)
	}
	w.checkSameKeys()
	stop()
	w.run(time.Second, nil)
	w.checkTraffic()
	if w.session().Exporter() != exporter || w.gateway.sessions.Len() != 1 || len(w.gateway.closed) != 0 {
		t.Errorf("seed %d: the session is another one than at first", seed)
	}
	t.Logf("%d generations in %v; up %+v, down %+v; arrived %d and %d", w.session().keys.current.number, took.Round(time.Second),
		w.tally[0], w.tally[1], len(w.gateway.data), len(w.client.data))
}

// refuseIndexes plays an entry gateway that has given some of the new indexes to
// other sessions: the client learns it a moment after it announced one.
func refuseIndexes(w *world, percent int) {
	decided := map[*KeySet]bool{}
	w.watch = func() {
		o := w.client.session.rekey.initiator
		if o == nil || o.child == nil || decided[o.child] {
			return
		}
		child := o.child
		decided[child] = true
		if w.rng.IntN(100) >= percent {
			return
		}
		w.after(time.Duration(w.rng.Int64N(int64(200*time.Millisecond))), func() {
			if o := w.client.session.rekey.initiator; o != nil && o.child == child {
				w.client.session.RejectIndex(w.now, &w.client.out)
			}
		})
	}
}

// fingerprint names a key: the tag of a fixed packet of the reserved level,
// which nothing else ever seals.
type fingerprint [seal.TagSize]byte

func fingerprintOf(k *seal.Key) (f fingerprint, ok bool) {
	p := make([]byte, wire.MinPacket)
	binary.LittleEndian.PutUint64(p[4:], 3<<62)
	ok = k.Seal(p)
	copy(f[:], p[len(p)-seal.TagSize:])
	return f, ok
}

// audit looks at every packet that two ends seal. At level 0 no key may see a
// sequence twice, and sequences rise from 0 by one; at level 1 the packets of an
// index and direction are copies of each other.
type audit struct {
	t       testing.TB
	known   map[*Sender]fingerprint
	newest  [2]map[uint32]*Sender // by direction and index
	next    map[fingerprint]uint64
	sealed1 [2]map[place1][]byte
	acks    map[place1][]byte // the last Ack to a hello: it goes into the handshake keys
	level   [3]int            // packets seen of each
	skip    uint64            // by how much a gateway's sequences go on behind a hand-over; 0: there was none
}

// skipped reports whether a sequence is further than the one expected by as much as
// hand-overs make it.
func (a *audit) skipped(direction int, want, got uint64) bool {
	return a.skip > 0 && direction == 1 && got > want && (got-want)%a.skip == 0
}

// place1 is where handshake keys belong: an index, and the address that the
// gateway's responder of it answers to.
type place1 struct {
	index uint32
	to    path.Path
}

func newAudit(t testing.TB) *audit {
	return &audit{
		t:       t,
		known:   map[*Sender]fingerprint{},
		newest:  [2]map[uint32]*Sender{{}, {}},
		next:    map[fingerprint]uint64{},
		sealed1: [2]map[place1][]byte{{}, {}},
		acks:    map[place1][]byte{},
	}
}

// learn takes down the sending keys that the two ends have now.
func (a *audit) learn(w *world) {
	if w.client != nil && w.client.session != nil {
		a.learnSession(0, w.client.session)
	}
	w.gateway.sessions.All(func(s *Session) { a.learnSession(1, s) })
}

func (a *audit) learnSession(direction int, s *Session) {
	a.learnGeneration(direction, s.keys.current)
	if w := s.liveness.confirmation; w != nil {
		for _, c := range w.candidates {
			a.learnGeneration(direction, c.keys)
		}
	}
	if o := s.rekey.initiator; o != nil {
		a.learnGeneration(direction, o.child)
	}
	if r := s.rekey.responder; r != nil {
		a.learnGeneration(direction, r.child)
	}
}

func (a *audit) learnGeneration(direction int, g *KeySet) {
	if g == nil {
		return
	}
	if _, ok := a.known[g.sender]; ok {
		return
	}
	f, ok := fingerprintOf(g.sender.key)
	if !ok {
		a.t.Errorf("generation %d: its sending key is wiped before it was used", g.number)
		return
	}
	a.known[g.sender] = f
	a.newest[direction][g.index] = g.sender
}

// sealed looks at one packet that an end sent.
func (a *audit) sealed(s sighting) {
	h, err := wire.ParseHeader(s.packet)
	if err != nil {
		a.t.Errorf("an end sent a packet with a bad header: %v", err)
		return
	}
	if len(s.packet) > wire.MaxHandshakeDatagram {
		a.t.Errorf("an end sent a packet of %d bytes", len(s.packet))
	}
	direction := 0
	if s.toClient {
		direction = 1
	}
	a.level[h.Level]++
	at := place1{h.ReceiverIdx, s.to}
	switch h.Level {
	case wire.LevelClear:
		t, content, err := wire.ParseBody(wire.Body(s.packet))
		if err == nil && t == wire.TypeAck && !bytes.Equal(content, a.acks[at]) {
			a.acks[at] = bytes.Clone(content)
			delete(a.sealed1[direction], at) // another responder, another key
		}
	case wire.LevelHandshake:
		first, seen := a.sealed1[direction][at]
		if seen && !bytes.Equal(first, s.packet) {
			a.t.Errorf("index %#x, direction %d: two different packets under one handshake key and nonce", h.ReceiverIdx, direction)
		}
		if !seen {
			a.sealed1[direction][at] = bytes.Clone(s.packet)
		}
	case wire.LevelTransport:
		f, ok := a.known[a.newest[direction][h.ReceiverIdx]]
		if !ok {
			a.t.Errorf("index %#x, direction %d: sealed under an unknown key", h.ReceiverIdx, direction)
			return
		}
		if want := a.next[f]; h.Sequence != want && !a.skipped(direction, want, h.Sequence) {
			a.t.Errorf("index %#x, direction %d: sequence %d under a key whose next is %d", h.ReceiverIdx, direction, h.Sequence, want)
		}
		a.next[f] = h.Sequence + 1
	}
}
