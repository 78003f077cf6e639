package client

import (
	"time"

	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
)

const (
	// pollWait is how long a Poll may wait at the gateway (section 10 of PROTOCOL.md),
	// drainWait how long on a path that the session has left.
	pollWait  = 10 * time.Second
	drainWait = time.Second
	// firstPollPause and maxPollPause pace Polls that the gateway does not hold.
	firstPollPause = 100 * time.Millisecond
	maxPollPause   = 2 * time.Second
)

// poller keeps one Poll waiting at the gateway, for packets to arrive over TCP.
type poller struct {
	path   *gatewayPath // that a Poll waits on; nil: none waits
	sent   time.Time
	next   time.Time // when the next Poll may be sent; zero: at once
	pause  time.Duration
	failed bool // the last Poll failed, and liveness was checked

	drain      *gatewayPath // that the session has left for UDP, and still polls
	drainUntil time.Time
}

// poll sends a Poll if the session is on TCP and none waits.
//
// After a return to UDP, TCP is polled for a while, for the packets that the gateway sends
// there until it trusts the new address. Such a Poll must not be the newest packet, or it
// would revert the migration; so a Ping that is sealed after it overtakes it over UDP.
func (st *connState) poll(now time.Time) {
	q, p, wait := &st.poller, st.c.active.Load(), pollWait
	if p.path.Transport != path.TCP && q.drain != nil {
		if p, wait = q.drain, drainWait; !now.Before(q.drainUntil) {
			q.drain, q.next = nil, time.Time{}
			return
		}
	}
	conn, ok := p.conn.(Exchanger)
	if !ok || st.ended != nil || q.path == p || now.Before(q.next) {
		return
	}
	var out state.Output
	if st.c.session.Send(wire.TypePoll, &wire.Poll{WaitMillis: uint16(wait / time.Millisecond)}, &out) != nil || len(out.Packets) == 0 {
		return
	}
	if p == q.drain {
		st.ping(now)
		st.send(now)
	}
	c := st.c
	err := conn.Send(out.Packets[0].Data, wait, func(answers int, err error) { c.pollEnded(p, wait, answers, err) })
	if err == nil {
		q.path, q.sent, q.next = p, now, time.Time{}
	}
}

// pollEnded is called when a Poll's connection has ended.
func (c *sessionConn) pollEnded(p *gatewayPath, wait time.Duration, answers int, err error) {
	_ = c.update(func(st *connState, now time.Time) {
		q := &st.poller
		if q.path != p {
			return
		}
		q.path = nil
		if st.policy.upgrading() {
			// The gateway may have received a Ping over UDP. Another Poll now would be
			// the newest packet and revert the migration.
			q.next = now.Add(st.responseTime())
			return
		}
		if err == nil && (answers > 0 || now.Sub(q.sent) >= wait*9/10) {
			q.pause, q.failed = 0, false
			return
		}
		q.pause = min(max(2*q.pause, firstPollPause), maxPollPause)
		q.next = now.Add(q.pause)
		if !q.failed && p != q.drain {
			q.failed = true
			st.checkLiveness(now)
		}
	})
}
