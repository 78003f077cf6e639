package state

import (
	"sync/atomic"
	"time"

	"lewes/state/path"
	"lewes/state/snapshot"
	"lewes/state/wire"
)

const (
	// livenessPings is the number of Pings of a check that does not wait for the first one's answer.
	livenessPings = 3
	// pingDelay is how long after a datagram a Ping asks whether it could be answered.
	pingDelay = 500 * time.Millisecond
	// minAnswerTime bounds the time that an answer may take from below.
	minAnswerTime = 300 * time.Millisecond
	// initialRTT is assumed before the first measurement (RFC 9002 section 6.2.2).
	initialRTT = 333 * time.Millisecond
	// granularity is that of timers and scheduling.
	granularity = 10 * time.Millisecond
	// streamDelay and streamPing take pingDelay's place over TCP: how long a packet's connection
	// may stay open, and the time between Pings that ask the gateway itself.
	streamDelay = time.Second
	streamPing  = 10 * time.Second
	streamWait  = 3 * time.Second
	// A client receives while receiveCount datagrams arrive within receiveWindow.
	receiveCount  = 8
	receiveWindow = time.Second
	// keepaliveChecks is how often per keepalive interval a client checks whether it
	// has sent a packet.
	keepaliveChecks = 4
)

// liveness determines whether the peer responds. All parts are nil while unused.
type liveness struct {
	rtt          *rttEstimator  // since the first Ping
	answers      *answers       // client
	check        *livenessCheck // client: a Ping that is not answered
	confirmation *confirmation  // client, until the session's Ack
}

// rttEstimator measures round trips by the last Pings and their Pongs, as RFC 9002 section 5.
type rttEstimator struct {
	sent [8]struct {
		token [8]byte
		at    time.Time
	}
	next      int
	smoothed  time.Duration // 0: not measured
	variation time.Duration
}

func (e *rttEstimator) pingSent(now time.Time, token [8]byte) {
	e.sent[e.next].token, e.sent[e.next].at = token, now
	e.next = (e.next + 1) % len(e.sent)
}

// handlePong returns when the Ping was sent that a Pong answers; zero if it answers none.
func (e *rttEstimator) handlePong(now time.Time, token *[8]byte) (sent time.Time) {
	if e == nil {
		return sent
	}
	for i := range e.sent {
		p := &e.sent[i]
		if p.token != *token || p.at.IsZero() {
			continue
		}
		sent, p.at = p.at, time.Time{}
		e.measured(now.Sub(sent))
		break
	}
	return sent
}

func (e *rttEstimator) measured(rtt time.Duration) {
	if e.smoothed == 0 {
		e.smoothed, e.variation = rtt, rtt/2
		return
	}
	e.variation += ((e.smoothed - rtt).Abs() - e.variation) / 4
	e.smoothed += (rtt - e.smoothed) / 8
}

// reset forgets the measurements of a path that was left. Pings on their way can still be answered.
func (e *rttEstimator) reset() {
	if e != nil {
		e.smoothed, e.variation = 0, 0
	}
}

// RTT returns the smoothed round-trip time, or 0 when none was measured.
func (s *Session) RTT() time.Duration {
	if s.liveness.rtt == nil {
		return 0
	}
	return s.liveness.rtt.smoothed
}

// AnswerTime returns how long the peer may take to answer: D in section 11.
func (s *Session) AnswerTime() time.Duration {
	e := s.liveness.rtt
	if e == nil || e.smoothed == 0 {
		return initialRTT + 4*(initialRTT/2)
	}
	return max(minAnswerTime, e.smoothed+max(4*e.variation, granularity))
}

// Ping sends a Ping in a packet of size bytes, at least 64. It returns the token that
// its Pong carries.
func (s *Session) Ping(now time.Time, size int, out *Output) (token [8]byte) {
	s.config.random(token[:])
	if s.closed {
		return token
	}
	l := &s.liveness
	if l.rtt == nil {
		l.rtt = new(rttEstimator)
	}
	l.rtt.pingSent(now, token)
	s.send(wire.TypePing, padded{&wire.Ping{Data: token}, size}, out)
	if l.check != nil && l.check.doubt {
		s.rekey.initiator.resendReady(s, out)
	}
	return token
}

// answers tracks whether the gateway answers what the client sends. What arrives unasked proves
// nothing about the way to the gateway.
type answers struct {
	noted    atomic.Bool // a datagram was sent since the last Ping of a check
	first    time.Time   // the first of these; zero: none
	pinged   time.Time   // when the last check began
	answered time.Time   // when the last packet was sent that is known to be answered

	received [receiveCount]time.Time // when the last datagrams arrived, a ring
	next     int                     // the oldest of them
	stopAt   time.Time               // when a receiver's datagrams have stopped; zero: none are expected

	followAt time.Time // when a SubsessionRequest may have an effect again

	keepalive *keepalive // nil: none
}

