package state

import (
	"crypto/subtle"
	"sync/atomic"
	"time"

	"lewes/state/path"
	"lewes/state/snapshot"
	"lewes/state/wire"
)

const (
	// validationTimeout is the time in which a new address must answer a challenge,
	// and in which the previous one can claim the session back (section 6).
	validationTimeout = 3 * time.Second
	// amplificationFactor limits the bytes sent to an unvalidated address to this
	// multiple of the bytes received from it.
	amplificationFactor = 3
	// revertHold is the time after a reverted migration in which no other address is
	// tried. An attacker who copies packets from ever new addresses thus holds the
	// session for one round trip per second at most.
	revertHold = time.Second
	// challengeRetry is the interval at which challenges are repeated.
	challengeRetry = 500 * time.Millisecond
)

// activePath is the path that a session sends to. Any goroutine may read it; only
// the session's owner changes it.
type activePath struct{ state atomic.Pointer[pathState] }

// pathState is immutable once stored, except for its budget.
type pathState struct {
	path      path.Path
	validated bool
	fallback  *path.Path   // a validated one, for packets beyond the budget; nil: there is none
	budget    atomic.Int64 // bytes that may be sent until path is validated
}

// pathFor returns the path for a packet of n bytes, or false if it must be dropped.
func (a *activePath) pathFor(n int) (path.Path, bool) {
	at := a.state.Load()
	switch {
	case at.validated || at.spend(n, wire.MinPingPacket):
		return at.path, true
	case at.fallback != nil:
		return *at.fallback, true
	}
	return path.Path{}, false
}

// spend takes n bytes off the budget if at least reserve remain. pathFor reserves
// the bytes of the next challenge.
func (s *pathState) spend(n, reserve int) bool {
	if s.budget.Add(-int64(n)) >= int64(reserve) {
		return true
	}
	s.budget.Add(int64(n))
	return false
}

// set makes p the active path, validated.
func (a *activePath) set(p path.Path) {
	a.state.Store(&pathState{path: p, validated: true})
}

// setLocal updates the local end of the path: the peer has sent from the same address
// to another of ours. That proves nothing, so a validation continues.
func (a *activePath) setLocal(p path.Path) {
	at := a.state.Load()
	next := &pathState{path: p, validated: at.validated, fallback: at.fallback}
	next.budget.Store(at.budget.Load())
	a.state.Store(next)
}

// migration follows a client from address to address: the newest authentic packet
// decides, and the new address has to pass a validation (section 6).
type migration struct {
	active         activePath
	newestKeySet   uint32 // of the newest packet
	anyPacket      bool
	newestSequence uint64
	validation     *pathValidation // nil: the peer's address is settled
	holdUntil      time.Time       // no address is tried before
}

// pathValidation is a migration whose new address has not answered yet, or which the
// previous address may still revert. It reverts on a packet from there while that is the
// active path's fallback, and on its Pong at any time.
type pathValidation struct {
	previous      path.Path
	tokens        [2][8]byte // by challengeNew and challengePrevious
	nextChallenge time.Time
	deadline      time.Time // zero: neither address has answered in time
}

// unanswered reports whether the next packet has to begin another validation.
func (v *pathValidation) unanswered() bool { return v != nil && v.deadline.IsZero() }

const (
	challengeNew = iota
	challengePrevious
)

// packetOpened handles an authentic packet at a gateway.
func (m *migration) packetOpened(now time.Time, s *Session, k *KeySet, seq uint64, from path.Path, size int, out *Output) {
	at := m.active.state.Load()
	same := from.SameSource(at.path)
	if same && !at.validated {
		at.budget.Add(int64(amplificationFactor * size))
	}
	if m.anyPacket && (k.number < m.newestKeySet || k.number == m.newestKeySet && seq <= m.newestSequence) {
		return
	}
	m.newestKeySet, m.newestSequence, m.anyPacket = k.number, seq, true
	if same && from != at.path {
		m.active.setLocal(from)
	}
	switch v := m.validation; {
	case same && v.unanswered():
		v.deadline = now.Add(validationTimeout)
		m.sendChallenges(now, s, out)
		s.scheduleAt(v.nextChallenge)
	case same:
	case v != nil && at.fallback != nil && from.SameSource(v.previous):
		if from.Transport == path.TCP && at.path.Transport == path.UDP {
			return // a client that tries UDP still sends over TCP: its Pong decides
		}
		m.revertMigration(now, s, from, out)
	case now.Before(m.holdUntil):
	default:
		m.migrate(now, s, from, size, out)
	}
}

