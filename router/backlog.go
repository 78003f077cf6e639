package router

import (
	"bytes"
	"time"

	"lewes/state/parts"
	"lewes/state/path"
	"lewes/state/wire"
)

// The handshakes' share of a shard's time. A handshake costs as much as hundreds
// of datagrams, so what belongs to handshakes waits in a backlog: it is worked off
// in short stretches, and while datagrams come, in no more than a quarter of the
// time: so sessions keep 70 % of what they have without, under whatever flood.
const (
	stretch    = time.Millisecond      // of handshakes in one turn
	savings    = 3 * time.Millisecond  // the most that an unused share adds up to
	shareOf    = 4                     // handshakes get one part in four
	busyFor    = 10 * time.Millisecond // after a datagram the shard counts as busy
	staleAfter = time.Second           // the client has sent it again by then
)

// backlog holds the handshake packets that wait, oldest first.
type backlog struct {
	queue   []waitingPacket
	first   int // of queue that still waits
	most    int // packets
	earned  time.Time
	left    time.Duration // of the handshakes' share
	spent   time.Duration // on handshakes, in this turn
	loaded  bool          // more comes than is worked off: no time is idle
	others  time.Duration // that all else took, since earned
	lastOne time.Time     // when a datagram of a session came last
	pace    time.Duration // that a packet waited for each one before it, of late
}

// maxGreeting is the length of the longest message of a handshake, section 1 of
// PROTOCOL.md, in one packet.
const maxGreeting = wire.Overhead + wire.PartHeaderSize + parts.MaxHandshake

type waitingPacket struct {
	data []byte
	from path.Path
	came time.Time

	ahead int // packets that waited when it came
}

func (b *backlog) len() int { return len(b.queue) - b.first }

// push adds a copy of a packet. A full backlog gives its oldest up.
func (b *backlog) push(now time.Time, packet []byte, from path.Path) (dropped bool) {
	if b.len() >= b.most {
		b.pop()
		dropped = true
	}
	b.queue = append(b.queue, waitingPacket{bytes.Clone(packet), from, now, b.len()})
	return dropped
}

func (b *backlog) pop() waitingPacket {
	p := b.queue[b.first]
	b.queue[b.first] = waitingPacket{}
	if b.first++; b.first == len(b.queue) {
		b.queue, b.first = b.queue[:0], 0
	} else if b.first >= b.most {
		n := copy(b.queue, b.queue[b.first:])
		clear(b.queue[n:])
		b.queue, b.first = b.queue[:n], 0
	}
	return p
}

// paceWeight is how many packets the pace looks back on.
const paceWeight = 16

// waited learns from how long a packet has waited.
func (b *backlog) waited(p *waitingPacket, now time.Time) {
	if p.ahead > 0 {
		b.pace += (now.Sub(p.came)/time.Duration(p.ahead) - b.pace) / paceWeight
	}
}

// delay returns how long a packet that comes now is going to wait.
func (b *backlog) delay() time.Duration { return time.Duration(b.len()) * b.pace }

// busy reports whether datagrams compete with handshakes.
func (b *backlog) busy(now time.Time) bool { return now.Sub(b.lastOne) < busyFor }

// allowance returns how long handshakes may take in this turn.
func (b *backlog) allowance(now time.Time) time.Duration {
	if !b.busy(now) {
		return stretch
	}
	gain := now.Sub(b.earned) / shareOf
	if b.loaded {
		gain = min(gain, b.others/(shareOf-1))
	}
	b.left = min(savings, b.left+gain)
	b.earned, b.others = now, 0
	return min(stretch, b.left)
}

// turned ends a turn. Where more comes than is worked off, the time between turns is
// time that the system gave to other programs, and earns handshakes nothing.
func (b *backlog) turned(took time.Duration) {
	b.others += max(0, took-b.spent)
	b.spent = 0
}

// turnBacklog works handshakes off within their share of the time. What is left
// is taken up by the next turn, at the latest by the alarm. It looks at the clock
// itself: a turn may be here many times, and must count each stretch once.
func (s *Shard) turnBacklog() {
	b := &s.backlog
	if b.len() == 0 {
		return
	}
	now := s.now()
	allowed := b.allowance(now)
	begun := now
	for b.len() > 0 && now.Sub(begun) < allowed {
		p := b.pop()
		b.waited(&p, now)
		if now.Sub(p.came) > staleAfter {
			s.counters.Stale++
			continue
		}
		s.turnGreeting(now, p.data, p.from)
		now = s.now()
	}
	s.turnSpent(now.Sub(begun))
}

// turnSpent takes what handshakes took from their share.
func (s *Shard) turnSpent(took time.Duration) {
	s.backlog.left -= took
	s.backlog.spent += took
	s.counters.HandshakeTime += took
}
