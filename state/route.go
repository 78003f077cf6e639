package state

import (
	"crypto/subtle"
	"sync/atomic"
	"time"

	"lewes/state/path"
	"lewes/state/wire"
)

const (
	// validationTime is how long a new address may take to answer, and how long
	// the one left behind may claim the session back (section 6).
	validationTime = 3 * time.Second
	// amplification is how many times the bytes that came from an address go to
	// it until it has answered.
	amplification = 3
	// holdOff is how long no other address is tried after the one that was to be
	// replaced has claimed the session back: whoever copies packets from ever other
	// addresses has it for a round trip in a second, not for all of it.
	holdOff = time.Second
	// trialRetry is how often the addresses of a trial are asked again: a Ping or
	// its Pong may get lost.
	trialRetry = 500 * time.Millisecond
)

// route says where a session's packets go. It is safe for any number of
// goroutines; only the session's owner changes it.
type route struct{ at atomic.Pointer[waypoint] }

// waypoint is never changed once it is stored, but for its budget.
type waypoint struct {
	path      path.Path
	validated bool
	fallback  *path.Path   // until path is validated: where packets beyond the budget go
	budget    atomic.Int64 // bytes, until path is validated
}

// to returns the path for a packet of n bytes.
func (r *route) to(n int) path.Path {
	w := r.at.Load()
	if w.validated || w.spend(n, wire.MinPingPacket) {
		return w.path
	}
	return *w.fallback
}

// spend takes n bytes off the budget if at least rest are left then. What to
// leaves is for the Ping that ends the trial.
func (w *waypoint) spend(n, rest int) bool {
	if w.budget.Add(-int64(n)) >= int64(rest) {
		return true
	}
	w.budget.Add(int64(n))
	return false
}

func (r *route) set(p path.Path) {
	r.at.Store(&waypoint{path: p, validated: true})
}

// relocate is told that the peer at the same address has sent to another of our
// addresses. That proves nothing: a trial goes on as it was.
func (r *route) relocate(p path.Path) {
	at := r.at.Load()
	next := &waypoint{path: p, validated: at.validated, fallback: at.fallback}
	next.budget.Store(at.budget.Load())
	r.at.Store(next)
}

// roaming is the owner's view of where the peer is: which packet was the newest,
// and which move is on trial.
type roaming struct {
	generation uint32 // of the newest packet
	any        bool
	sequence   uint64
	trial      *trial    // nil: the peer is where it was validated
	heldUntil  time.Time // no address is tried before
}

// trial is a move that the peer has not proved, or that the address left behind
// may still contest.
type trial struct {
	left     path.Path
	tokens   [2][8]byte
	proved   bool      // the new address has answered: only a Pong contests it now
	next     time.Time // when both are asked again
	deadline time.Time
}

// Which of a trial's tokens went where.
const (
	toNew = iota
	toLeft
)

// follow lets the session learn from an authenticated packet where its peer is:
// the newest packet decides (section 6). A client does not follow, it knows where
// its gateway is.
func (s *Session) follow(now time.Time, g *KeySet, seq uint64, from path.Path, size int, out *Output) {
	if s.role == RoleClient {
		return
	}
	r, at := &s.roaming, s.route.at.Load()
	same := samePlace(from, at.path)
	if same && !at.validated {
		at.budget.Add(int64(amplification * size))
	}
	if r.any && (g.number < r.generation || g.number == r.generation && seq <= r.sequence) {
		return
	}
	r.generation, r.sequence, r.any = g.number, seq, true
	switch {
	case from == at.path:
	case same:
		s.route.relocate(from)
	case r.trial != nil && !r.trial.proved && samePlace(from, r.trial.left):
		s.moveBack(now, from, out)
	case now.Before(r.heldUntil):
	default:
		s.tryPath(now, from, size, out)
	}
}

// samePlace reports whether a packet from a says nothing new when the peer was
// last at b: the same address and port over UDP, whichever of our addresses it
// came to; the same address over TCP, where every packet has its own port.
func samePlace(a, b path.Path) bool {
	if a.Transport == path.TCP && b.Transport == path.TCP {
		return a.Peer.Addr() == b.Peer.Addr()
	}
	return a.SamePeer(b)
}

// tryPath moves the session to a new address and asks both addresses: the new
// one proves itself by its Pong, the one left behind claims the session back by
// its own. An onlooker who copies packets from elsewhere thus gains nothing. Nor
// does one who does it from ever other addresses: the trial of the first goes on
// for the next, with the time that is left of it and the same question to the
// address left behind.
func (s *Session) tryPath(now time.Time, from path.Path, size int, out *Output) {
	at, t := s.route.at.Load(), s.roaming.trial
	if at.validated || t == nil {
		t = &trial{left: at.path, deadline: now.Add(validationTime)}
		s.random(t.tokens[toLeft][:])
		s.roaming.trial = t
	}
	s.random(t.tokens[toNew][:])
	// A TCP handshake has proved the address already.
	left := t.left
	next := &waypoint{path: from, fallback: &left, validated: from.Transport == path.TCP}
	next.budget.Store(int64(amplification * size))
	s.route.at.Store(next)
	s.askBoth(now, out)
	out.event(Event{Kind: Moved, Session: s})
	s.scheduleAt(t.next)
}

// askBoth sends a trial's two Pings.
func (s *Session) askBoth(now time.Time, out *Output) {
	t, at := s.roaming.trial, s.route.at.Load()
	t.next = now.Add(trialRetry)
	if at.validated || at.spend(wire.MinPingPacket, 0) {
		s.sendTo(at.path, wire.TypePing, &wire.Ping{Data: t.tokens[toNew]}, out)
	}
	s.sendTo(t.left, wire.TypePing, &wire.Ping{Data: t.tokens[toLeft]}, out)
}

// moveBack ends a trial in favour of the address that was left.
func (s *Session) moveBack(now time.Time, to path.Path, out *Output) {
	s.roaming.trial, s.roaming.heldUntil = nil, now.Add(holdOff)
	s.route.set(to)
	out.event(Event{Kind: Moved, Session: s})
}

// ponged is called with every Pong.
func (s *Session) ponged(now time.Time, token *[8]byte, from path.Path, out *Output) {
	t, at := s.roaming.trial, s.route.at.Load()
	if t == nil {
		return
	}
	switch {
	case subtle.ConstantTimeCompare(token[:], t.tokens[toLeft][:]) == 1:
		s.moveBack(now, t.left, out)
	case subtle.ConstantTimeCompare(token[:], t.tokens[toNew][:]) == 1 && samePlace(from, at.path):
		t.proved = true
		s.route.set(from)
	}
}

// tickRoute asks again, and ends a trial whose time is up: a new address that did
// not answer loses the session to the one left behind.
func (s *Session) tickRoute(now time.Time, out *Output) {
	t := s.roaming.trial
	if t == nil {
		return
	}
	if now.Before(t.deadline) {
		if !s.route.at.Load().validated && !now.Before(t.next) {
			s.askBoth(now, out)
		}
		return
	}
	s.roaming.trial = nil
	if s.route.at.Load().validated {
		s.restartSearch(now, out)
		return
	}
	s.route.set(t.left)
	out.event(Event{Kind: Moved, Session: s})
}
