package client

import (
	"context"
	"errors"
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
	reset  time.Time // when the last that a Reset called for began
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
		c := l.condition()
		switch {
		case c.why == nil:
		case !s.config.NoReconnect:
			s.reconnect(l, c.why, &p)
		case c.ended:
			s.finish(&EndedError{s.gateway.Identity, c.why})
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

// condition is what is wrong with a link.
type condition struct {
	why       error // nil: nothing
	ended     bool  // it is over for that
	forgotten bool  // the gateway does not know its session any more
}

func (l *link) condition() condition {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ended != nil:
		return condition{why: l.ended, ended: true}
	case !l.silent.IsZero():
		return condition{why: ErrSilent, forgotten: l.forgotten}
	}
	return condition{}
}

// reconnect makes a link in the place of one that is over or silent. It gives up
// when the silent one is heard again.
func (s *Session) reconnect(l *link, why error, p *pauses) {
	if time.Since(p.stood) >= settled {
		p.next = 0
	}
	s.setLastErr(why)
	s.tell(Event{Kind: Reconnecting, Err: why})
	wait := s.untilNext(l, p, true)
	for {
		switch s.pause(wait, l) {
		case wasHeard:
			s.recovered(p)
			return
		case isForgotten: // what is waited for is another handshake now
			wait = s.untilNext(l, p, false)
			continue
		}
		if s.ctx.Err() != nil || s.outer != nil && s.outer.Err() != nil {
			return
		}
		next, err := s.connectBeside(l, p)
		switch {
		case err == nil && next == nil:
			s.recovered(p)
			return
		case err == nil:
			if !s.adopt(next) {
				return
			}
			s.count.reconnects.Add(1)
			s.recovered(p)
			return
		case s.ctx.Err() != nil:
			return
		case errors.Is(err, errForgotten):
			wait = s.untilNext(l, p, true)
			continue
		}
		s.setLastErr(err)
		s.log.Warn("could not reconnect", zap.Error(err))
		wait = max(p.take(), s.untilNext(l, p, false))
	}
}

// recovered tells that the session carries datagrams again.
func (s *Session) recovered(p *pauses) {
	p.stood = time.Now()
	s.setLastErr(nil)
	s.tellTransport(Reconnected)
}

// errForgotten ends a handshake that began because the gateway was silent: it is there
// and has said Reset, so that one which begins now stands sooner.
var errForgotten = errors.New("the gateway has come back")

// untilNext returns how long to wait for the next handshake. Those that a Reset calls
// for do not wait for the others.
func (s *Session) untilNext(l *link, p *pauses, first bool) time.Duration {
	switch c := l.condition(); {
	case c.ended && first:
		return p.take()
	case c.ended:
		return 0
	case c.forgotten:
		return max(0, time.Until(p.reset.Add(besideInterval)))
	}
	return max(0, time.Until(p.beside.Add(besideInterval)))
}

// mayReset lets the next Reset count again, after a handshake that one called for.
func (l *link) mayReset() {
	_ = l.with(func(time.Time) { l.told, l.forgotten = false, false })
}

// connectBeside makes a link beside one that is silent. It returns nil where that one
// is heard meanwhile.
func (s *Session) connectBeside(l *link, p *pauses) (*link, error) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	before := l.condition()
	p.beside = time.Now()
	if before.forgotten {
		p.reset = p.beside
	}
	_ = l.with(func(now time.Time) { l.session.CheckLiveness(now, &l.out) })
	type made struct {
		link *link
		err  error
	}
	result := make(chan made, 1)
	go func() {
		next, err := s.connect(ctx)
		result <- made{next, err}
	}()
	var instead error
	for {
		select {
		case m := <-result:
			if m.err != nil && before.forgotten {
				l.mayReset()
			}
			if m.err != nil && ctx.Err() != nil && s.ctx.Err() == nil {
				return nil, instead
			}
			return m.link, m.err
		case <-s.trouble:
		}
		switch c := l.condition(); {
		case c.ended || ctx.Err() != nil:
		case c.why == nil:
			cancel()
		case c.forgotten && !before.forgotten && time.Since(p.reset) >= besideInterval:
			instead = errForgotten
			cancel()
		}
	}
}

// What a pause ended with.
const (
	isOver      = iota // the time is up, or the session is over
	wasHeard           // the link was heard again
	isForgotten        // the gateway has said that it does not know the link's session
)

// pause waits.
func (s *Session) pause(wait time.Duration, l *link) int {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	before := l.condition()
	for {
		switch c := l.condition(); {
		case c.why == nil:
			return wasHeard
		case c.forgotten && !before.forgotten:
			return isForgotten
		}
		select {
		case <-timer.C:
			return isOver
		case <-s.ctx.Done():
			return isOver
		case <-s.outerDone():
			return isOver
		case <-s.trouble:
		}
	}
}

// awaitSign asks a silent gateway for a sign of life until one comes or the time
// for one is up.
func (s *Session) awaitSign(l *link) {
	until := time.Now().Add(s.config.Timeout)
	for {
		if s.pause(signInterval, l) == wasHeard || s.ctx.Err() != nil {
			return
		}
		switch c := l.condition(); {
		case c.ended:
			s.finish(&EndedError{s.gateway.Identity, c.why})
			return
		case !time.Now().Before(until):
			s.finish(&EndedError{s.gateway.Identity, ErrSilent})
			return
		}
		_ = l.with(func(now time.Time) { l.session.CheckLiveness(now, &l.out) })
	}
}

func (s *Session) setLastErr(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastErr = err
}

// lastKeepalive returns what a link has learned for the one that follows it.
func (s *Session) lastKeepalive() keepalive {
	l := s.link.Load()
	if l == nil {
		return newKeepalive(s.config.Keepalive)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.keepalive
	k.judgeAt, k.heard = time.Time{}, true
	return k
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