// migrate moves the session to a new address and challenges both addresses: a Pong
// from the new one validates it, a Pong from the previous one reverts the migration.
// An on-path observer who copies packets from other addresses gains nothing: a further
// address inherits the deadline and the challenge to the original one.
func (m *migration) migrate(now time.Time, s *Session, from path.Path, size int, out *Output) {
	at, v := m.active.state.Load(), m.validation
	fallback := at.fallback
	switch {
	case at.validated:
		v = &pathValidation{previous: at.path, deadline: now.Add(validationTimeout)}
		s.config.random(v.tokens[challengePrevious][:])
		previous := at.path
		m.validation, fallback = v, &previous
	case v.unanswered():
		v.deadline = now.Add(validationTimeout)
	}
	s.config.random(v.tokens[challengeNew][:])
	// A TCP connection has already proved its address.
	next := &pathState{path: from, fallback: fallback, validated: from.Transport == path.TCP}
	next.budget.Store(int64(amplificationFactor * size))
	m.active.state.Store(next)
	m.sendChallenges(now, s, out)
	out.event(Event{Kind: Moved, Session: s})
	s.scheduleAt(v.nextChallenge)
}

// sendChallenges sends the two Pings of a validation. The one to a previous address that has not
// answered either counts against the budget too.
func (m *migration) sendChallenges(now time.Time, s *Session, out *Output) {
	v, at := m.validation, m.active.state.Load()
	v.nextChallenge = now.Add(challengeRetry)
	if at.validated || at.spend(wire.MinPingPacket, 0) {
		s.sendTo(at.path, wire.TypePing, &wire.Ping{Data: v.tokens[challengeNew]}, out)
	}
	if at.fallback != nil || !v.previous.SameSource(at.path) && at.spend(wire.MinPingPacket, 0) {
		s.sendTo(v.previous, wire.TypePing, &wire.Ping{Data: v.tokens[challengePrevious]}, out)
	}
}

// revertMigration ends a validation in favour of the previous address.
func (m *migration) revertMigration(now time.Time, s *Session, to path.Path, out *Output) {
	m.validation, m.holdUntil = nil, now.Add(revertHold)
	m.active.set(to)
	out.event(Event{Kind: Moved, Session: s})
}

func (m *migration) handlePong(now time.Time, s *Session, token *[8]byte, from path.Path, out *Output) {
	v := m.validation
	if v == nil {
		return
	}
	switch {
	case subtle.ConstantTimeCompare(token[:], v.tokens[challengePrevious][:]) == 1:
		m.revertMigration(now, s, v.previous, out)
	case subtle.ConstantTimeCompare(token[:], v.tokens[challengeNew][:]) == 1 && from.SameSource(m.active.state.Load().path):
		m.active.set(from)
		if v.unanswered() { // late
			v.deadline = now.Add(validationTimeout)
			s.scheduleAt(v.deadline)
		}
	}
}

// tick repeats challenges and ends an overdue validation. If neither address has answered, neither
// is validated, and little is sent until one is.
func (m *migration) tick(now time.Time, s *Session, out *Output) {
	v := m.validation
	if v == nil || v.unanswered() {
		return
	}
	at := m.active.state.Load()
	switch {
	case now.Before(v.deadline):
		if !at.validated && !now.Before(v.nextChallenge) {
			m.sendChallenges(now, s, out)
		}
	case at.validated:
		m.validation = nil
		s.mtu.restart(now, s, out)
	default:
		v.deadline, v.nextChallenge = time.Time{}, time.Time{}
		next := &pathState{path: at.path}
		next.budget.Store(at.budget.Load())
		m.active.state.Store(next)
	}
}

func (m *migration) deadline() time.Time {
	v := m.validation
	switch {
	case v == nil || v.unanswered():
		return time.Time{}
	case m.active.state.Load().validated:
		return v.deadline
	}
	return earliest(v.deadline, v.nextChallenge)
}

func (a *activePath) snapshot(c *snapshot.Codec) {
	at := a.state.Load()
	if c.Decoding() {
		at = new(pathState)
	}
	c.Path(&at.path)
	c.Bool(&at.validated)
	if fallback := snapshot.Optional(c, &at.fallback); fallback != nil {
		c.Path(fallback)
	}
	budget := uint64(at.budget.Load())
	c.Uint64(&budget)
	if c.Decoding() {
		at.budget.Store(int64(budget))
		a.state.Store(at)
	}
}

func (m *migration) snapshot(c *snapshot.Codec) {
	m.active.snapshot(c)
	c.Uint32(&m.newestKeySet)
	c.Bool(&m.anyPacket)
	c.Uint64(&m.newestSequence)
	c.Time(&m.holdUntil)
	at := m.active.state.Load()
	v := snapshot.Optional(c, &m.validation)
	if v == nil {
		c.Check(at.validated, "unvalidated path without a validation")
		return
	}
	c.Path(&v.previous)
	c.Fixed(v.tokens[challengeNew][:])
	c.Fixed(v.tokens[challengePrevious][:])
	answered := at.fallback == nil // redundant, but part of the format
	c.Bool(&answered)
	c.Time(&v.nextChallenge)
	c.Time(&v.deadline)
}
