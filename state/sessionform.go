package state

import (
	"errors"
	"fmt"

	"lewes/crypto/noise"
	"lewes/crypto/seal"
	"lewes/state/parts"
	"lewes/state/snapshot"
	"lewes/state/wire"
)

// sessionForm is the version of the form in which sessions are written. A reader
// knows its own and those before.
const sessionForm = 1

// skipAhead is by how many sequence numbers a session that was read goes on behind
// the one that was written. Freeze alone sees to it that no number comes twice; the
// gap is there in case it does not. It is smaller than the replay window, so that
// packets which the gap overtakes on their way are still taken.
const skipAhead = 1024

var (
	// ErrForm says that a session was written in a form that this program does
	// not know: by a newer one.
	ErrUnknownVersion = errors.New("state: session is written in a form that this program does not know")
	// ErrNotFrozen says that a session would be written that may still seal.
	ErrNotFrozen = errors.New("state: only a frozen gateway's session can be written")
)

// Freeze makes a session seal nothing more, in whatever goroutine, until Thaw. Its
// owner calls it before Write, and calls nothing else but Write, Thaw and Wipe
// while the session is frozen.
func (s *Session) Freeze() { s.eachKeySet(func(g *KeySet) { g.sender.freeze() }) }

// Thaw undoes Freeze: the session goes on as if nothing had been. It must not be
// called once somebody else may have gone on with what was written.
func (s *Session) Thaw() { s.eachKeySet(func(g *KeySet) { g.sender.thaw() }) }

// Wipe erases a frozen session's secrets, once somebody else has gone on with it.
func (s *Session) Wipe() {
	s.eachKeySet((*KeySet).wipe)
	if s.reply != nil {
		s.reply.secrets.wipe()
	}
	clear(s.exporter[:])
	clear(s.seed[:])
	s.closed = true
}

// eachGeneration calls f for each set of keys: the current, those demoted, and a
// child that is not proved yet.
func (s *Session) eachKeySet(f func(*KeySet)) {
	f(s.current)
	for _, g := range s.demoted {
		f(g)
	}
	if s.reply != nil && s.reply.child != nil {
		f(s.reply.child)
	}
}

// Write writes a frozen gateway's session, secrets and all. Everything goes along
// but: User, which is the owner's; the last Pings' times, so that one round trip
// less is measured; and the parts of a KK1 that is not whole, which the client sends
// again.
func (s *Session) Write(w *snapshot.Writer) error {
	if s.role != RoleGateway || !s.current.sender.frozen() {
		return ErrNotFrozen
	}
	w.Uint8(sessionForm)
	w.Fixed(s.peer[:])
	w.Fixed(s.peerStatic[:])
	w.Uint8(uint8(s.suite))
	w.Fixed(s.handle[:])
	w.Fixed(s.exporter[:])
	w.Fixed(s.seed[:])
	s.terms.write(w)
	s.current.write(w)
	w.Uint32(uint32(len(s.demoted)))
	for _, g := range s.demoted {
		g.write(w)
	}
	s.route.write(w)
	s.roaming.write(w)
	s.reply.write(w)
	s.mtu.write(w)
	w.Uint32(s.maxPacket.Load())
	w.Bool(s.large.Load())
	w.Duration(s.RTT())
	w.Time(s.asked)
	w.Time(s.started)
	w.Time(s.lastOpened)
	w.Time(s.compactAt)
	w.Time(s.demotedAckAt)
	return nil
}

// ReadSession reads what Write wrote, whoever wrote it: the error, ErrForm or one of
// package snapshot, is that of the Reader too. The caller wipes the bytes.
func ReadSession(r *snapshot.Reader, config *SessionConfig) (*Session, error) {
	if form := r.Uint8(); r.Err() == nil && form != sessionForm {
		return nil, fmt.Errorf("%w: %d", ErrUnknownVersion, form)
	}
	s := &Session{config: config, role: RoleGateway}
	r.Fixed(s.peer[:])
	r.Fixed(s.peerStatic[:])
	if s.suite = seal.Suite(r.Uint8()); !s.suite.Valid() {
		r.Fail("AEAD %d", s.suite)
	}
	r.Fixed(s.handle[:])
	r.Fixed(s.exporter[:])
	r.Fixed(s.seed[:])
	s.terms.read(r)
	s.current = readKeySet(r, s)
	for range r.Count(maxDemoted, keySetLeast) {
		s.demoted = append(s.demoted, readKeySet(r, s))
	}
	s.route.read(r)
	s.roaming.read(r)
	s.reply = readReply(r, s)
	s.mtu = readMTU(r)
	s.maxPacket.Store(r.Uint32())
	s.large.Store(r.Bool())
	if rtt := r.Duration(); rtt > 0 {
		s.echoes = &echoes{smoothed: rtt}
	}
	s.asked = r.Time()
	s.started = r.Time()
	s.lastOpened = r.Time()
	s.compactAt = r.Time()
	s.demotedAckAt = r.Time()
	if r.Err() != nil {
		return nil, r.Err()
	}
	s.sender.Store(s.current.sender)
	s.reschedule()
	return s, nil
}

func (t *Terms) write(w *snapshot.Writer) {
	w.Duration(t.IdleTTL)
	w.Duration(t.RekeyAfter)
	w.Uint16(t.MaxDatagram)
	w.Uint16(uint16(t.Flags))
}

func (t *Terms) read(r *snapshot.Reader) {
	*t = Terms{IdleTTL: r.Duration(), RekeyAfter: r.Duration(), MaxDatagram: r.Uint16(), Flags: wire.AckFlags(r.Uint16())}
	if most := snapshot.MaxDistance; t.IdleTTL < 0 || t.IdleTTL > most || t.RekeyAfter < 0 || t.RekeyAfter > most {
		r.Fail("terms of %v and %v", t.IdleTTL, t.RekeyAfter)
	}
}

