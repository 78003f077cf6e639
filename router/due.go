package router

import (
	"time"

	"lewes/transport"
)

const (
	// dueAtOnce is how many things that are due are done between two looks at the clock.
	dueAtOnce = 16
	// dueAnswers is how many packets they may leave behind, each of which takes as long
	// to send as all else.
	dueAnswers = 128
)

// Tick does what is due, for as long as a stretch. What is left then, because a multitude
// comes to its end at once, waits for the next alarm: datagrams go first.
func (s *Shard) Tick() {
	s.Turn(func(now time.Time) {
		s.alarmAt = time.Time{}
		end := now.Add(stretch)
		for s.overdue = true; s.overdue && now.Before(end) && len(s.output.Packets) < dueAnswers; now = s.now() {
			s.overdue = s.turnDue(now)
		}
	})
}

// turnDue does a few things of each kind that are due, and reports whether there may be
// more.
func (s *Shard) turnDue(now time.Time) (more bool) {
	for _, one := range [...]func(time.Time) bool{s.handshakes.TickOne, s.turnDueSession, s.turnIdleFlow, s.turnIdleClaim, s.turnCloseOne} {
		n := 0
		for n < dueAtOnce && one(now) {
			n++
		}
		more = more || n == dueAtOnce
	}
	return more
}

// turnDueSession ticks the session whose time has come, and reports whether there was one.
func (s *Shard) turnDueSession(now time.Time) bool {
	t := s.sessions.Due(now)
	if t == nil {
		return false
	}
	t.Tick(now, &s.output)
	s.turnSettle(t)
	return true
}

// maxDiscarded is how many sockets wait to be closed. Those of one session's flows can be
// hundreds, each of which takes the system ten microseconds.
const maxDiscarded = 4096

// turnDiscard closes a socket when there is time. Nothing is left in it to lose.
func (s *Shard) turnDiscard(conn transport.Conn) {
	if len(s.discarded) == maxDiscarded {
		s.turnCloseOne(time.Time{})
	}
	s.discarded = append(s.discarded, conn)
}

// turnCloseOne closes a socket that was discarded, and reports whether there was one.
func (s *Shard) turnCloseOne(time.Time) bool {
	last := len(s.discarded) - 1
	if last < 0 {
		return false
	}
	_ = s.discarded[last].Close()
	s.discarded[last] = nil
	s.discarded = s.discarded[:last]
	return true
}
