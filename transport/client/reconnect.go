package client

import (
	"math/rand/v2"
	"time"

	"lewes/state"
)

const (
	// minBackoff and maxBackoff bound the pause before a reconnect.
	minBackoff = time.Second
	maxBackoff = 30 * time.Second
	// stableAfter is how long a session has to be up to reset the backoff.
	stableAfter = 30 * time.Second
	// livenessInterval is the time between liveness checks of an unresponsive session
	// that does not reconnect.
	livenessInterval = time.Second
)

// backoff paces the handshakes of reconnects.
type backoff struct {
	next   time.Duration
	beside time.Time // when the last handshake started that named a session
	upAt   time.Time // when the session was last up
}

// take returns the next pause, with a jitter of a fifth so that the clients of a gateway
// that has restarted don't all return at once.
func (b *backoff) take() time.Duration {
	d := max(b.next, minBackoff)
	b.next = min(2*d, maxBackoff)
	return d*4/5 + rand.N(d*2/5)
}

// besideAt returns when the next handshake beside a session may start.
func (b *backoff) besideAt() time.Time {
	if b.beside.IsZero() {
		return time.Now()
	}
	return b.beside.Add(besideInterval)
}

// supervise reconnects the session when necessary.
func (s *Session) supervise() {
	b := backoff{upAt: time.Now()}
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.wake:
		}
		c := s.conn.Load()
		switch now := c.condition(); {
		case !s.config.NoReconnect && !now.fine():
			s.reconnect(c, &b)
		case now.err == nil:
		case now.ended:
			s.finish(&EndedError{s.gateway.Identity, now.err})
		default:
			s.awaitResponse(c)
		}
	}
}

// wakeSupervisor makes the supervisor check the sessionConn.
func (s *Session) wakeSupervisor() { signal(s.wake) }

// signal sends on c unless that would block.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// recovered is called when the session carries datagrams again.
func (s *Session) recovered(b *backoff) {
	b.upAt = time.Now()
	s.setLastErr(nil)
	s.emitTransport(Reconnected)
}

// pause waits, and reports whether the sessionConn is up again.
func (s *Session) pause(d time.Duration, c *sessionConn) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		if c.condition().err == nil {
			return true
		}
		select {
		case <-timer.C:
			return false
		case <-s.ctx.Done():
			return false
		case <-s.wake:
		}
	}
}

// awaitResponse checks an unresponsive gateway's liveness for Config.Timeout, and then ends
// the session.
func (s *Session) awaitResponse(c *sessionConn) {
	until := time.Now().Add(s.config.Timeout)
	for {
		if s.pause(livenessInterval, c) || s.ctx.Err() != nil {
			return
		}
		switch now := c.condition(); {
		case now.ended:
			s.finish(&EndedError{s.gateway.Identity, now.err})
			return
		case !time.Now().Before(until):
			s.finish(&EndedError{s.gateway.Identity, ErrSilent})
			return
		}
		c.checkLiveness()
	}
}

// roundTrip returns the round trip as measured by Pings, else by the gateway's first answer.
func roundTrip(session *state.Session, p state.Progress) time.Duration {
	if rtt := session.RTT(); rtt > 0 {
		return rtt
	}
	if p.Answered.IsZero() {
		return 0
	}
	return p.Answered.Sub(p.Started)
}