// checked notes that a check begins, which what was sent before waits for.
func (a *answers) checked(now time.Time) {
	a.first, a.pinged = time.Time{}, now
	a.noted.Store(false)
}

// livenessCheck is one Ping, or a series of Pings, within the time that an answer may take.
type livenessCheck struct {
	since     time.Time // when the first Ping was sent
	doubt     bool      // Pings repeat, each with a Ready if a child is proposed
	pingsLeft int
	next      time.Time // zero: PeerUnresponsive was emitted
	step      time.Duration
}

// SentUnnoted reports whether NoteSent has to be called after a datagram was sent. It is safe for any
// goroutine.
func (s *Session) SentUnnoted() bool {
	a := s.liveness.answers
	return a != nil && !a.noted.Load()
}

// NoteSent makes a client ask, a little later, whether the gateway answers a datagram that was sent.
func (s *Session) NoteSent(now time.Time) {
	a := s.liveness.answers
	if s.closed || a == nil || a.noted.Swap(true) {
		return
	}
	a.first = now
	s.scheduleAt(now.Add(min(pingDelay, s.AnswerTime())))
}

// NoteReceived notes a datagram that arrived at a client. If more than a few have arrived within a
// second and then none, a Ping asks for the reason.
func (s *Session) NoteReceived(now time.Time) {
	a := s.liveness.answers
	if a == nil {
		return
	}
	a.received[a.next] = now
	a.next = (a.next + 1) % receiveCount
	if oldest := a.received[a.next]; a.stopAt.IsZero() && !oldest.IsZero() && now.Sub(oldest) <= receiveWindow {
		a.stopAt = now.Add(minAnswerTime)
		s.scheduleAt(a.stopAt)
	}
}

// NoteAnswered notes proof from outside the session that the gateway has received what was sent at a
// time: an inner session's Pong, a migration, or what TCP connections show.
func (s *Session) NoteAnswered(sent time.Time) {
	l := &s.liveness
	a := l.answers
	if s.closed || a == nil || sent.IsZero() {
		return
	}
	if sent.After(a.answered) {
		a.answered = sent
	}
	if !a.first.After(sent) {
		a.first = time.Time{}
		a.noted.Store(false)
	}
	if l.check != nil && !sent.Before(l.check.since) {
		l.check = nil
	}
	s.reschedule()
}

// NoteTaken notes that the gateway closed a TCP connection in order whose packet was sent at a time. It
// stands for Pings until the next one is due.
func (s *Session) NoteTaken(sent time.Time) {
	a := s.liveness.answers
	if a != nil && !a.first.IsZero() && !a.first.After(sent) && sent.Before(a.pinged.Add(streamPing)) {
		a.first = time.Time{}
		a.noted.Store(false)
		s.reschedule()
	}
}

// LastAnswered returns when the latest packet was sent that is known to be answered.
func (s *Session) LastAnswered() time.Time {
	if s.liveness.answers == nil {
		return time.Time{}
	}
	return s.liveness.answers.answered
}

// DoubtedSince returns when the first Ping was sent of those that are not answered; zero: all are.
func (s *Session) DoubtedSince() time.Time {
	if s.liveness.check == nil {
		return time.Time{}
	}
	return s.liveness.check.since
}

// CheckLiveness makes a client verify that its session still exists: it
// sends three Pings within the time that an answer may take, on the current keys and with a Ready on a
// child's that the gateway may have switched to. Without an answer to one of them the session emits
// PeerUnresponsive. A check in progress continues.
func (s *Session) CheckLiveness(now time.Time, out *Output) {
	l := &s.liveness
	if s.closed || l.answers == nil || l.check != nil && l.check.doubt && !l.check.next.IsZero() {
		return
	}
	since := now
	if l.check != nil {
		since = l.check.since
	}
	l.answers.checked(now)
	l.check = &livenessCheck{since: since, doubt: true, pingsLeft: livenessPings, next: now, step: s.AnswerTime() / livenessPings}
	s.mtu.reprobe(now)
	l.tickCheck(now, s, out)
	s.reschedule()
}

// startCheck sends one Ping and waits for its answer, unless another is awaited.
func (l *liveness) startCheck(now time.Time, s *Session, out *Output) {
	if l.check != nil {
		return
	}
	l.answers.checked(now)
	s.Ping(now, wire.MinPingPacket, out)
	wait := s.AnswerTime()
	if s.Path().Transport == path.TCP {
		wait = max(wait, streamWait) // the Ping may wait for a connection
	}
	l.check = &livenessCheck{since: now, next: now.Add(wait)}
}

