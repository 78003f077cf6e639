package state

import (
	"time"

	"lewes/state/wire"
)

// keepaliveLooks is how often in a keepalive's time a client looks whether it has
// sent something.
const keepaliveLooks = 4

// quiet is what a client knows of how long it has sent nothing.
type quiet struct {
	longest time.Duration // that it may stay so
	at      time.Time     // of the next look
	sealed  uint64        // Sealed() at the last
	unused  uint8         // looks in a row that found nothing sealed
	pinged  bool          // what was sealed last is the Ping of a look
}

// keepQuiet begins the looks.
func (s *Session) keepQuiet(now time.Time, longest time.Duration) {
	s.quiet = &quiet{longest: longest, at: now.Add(longest / keepaliveLooks)}
}

// quietAt returns when the next look is; zero: never.
func (s *Session) quietAt() time.Time {
	if s.quiet == nil {
		return time.Time{}
	}
	return s.quiet.at
}

// SetKeepalive changes the longest that a client stays quiet. It does nothing to a
// session that was made without one.
func (s *Session) SetKeepalive(now time.Time, longest time.Duration) {
	q := s.quiet
	if q == nil || longest <= 0 || longest == q.longest {
		return
	}
	q.longest = longest
	if at := now.Add(longest / keepaliveLooks); at.Before(q.at) {
		q.at = at
		s.scheduleAt(at)
	}
}

// tickKeepalive pings when the client has sealed nothing for as long as it may stay
// quiet, so that the NATs on the way keep their mapping, and doubts the session when
// nothing came for that long though something was sent, be it such a Ping.
func (s *Session) tickKeepalive(now time.Time, out *Output) {
	q := s.quiet
	if q == nil || now.Before(q.at) {
		return
	}
	if s.current.sender.Sealed() == q.sealed {
		q.unused++
	} else {
		q.unused, q.pinged = 0, false
	}
	// What was sealed last is from the last look where that was a Ping, else from
	// somewhere in the time before the first look that found nothing.
	looks := uint8(keepaliveLooks - 1)
	if q.pinged {
		looks = keepaliveLooks
	}
	unheard := now.Sub(s.lastOpened) >= q.longest
	unanswered := q.pinged && q.unused < keepaliveLooks
	switch {
	case unheard && (unanswered || q.unused == 0):
		s.CheckLiveness(now, out)
		q.unused, q.pinged = 0, false
	case q.unused >= looks:
		s.Ping(now, wire.MinPingPacket, out)
		q.unused, q.pinged = 0, true
		out.event(Event{Kind: KeepaliveSent, Session: s})
	}
	q.sealed = s.current.sender.Sealed()
	q.at = now.Add(q.longest / keepaliveLooks)
}
