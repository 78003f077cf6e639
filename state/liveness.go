package state

import (
	"bytes"
	"time"

	"lewes/state/snapshot"
	"lewes/state/wire"
)

const (
	// livenessPings is the number of Pings of a liveness check.
	livenessPings = 3
	// keepaliveChecks is how often per keepalive interval a client checks whether it
	// has sent a packet.
	keepaliveChecks = 4
)

// liveness determines whether the peer responds. All parts are nil while unused.
type liveness struct {
	rtt        *rttEstimator         // since the first Ping
	check      *livenessCheck        // client
	keepalive  *keepalive            // client
	handshake3 *handshake3Retransmit // client, until the final Ack
}

// rttEstimator measures round trips by the last Pings and their Pongs.
type rttEstimator struct {
	sent [4]struct {
		token [8]byte
		at    time.Time
	}
	next     int
	smoothed time.Duration // 0: not measured
}

func (e *rttEstimator) pingSent(now time.Time, token [8]byte) {
	e.sent[e.next].token, e.sent[e.next].at = token, now
	e.next = (e.next + 1) % len(e.sent)
}

func (e *rttEstimator) handlePong(now time.Time, token *[8]byte) {
	if e == nil {
		return
	}
	for i := range e.sent {
		p := &e.sent[i]
		if p.token != *token || p.at.IsZero() {
			continue
		}
		rtt := now.Sub(p.at)
		p.at = time.Time{}
		if e.smoothed == 0 {
			e.smoothed = rtt
		} else {
			e.smoothed += (rtt - e.smoothed) / 8
		}
		return
	}
}

// RTT returns the smoothed round-trip time, or 0 when none was measured.
func (s *Session) RTT() time.Duration {
	if s.liveness.rtt == nil {
		return 0
	}
	return s.liveness.rtt.smoothed
}

// Ping sends a Ping in a packet of size bytes, at least 64. It returns the token that
// its Pong carries.
func (s *Session) Ping(now time.Time, size int, out *Output) (token [8]byte) {
	s.config.random(token[:])
	if s.closed {
		return token
	}
	if s.liveness.rtt == nil {
		s.liveness.rtt = new(rttEstimator)
	}
	s.liveness.rtt.pingSent(now, token)
	s.send(wire.TypePing, padded{&wire.Ping{Data: token}, size}, out)
	return token
}

// livenessCheck is a series of Pings within the time that an answer may take (section 11).
type livenessCheck struct {
	pingsLeft int
	next      time.Time
	step      time.Duration
}

// CheckLiveness makes a client verify that its session still exists, for example after a Reset: it
// pings on the current keys, and on a child's that the gateway may have switched to. Any authentic
// packet ends the check; without one within max(300 ms, four round trips) the session emits
// PeerUnresponsive. A check in progress continues.
func (s *Session) CheckLiveness(now time.Time, out *Output) {
	if s.closed || s.liveness.check != nil {
		return
	}
	within := max(300*time.Millisecond, 4*s.RTT())
	s.liveness.check = &livenessCheck{pingsLeft: livenessPings, next: now, step: within / livenessPings}
	s.mtu.reprobe(now)
	s.liveness.tickCheck(now, s, out)
	s.reschedule()
}

func (l *liveness) tickCheck(now time.Time, s *Session, out *Output) {
	c := l.check
	if c == nil || now.Before(c.next) {
		return
	}
	if c.pingsLeft == 0 {
		l.check = nil
		out.event(Event{Kind: PeerUnresponsive, Session: s})
		return
	}
	c.pingsLeft--
	c.next = now.Add(c.step)
	s.Ping(now, wire.MinPingPacket, out)
	s.rekey.initiator.resendReady(s, out)
}

// keepalive tracks how long a client has sent nothing.
type keepalive struct {
	interval   time.Duration
	at         time.Time // of the next check
	sealed     uint64    // packets sealed at the last check
	idleChecks uint8     // consecutive checks without a packet sealed since
	pinged     bool      // the last packet sealed is a keepalive
}

