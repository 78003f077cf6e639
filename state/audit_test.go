package state

import (
	"bytes"
	"encoding/binary"
	"testing"

	"lewes/crypto/seal"
	"lewes/state/path"
	"lewes/state/wire"
)

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
// gateway's record of it answers to.
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
			delete(a.sealed1[direction], at) // another record, another key
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
			a.t.Errorf("index %#x, direction %d: sealed under a key that nobody had", h.ReceiverIdx, direction)
			return
		}
		if want := a.next[f]; h.Sequence != want && !a.skipped(direction, want, h.Sequence) {
			a.t.Errorf("index %#x, direction %d: sequence %d under a key whose next is %d", h.ReceiverIdx, direction, h.Sequence, want)
		}
		a.next[f] = h.Sequence + 1
	}
}
