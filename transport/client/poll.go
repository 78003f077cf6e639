package client

import (
	"time"

	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
)

const (
	// pollWait is how long a Poll may wait at the gateway (section 10 of PROTOCOL.md).
	pollWait = 10 * time.Second
	// firstPollPause and longestPollPause pace Polls that the gateway does not hold.
	firstPollPause   = 100 * time.Millisecond
	longestPollPause = 2 * time.Second
)

// polls are what keeps packets coming over TCP: one Poll waits at the gateway at any
// time.
type polls struct {
	way     *way      // by which one is under way; nil: none is
	sent    time.Time // when
	next    time.Time // when another may go; zero: at once
	pause   time.Duration
	doubted bool // the last one told of trouble

	drain      *way // that the session has left for UDP, and that Polls go by still
	drainUntil time.Time
}

// drainWait is how long a Poll may wait by a way that the session has left.
const drainWait = time.Second

// poll sends a Poll where the session is on TCP and none waits.
//
// For a while after its return to UDP too: what the gateway had sent to TCP, and goes
// on sending there until it trusts the new address, would be lost otherwise. Such a
// Poll must not be the newest packet, which would call the gateway back. So a Ping that
// is sealed after it overtakes it by UDP.
func (l *link) poll(now time.Time) {
	p, w, wait := &l.polls, l.way.Load(), pollWait
	if w.path.Transport != path.TCP && p.drain != nil {
		if w, wait = p.drain, drainWait; !now.Before(p.drainUntil) {
			p.drain, p.next = nil, time.Time{}
			return
		}
	}
	conn, ok := w.conn.(Exchanger)
	if !ok || l.ended != nil || p.way == w || now.Before(p.next) {
		return
	}
	var out state.Output
	if l.session.Send(wire.TypePoll, &wire.Poll{WaitMillis: uint16(wait / time.Millisecond)}, &out) != nil || len(out.Packets) == 0 {
		return
	}
	if w == p.drain {
		l.session.Ping(now, wire.MinPingPacket, &l.out)
		l.flush(now)
	}
	err := conn.Send(out.Packets[0].Data, wait, func(answers int, err error) { l.polled(w, wait, answers, err) })
	if err == nil {
		p.way, p.sent, p.next = w, now, time.Time{}
	}
}

// polled is called when a Poll's connection is over.
func (l *link) polled(w *way, wait time.Duration, answers int, err error) {
	_ = l.with(func(now time.Time) {
		p := &l.polls
		if p.way != w {
			return
		}
		p.way = nil
		if s := l.policy.search; s != nil && !s.broken {
			// The gateway may have seen a Ping over UDP already. Another Poll now would be
			// the newest packet and call it back.
			p.next = now.Add(l.within())
			return
		}
		if err == nil && (answers > 0 || now.Sub(p.sent) >= wait*9/10) {
			p.pause, p.doubted = 0, false
			return
		}
		p.pause = min(max(2*p.pause, firstPollPause), longestPollPause)
		p.next = now.Add(p.pause)
		if !p.doubted && w != p.drain {
			p.doubted = true
			l.doubt(now)
		}
	})
}