// generationLeast is less than the length of any generation that is written.
const keySetLeast = 100

func (g *KeySet) write(w *snapshot.Writer) {
	var key [seal.KeySize]byte
	defer clear(key[:])
	w.Uint32(g.number)
	w.Uint32(g.index)
	w.Uint64(g.sender.stopped())
	g.sender.key.Secret(&key)
	w.Fixed(key[:])
	g.receive.Secret(&key)
	w.Fixed(key[:])
	w.Fixed(g.binding[:])
	g.window.Write(w)
	w.Uint64(g.failed)
	w.Time(g.started)
	w.Time(g.lastOpened)
	w.Bool(g.readOnly)
}

func readKeySet(r *snapshot.Reader, s *Session) *KeySet {
	var keys transportKeys
	defer keys.wipe()
	number, index, next := r.Uint32(), r.Uint32(), r.Uint64()
	if index == 0 || next > 2*MaxPackets {
		r.Fail("keys of index %d that have sealed %d packets", index, next)
	}
	r.Fixed(keys.g2c[:])
	r.Fixed(keys.c2g[:])
	r.Fixed(keys.binding[:])
	g := newKeySet(s, number, index, &keys)
	g.sender.next.Store(next + skipAhead)
	g.window.Read(r)
	g.failed = r.Uint64()
	g.started = r.Time()
	g.lastOpened = r.Time()
	g.readOnly = r.Bool()
	return g
}

func (o *route) write(w *snapshot.Writer) {
	at := o.at.Load()
	w.Path(at.path)
	w.Bool(at.validated)
	w.Bool(at.fallback != nil)
	if at.fallback != nil {
		w.Path(*at.fallback)
	}
	w.Uint64(uint64(at.budget.Load()))
}

func (o *route) read(r *snapshot.Reader) {
	at := &waypoint{path: r.Path(), validated: r.Bool()}
	if r.Bool() {
		fallback := r.Path()
		at.fallback = &fallback
	} else if !at.validated {
		r.Fail("a path on trial with none to fall back to")
	}
	at.budget.Store(int64(r.Uint64()))
	o.at.Store(at)
}

func (m *roaming) write(w *snapshot.Writer) {
	w.Uint32(m.generation)
	w.Bool(m.any)
	w.Uint64(m.sequence)
	w.Time(m.heldUntil)
	w.Bool(m.trial != nil)
	if t := m.trial; t != nil {
		w.Path(t.left)
		w.Fixed(t.tokens[toNew][:])
		w.Fixed(t.tokens[toLeft][:])
		w.Bool(t.proved)
		w.Time(t.next)
		w.Time(t.deadline)
	}
}

func (m *roaming) read(r *snapshot.Reader) {
	*m = roaming{generation: r.Uint32(), any: r.Bool(), sequence: r.Uint64(), heldUntil: r.Time()}
	if !r.Bool() {
		return
	}
	t := &trial{left: r.Path()}
	r.Fixed(t.tokens[toNew][:])
	r.Fixed(t.tokens[toLeft][:])
	t.proved, t.next, t.deadline = r.Bool(), r.Time(), r.Time()
	m.trial = t
}

// A subsession that was answered goes along as it is: the client has its KK2, or
// gets the same again, and may prove the child at any moment (section 7).
func (a *subsessionReply) write(w *snapshot.Writer) {
	under := a != nil && a.answered
	w.Bool(under)
	if !under {
		return
	}
	w.Fixed(a.kk1[:])
	w.Blob(a.noise)
	w.Fixed(a.secrets.split.InitiatorToResponder[:])
	w.Fixed(a.secrets.split.ResponderToInitiator[:])
	w.Fixed(a.secrets.split.Hash[:])
	w.Fixed(a.secrets.psk[:])
	w.Fixed(a.secrets.ss[:])
	a.child.write(w)
}

func readReply(r *snapshot.Reader, s *Session) *subsessionReply {
	if !r.Bool() {
		return nil
	}
	a := &subsessionReply{question: parts.Assembler{Limit: parts.MaxHandshake}, answered: true}
	r.Fixed(a.kk1[:])
	a.noise = append([]byte(nil), r.Blob(parts.MaxHandshake)...)
	a.secrets.split = readSplit(r)
	r.Fixed(a.secrets.psk[:])
	r.Fixed(a.secrets.ss[:])
	a.child = readKeySet(r, s)
	return a
}

func readSplit(r *snapshot.Reader) (split noise.Split) {
	r.Fixed(split.InitiatorToResponder[:])
	r.Fixed(split.ResponderToInitiator[:])
	r.Fixed(split.Hash[:])
	return split
}

func (m *mtu) write(w *snapshot.Writer) {
	w.Bool(m != nil)
	if m == nil {
		return
	}
	for _, size := range []int{m.largest, m.fits, m.fails, m.size, m.tries} {
		w.Uint32(uint32(size))
	}
	w.Time(m.raiseAt)
	w.Bool(m.probing)
	w.Fixed(m.token[:])
	w.Time(m.since)
	w.Time(m.next)
	w.Uint64(m.sealed)
}

func readMTU(r *snapshot.Reader) *mtu {
	if !r.Bool() {
		return nil
	}
	m := new(mtu)
	for _, size := range []*int{&m.largest, &m.fits, &m.fails, &m.size, &m.tries} {
		if *size = int(r.Uint32()); *size > 1<<16 || *size < 0 {
			r.Fail("a packet of %d bytes", *size)
		}
	}
	m.raiseAt = r.Time()
	m.probing = r.Bool()
	r.Fixed(m.token[:])
	m.since = r.Time()
	m.next = r.Time()
	m.sealed = r.Uint64()
	return m
}
