package client

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"lewes/state"
)

const (
	// minBackoff and maxBackoff bound the pause before a reconnect.
	minBackoff = time.Second
	maxBackoff = 30 * time.Second
	// besideInterval is the least time between the starts of two handshakes beside an
	// unresponsive session (section 11 of PROTOCOL.md).
	besideInterval = 10 * time.Second
	// stableAfter is how long a session has to be up to reset the backoff.
	stableAfter = 30 * time.Second
	// livenessInterval is the time between liveness checks of an unresponsive session
	// that does not reconnect.
	livenessInterval = time.Second
)

// backoff paces the handshakes of reconnects.
type backoff struct {
	next   time.Duration
	beside time.Time // when the last handshake beside a session started
	reset  time.Time // when the last one that a Reset triggered started
	upAt   time.Time // when the session was last up
}

// take returns the next pause, with a jitter of a fifth so that the clients of a gateway
// that has restarted don't all return at once.
func (b *backoff) take() time.Duration {
	d := max(b.next, minBackoff)
	b.next = min(2*d, maxBackoff)
	return d*4/5 + rand.N(d*2/5)
}

// until returns the pause before the next handshake. Those that a Reset triggers don't
// wait for the others.
func (b *backoff) until(c *sessionConn, first bool) time.Duration {
	switch now := c.condition(); {
	case now.ended && first:
		return b.take()
	case now.ended:
		return 0
	case now.forgotten:
		return max(0, time.Until(b.reset.Add(besideInterval)))
	}
	return max(0, time.Until(b.beside.Add(besideInterval)))
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
		now := c.condition()
		switch {
		case now.err == nil:
		case !s.config.NoReconnect:
			s.reconnect(c, now.err, &b)
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

// reconnect replaces a sessionConn that has ended or is unresponsive. It returns when it
// has, or when the unresponsive one responds.
func (s *Session) reconnect(c *sessionConn, cause error, b *backoff) {
	if time.Since(b.upAt) >= stableAfter {
		b.next = 0
	}
	s.setLastErr(cause)
	s.emit(Event{Kind: Reconnecting, Err: cause})
	pause := b.until(c, true)
	for {
		switch s.pause(pause, c) {
		case pauseResponded:
			s.recovered(b)
			return
		case pauseForgotten:
			pause = b.until(c, false)
			continue
		}
		if s.ctx.Err() != nil {
			return
		}
		next, err := s.connectBeside(c, b)
		switch {
		case err == nil && next == nil:
			s.recovered(b)
			return
		case err == nil:
			if !s.adopt(next) {
				return
			}
			s.count.reconnects.Add(1)
			s.recovered(b)
			return
		case s.ctx.Err() != nil:
			return
		case errors.Is(err, errGatewayRestarted):
			pause = b.until(c, true)
			continue
		}
		s.setLastErr(err)
		s.log.Warn("reconnect failed", slog.String("error", err.Error()))
		pause = max(b.take(), b.until(c, false))
	}
}

// recovered is called when the session carries datagrams again.
func (s *Session) recovered(b *backoff) {
	b.upAt = time.Now()
	s.setLastErr(nil)
	s.emitTransport(Reconnected)
}

// errGatewayRestarted ends a handshake that started because the gateway was unresponsive:
// it has since sent a Reset, so that a new handshake succeeds sooner.
var errGatewayRestarted = errors.New("client: gateway restarted")

// connectBeside makes a handshake beside an unresponsive session. It returns nil if that
// one responds.
func (s *Session) connectBeside(c *sessionConn, b *backoff) (*sessionConn, error) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	before := c.condition()
	b.beside = time.Now()
	if before.forgotten {
		b.reset = b.beside
	}
	c.checkLiveness()
	type outcome struct {
		conn *sessionConn
		err  error
	}
	result := make(chan outcome, 1)
	go func() {
		next, err := s.connect(ctx)
		result <- outcome{next, err}
	}()
	var instead error
	for {
		select {
		case r := <-result:
			if r.err != nil && before.forgotten {
				c.allowReset()
			}
			if r.err != nil && ctx.Err() != nil && s.ctx.Err() == nil {
				return nil, instead
			}
			return r.conn, r.err
		case <-s.wake:
		}
		switch now := c.condition(); {
		case now.ended || ctx.Err() != nil:
		case now.err == nil:
			cancel()
		case now.forgotten && !before.forgotten && time.Since(b.reset) >= besideInterval:
			instead = errGatewayRestarted
			cancel()
		}
	}
}

// Results of Session.pause.
const (
	pauseOver      = iota // the time is up, or the session has ended
	pauseResponded        // the sessionConn is up again
	pauseForgotten        // the gateway has lost the session
)

// pause waits, unless the sessionConn's condition changes.
func (s *Session) pause(d time.Duration, c *sessionConn) int {
	timer := time.NewTimer(d)
	defer timer.Stop()
	before := c.condition()
	for {
		switch now := c.condition(); {
		case now.err == nil:
			return pauseResponded
		case now.forgotten && !before.forgotten:
			return pauseForgotten
		}
		select {
		case <-timer.C:
			return pauseOver
		case <-s.ctx.Done():
			return pauseOver
		case <-s.wake:
		}
	}
}

// awaitResponse checks an unresponsive gateway's liveness for Config.Timeout, and then ends
// the session.
func (s *Session) awaitResponse(c *sessionConn) {
	until := time.Now().Add(s.config.Timeout)
	for {
		if s.pause(livenessInterval, c) == pauseResponded || s.ctx.Err() != nil {
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