// tickCheck starts the checks that are due and continues the one in progress.
func (l *liveness) tickCheck(now time.Time, s *Session, out *Output) {
	if at := l.streamAt(s); !at.IsZero() && !now.Before(at) {
		s.CheckLiveness(now, out)
	}
	if at := l.pingAt(s); !at.IsZero() && !now.Before(at) {
		l.startCheck(now, s, out)
	}
	if l.stopped(now, s) {
		l.startCheck(now, s, out)
	}
	c := l.check
	if c == nil || c.next.IsZero() || now.Before(c.next) {
		return
	}
	if c.pingsLeft == 0 {
		c.doubt, c.next = true, time.Time{}
		s.mtu.reprobe(now)
		out.event(Event{Kind: PeerUnresponsive, Session: s})
		return
	}
	c.pingsLeft--
	c.next = now.Add(c.step)
	s.Ping(now, wire.MinPingPacket, out)
}

// pingAt returns when a Ping is due for the datagrams that were sent; zero: none is.
func (l *liveness) pingAt(s *Session) time.Time {
	a := l.answers
	switch {
	case a == nil || a.first.IsZero() || l.check != nil:
		return time.Time{}
	case s.Path().Transport == path.TCP:
		return a.pinged.Add(streamPing)
	case s.lastOpened.After(a.first):
		return a.first.Add(pingDelay)
	}
	return a.first.Add(s.AnswerTime())
}

// streamAt returns when a connection must have been closed in order over TCP; zero: none is open.
func (l *liveness) streamAt(s *Session) time.Time {
	a := l.answers
	if a == nil || a.first.IsZero() || s.Path().Transport != path.TCP || l.check != nil && l.check.doubt {
		return time.Time{}
	}
	return a.first.Add(max(streamDelay, 3*s.RTT()))
}

// stopped reports whether datagrams that arrived one after the other have stopped, once for each stop.
func (l *liveness) stopped(now time.Time, s *Session) bool {
	a := l.answers
	if a == nil || a.stopAt.IsZero() || now.Before(a.stopAt) {
		return false
	}
	a.stopAt = time.Time{}
	oldest, last := a.received[a.next], a.received[(a.next+receiveCount-1)%receiveCount]
	if last.Sub(oldest) > receiveWindow { // fewer arrive
		return false
	}
	gap := last.Sub(oldest) / (receiveCount - 1)
	if at := last.Add(max(minAnswerTime, 4*s.RTT(), 4*gap)); now.Before(at) {
		a.stopAt = at
		return false
	}
	a.received = [receiveCount]time.Time{}
	return s.Path().Transport != path.TCP // a Poll waits there
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
	l.answers.keepalive = &keepalive{interval: interval, at: now.Add(interval / keepaliveChecks)}
}

// SetKeepalive changes the keepalive interval of a client. It has no effect on a
// session that was established without keepalives.
func (s *Session) SetKeepalive(now time.Time, interval time.Duration) {
	a := s.liveness.answers
	if a == nil {
		return
	}
	k := a.keepalive
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
// mappings alive. The Ping has to be answered as any other.
func (l *liveness) tickKeepalive(now time.Time, s *Session, out *Output) {
	if l.answers == nil {
		return
	}
	k := l.answers.keepalive
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
	if k.idleChecks >= idleLimit && l.check == nil {
		l.startCheck(now, s, out)
		k.idleChecks, k.pinged = 0, true
		out.event(Event{Kind: KeepaliveSent, Session: s})
	}
	k.sealed = s.keys.current.sender.Sealed()
	k.at = now.Add(k.interval / keepaliveChecks)
}

// packetOpened handles an authentic packet.
func (l *liveness) packetOpened() {
}

func (l *liveness) deadline(s *Session) (at time.Time) {
	if l.answers != nil {
		at = earliest(l.pingAt(s), l.streamAt(s), l.answers.stopAt)
		if k := l.answers.keepalive; k != nil {
			at = earliest(at, k.at)
		}
	}
	if l.check != nil {
		at = earliest(at, l.check.next)
	}
	return earliest(at, l.confirmation.deadline())
}

// snapshot writes or reads the round-trip time of a gateway's session.
func (l *liveness) snapshot(c *snapshot.Codec) {
	var rtt time.Duration
	if l.rtt != nil {
		rtt = l.rtt.smoothed
	}
	c.Duration(&rtt)
	if c.Decoding() && rtt > 0 {
		l.rtt = &rttEstimator{smoothed: rtt, variation: rtt / 2}
	}
}