func (l *liveness) startKeepalive(now time.Time, interval time.Duration) {
	l.keepalive = &keepalive{interval: interval, at: now.Add(interval / keepaliveChecks)}
}

// SetKeepalive changes the keepalive interval of a client. It has no effect on a
// session that was established without keepalives.
func (s *Session) SetKeepalive(now time.Time, interval time.Duration) {
	k := s.liveness.keepalive
	if k == nil || interval <= 0 || interval == k.interval {
		return
	}
	k.interval = interval
	if at := now.Add(interval / keepaliveChecks); at.Before(k.at) {
		k.at = at
		s.scheduleAt(at)
	}
}

// tickKeepalive pings when the client has sealed nothing for an interval, to keep NAT
// mappings alive. It starts a liveness check when no packet has arrived for an
// interval although one was sent, possibly a keepalive.
func (l *liveness) tickKeepalive(now time.Time, s *Session, out *Output) {
	k := l.keepalive
	if k == nil || now.Before(k.at) {
		return
	}
	if s.keys.current.sender.Sealed() == k.sealed {
		k.idleChecks++
	} else {
		k.idleChecks, k.pinged = 0, false
	}
	// A keepalive was sealed at a check; any other packet up to one check earlier.
	idleLimit := uint8(keepaliveChecks - 1)
	if k.pinged {
		idleLimit = keepaliveChecks
	}
	noneReceived := now.Sub(s.lastOpened) >= k.interval
	unanswered := k.pinged && k.idleChecks < keepaliveChecks
	switch {
	case noneReceived && (unanswered || k.idleChecks == 0):
		s.CheckLiveness(now, out)
		k.idleChecks, k.pinged = 0, false
	case k.idleChecks >= idleLimit:
		s.Ping(now, wire.MinPingPacket, out)
		k.idleChecks, k.pinged = 0, true
		out.event(Event{Kind: KeepaliveSent, Session: s})
	}
	k.sealed = s.keys.current.sender.Sealed()
	k.at = now.Add(k.interval / keepaliveChecks)
}

// handshake3Retransmit is a client's Handshake 3, repeated until the final Ack.
type handshake3Retransmit struct {
	packet []byte
	retry  backoff
	until  time.Time
	proved bool // a packet of the gateway has opened, so it has the keys
}

// tickHandshake3 reports false when the gateway has not confirmed the session in time.
func (l *liveness) tickHandshake3(now time.Time, s *Session, out *Output) bool {
	h := l.handshake3
	if h == nil {
		return true
	}
	if !now.Before(h.until) {
		l.handshake3 = nil
		return h.proved
	}
	if h.retry.due(now) {
		out.send(s.Path(), bytes.Clone(h.packet))
	}
	return true
}

// Confirmed reports whether the other end is known to have the session's keys.
func (s *Session) Confirmed() bool {
	return s.liveness.handshake3 == nil || s.liveness.handshake3.proved
}

// packetOpened handles an authentic packet.
func (l *liveness) packetOpened() {
	l.check = nil
	if l.handshake3 != nil {
		l.handshake3.proved = true
	}
}

func (l *liveness) deadline() (at time.Time) {
	if l.check != nil {
		at = l.check.next
	}
	if l.keepalive != nil {
		at = earliest(at, l.keepalive.at)
	}
	if l.handshake3 != nil {
		at = earliest(at, l.handshake3.retry.at, l.handshake3.until)
	}
	return at
}

// snapshot writes or reads the round-trip time of a gateway's session.
func (l *liveness) snapshot(c *snapshot.Codec) {
	var rtt time.Duration
	if l.rtt != nil {
		rtt = l.rtt.smoothed
	}
	c.Duration(&rtt)
	if c.Decoding() && rtt > 0 {
		l.rtt = &rttEstimator{smoothed: rtt}
	}
}
