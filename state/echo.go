package state

import (
	"time"

	"lewes/state/wire"
)

// echoes remembers the last Pings, to measure the round trip by their Pongs.
type echoes struct {
	sent [4]struct {
		token [8]byte
		at    time.Time
	}
	next     int
	smoothed time.Duration // 0: not measured yet
}

func (e *echoes) out(now time.Time, token [8]byte) {
	e.sent[e.next].token, e.sent[e.next].at = token, now
	e.next = (e.next + 1) % len(e.sent)
}

func (e *echoes) back(now time.Time, token *[8]byte) {
	if e == nil {
		return
	}
	for i := range e.sent {
		if p := &e.sent[i]; p.token == *token && !p.at.IsZero() {
			e.measured(now.Sub(p.at))
			p.at = time.Time{}
			return
		}
	}
}

func (e *echoes) measured(rtt time.Duration) {
	if e.smoothed == 0 {
		e.smoothed = rtt
		return
	}
	e.smoothed += (rtt - e.smoothed) / 8
}

// RTT returns the smoothed round-trip time, or 0 when none was measured.
func (s *Session) RTT() time.Duration {
	if s.echoes == nil {
		return 0
	}
	return s.echoes.smoothed
}

// Ping asks the peer for a sign of life; size is that of its packet, at least 64
// bytes. It returns the bytes by which the Pong is known.
func (s *Session) Ping(now time.Time, size int, out *Output) (token [8]byte) {
	s.random(token[:])
	if s.closed {
		return token
	}
	if s.echoes == nil {
		s.echoes = new(echoes)
	}
	s.echoes.out(now, token)
	s.send(wire.TypePing, padded{&wire.Ping{Data: token}, size}, out)
	return token
}

// doubt is a client's question whether its session still stands: three Pings
// within the time that an answer may take (section 11).
type doubt struct {
	left int
	next time.Time
	step time.Duration
}

const doubtPings = 3

// Doubt makes a client ask whether the session still stands, as a Reset or a long
// silence suggests: on its current keys, and on a child's that the gateway may
// have proved. Any authentic packet ends the doubt; if none comes within
// max(300 ms, four round trips), there is a Silent event. While it doubts
// already, nothing happens.
func (s *Session) CheckLiveness(now time.Time, out *Output) {
	if s.closed || s.doubt != nil {
		return
	}
	within := max(300*time.Millisecond, 4*s.RTT())
	s.doubt = &doubt{left: doubtPings, next: now, step: within / doubtPings}
	s.suspectSize(now)
	s.tickDoubt(now, out)
	s.reschedule()
}

func (s *Session) tickDoubt(now time.Time, out *Output) {
	d := s.doubt
	if d == nil || now.Before(d.next) {
		return
	}
	if d.left == 0 {
		s.doubt = nil
		out.event(Event{Kind: PeerUnresponsive, Session: s})
		return
	}
	d.left--
	d.next = now.Add(d.step)
	s.Ping(now, wire.MinPingPacket, out)
	s.remind(out)
}

// confirmation is Handshake 3, repeated until the gateway's Ack.
type confirmation struct {
	packet []byte
	retry  backoff
	until  time.Time
	proved bool // some packet of the gateway has opened: it has the keys
}

func (s *Session) tickConfirm(now time.Time, out *Output) {
	c := s.confirm
	if c == nil {
		return
	}
	if !now.Before(c.until) {
		if s.confirm = nil; !c.proved {
			s.end(ErrUnconfirmed, out)
		}
		return
	}
	if c.retry.due(now) {
		out.send(s.Path(), append([]byte(nil), c.packet...))
	}
}

// Confirmed reports whether the other end is known to have the session's keys.
func (s *Session) Confirmed() bool { return s.confirm == nil || s.confirm.proved }
