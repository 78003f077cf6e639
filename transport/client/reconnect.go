package client

import (
	"math/rand/v2"
	"time"

	"go.uber.org/zap"

	"lewes/state"
)

const (
	// firstPause and longestWait are the first and the longest time that a session
	// waits before it is dialled anew.
	firstPause  = time.Second
	longestWait = 30 * time.Second
	// besideInterval is the least time between the beginnings of two handshakes
	// beside a session that is silent (section 11 of PROTOCOL.md).
	besideInterval = 10 * time.Second
	// settled is how long a session has to stand for the pauses to begin anew.
	settled = 30 * time.Second
	// signInterval is how often a silent session that is not made anew is asked for
	// a sign of life.
	signInterval = time.Second
)

// pauses are the times between tries to make a session anew.
type pauses struct {
	next   time.Duration
	beside time.Time // when the last handshake beside a session began
	stood  time.Time // when the session stood last
}

// take returns the next pause, varied by up to a fifth so that the clients of a
// gateway that was restarted do not all come back at once.
func (p *pauses) take() time.Duration {
	d := max(p.next, firstPause)
	p.next = min(2*d, longestWait)
	return d*4/5 + rand.N(d*2/5)
}

// supervise makes the session anew where it has to be.
func (s *Session) supervise() {
	p := pauses{stood: time.Now()}
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-s.outerDone():
			s.finish(&EndedError{s.gateway.Identity, s.outer.Err()})
			return
		case <-s.trouble:
		}
		l := s.link.Load()
		why, ended := l.condition()
		switch {
		case why == nil:
		case !s.config.NoReconnect:
			s.reconnect(l, why, &p)
		case ended:
			s.finish(&EndedError{s.gateway.Identity, why})
		default:
			s.awaitSign(l)
		}
	}
}

func (s *Session) outerDone() <-chan struct{} {
	if s.outer == nil {
		return nil
	}
	return s.outer.done
}

// troubled makes the supervisor look at the link.
func (s *Session) troubled() {
	select {
	case s.trouble <- struct{}{}:
	default:
	}
}

// condition says what is wrong with the link, and whether it is over for that.
func (l *link) condition() (why error, ended bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ended != nil:
		return l.ended, true
	case !l.silent.IsZero():
		return ErrSilent, false
	}
	return nil, false
}

// reconnect makes a link in the place of one that is over or silent. It gives up
// when the silent one is heard again.
func (s *Session) reconnect(l *link, why error, p *pauses) {
	if time.Since(p.stood) >= settled {
		p.next = 0
	}
	s.setLastErr(why)
	s.tell(Event{Kind: Reconnecting, Err: why})
	_, ended := l.condition()
	wait := max(0, time.Until(p.beside.Add(besideInterval)))
	if ended {
		wait = p.take()
	}
	for {
		if heard := s.pause(wait, l); heard {
			break
		}
		if s.ctx.Err() != nil || s.outer != nil && s.outer.Err() != nil {
			return
		}
		p.beside = time.Now()
		_ = l.with(func(now time.Time) { l.session.Doubt(now, &l.out) })
		next, err := s.connect(s.ctx)
		if err == nil {
			if !s.adopt(next) {
				return
			}
			s.count.reconnects.Add(1)
			break
		}
		if s.ctx.Err() != nil {
			return
		}
		s.setLastErr(err)
		s.log.Warn("could not reconnect", zap.Error(err))
		wait = p.take()
		if _, ended := l.condition(); !ended {
			wait = max(wait, time.Until(p.beside.Add(besideInterval)))
		}
	}
	p.stood = time.Now()
	s.setLastErr(nil)
	s.tell(Event{Kind: Reconnected})
}

// pause waits. It reports whether the link was heard again meanwhile.
func (s *Session) pause(wait time.Duration, l *link) (heard bool) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		if why, _ := l.condition(); why == nil {
			return true
		}
		select {
		case <-timer.C:
			return false
		case <-s.ctx.Done():
			return false
		case <-s.outerDone():
			return false
		case <-s.trouble:
		}
	}
}

// awaitSign asks a silent gateway for a sign of life until one comes or the time
// for one is up.
func (s *Session) awaitSign(l *link) {
	until := time.Now().Add(s.config.Timeout)
	for {
		if heard := s.pause(signInterval, l); heard || s.ctx.Err() != nil {
			return
		}
		why, ended := l.condition()
		switch {
		case ended:
			s.finish(&EndedError{s.gateway.Identity, why})
			return
		case !time.Now().Before(until):
			s.finish(&EndedError{s.gateway.Identity, ErrSilent})
			return
		}
		_ = l.with(func(now time.Time) { l.session.Doubt(now, &l.out) })
	}
}

func (s *Session) setLastErr(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastErr = err
}

// lastRTT returns the round trip of the link that a new one follows, or 0.
func (s *Session) lastRTT() time.Duration {
	l := s.link.Load()
	if l == nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return roundTrip(l.session, l.client.Progress())
}

// roundTrip returns what Pings have measured, else how long the gateway took for
// its first answer.
func roundTrip(session *state.Session, p state.Progress) time.Duration {
	if rtt := session.RTT(); rtt > 0 {
		return rtt
	}
	if p.Answered.IsZero() {
		return 0
	}
	return p.Answered.Sub(p.Started)
}
