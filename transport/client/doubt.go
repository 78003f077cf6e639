package client

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"lewes/state"
)

// Timing of a doubt (section 11 of PROTOCOL.md).
const (
	// besideInterval is the least time between the starts of two handshakes beside a session.
	besideInterval = 10 * time.Second
	// heldWait is how long after the beginning of a doubt a Held is believed.
	heldWait = 3 * time.Second
	// besideMaxWait bounds the time between retransmissions of a handshake beside a session, so
	// that it finds a gateway that starts in less than a second.
	besideMaxWait = 600 * time.Millisecond
)

// askBeside is called when a check of the gateway's liveness had no answer. Until something is
// answered, the supervisor makes handshakes beside the session.
func (st *connState) askBeside(now time.Time) {
	if st.doubtedAt.IsZero() {
		st.doubtedAt = now
	}
	st.s.wakeSupervisor()
}

// endDoubt is called when the gateway has answered.
func (st *connState) endDoubt() {
	if st.doubtedAt.IsZero() && st.unresponsiveAt.IsZero() {
		return
	}
	st.doubtedAt, st.unresponsiveAt = time.Time{}, time.Time{}
	st.s.wakeSupervisor() // it need not reconnect
}

// attempt is how a handshake differs from a first one.
type attempt struct {
	beside  *sessionConn // that has not ended; nil: none
	doubted uint32       // the index of beside's keys, for the gateway to answer Held; 0: none
}

func (a attempt) maxWait() time.Duration {
	if a.beside == nil {
		return 0
	}
	return besideMaxWait
}

// flow returns a Conn on the flow to an entry that the session takes, or nil.
func (a attempt) flow() *forwardConn {
	if a.beside == nil {
		return nil
	}
	if c, ok := a.beside.active.Load().conn.(*forwardConn); ok {
		return c.shared()
	}
	return nil
}

// attempt returns an attempt beside the sessionConn, which names it if named.
func (c *sessionConn) attempt(named bool) attempt {
	a := attempt{beside: c}
	if named {
		c.mu.Lock()
		defer c.mu.Unlock()
		a.doubted = c.session.Current().Index()
	}
	return a
}

// recovery replaces a sessionConn that has ended or is in doubt. Its handshakes run one after the
// other, in goroutines of their own.
type recovery struct {
	s *Session
	c *sessionConn
	b *backoff

	announced bool      // by Reconnecting
	ended     bool      // c has
	at        time.Time // when the next attempt starts; zero while one runs
	held      bool      // and it names no session: the last one ended by a Held
	cancel    context.CancelFunc
	result    chan recoveryResult
}

type recoveryResult struct {
	conn *sessionConn
	err  error
}

// reconnect replaces a sessionConn that has ended or is in doubt. It returns when it has, when the
// doubt is over, or when the Session has ended.
func (s *Session) reconnect(c *sessionConn, b *backoff) {
	if time.Since(b.upAt) >= stableAfter {
		b.next = 0
	}
	r := &recovery{s: s, c: c, b: b, at: b.besideAt(), result: make(chan recoveryResult, 1)}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		now := c.condition()
		if now.fine() || s.ctx.Err() != nil {
			r.abandon()
			if s.ctx.Err() == nil && r.announced {
				s.recovered(b)
			}
			return
		}
		r.follow(now)
		if !r.at.IsZero() {
			timer.Reset(time.Until(r.at))
		}
		select {
		case <-s.ctx.Done():
		case <-s.wake:
		case <-timer.C:
			if due(time.Now(), r.at) {
				r.start()
			}
		case result := <-r.result:
			if r.finished(result) {
				return
			}
		}
	}
}

// follow acts on the sessionConn's condition.
func (r *recovery) follow(now condition) {
	if now.ended && !r.ended {
		r.ended, r.held = true, false
		if !r.at.IsZero() {
			r.at = time.Now().Add(r.b.take())
		}
	}
	if now.err != nil {
		r.announce(now.err)
	}
}

func (r *recovery) announce(cause error) {
	if r.announced {
		return
	}
	r.announced = true
	r.s.setLastErr(cause)
	r.s.emit(Event{Kind: Reconnecting, Err: cause})
}

// start starts an attempt.
func (r *recovery) start() {
	var a attempt
	if !r.ended {
		a = r.c.attempt(!r.held)
		if !r.held {
			r.b.beside = time.Now()
		}
	}
	r.at, r.held = time.Time{}, false
	ctx, cancel := context.WithCancel(r.s.ctx)
	r.cancel = cancel
	go func() {
		conn, err := r.s.connect(ctx, a)
		r.result <- recoveryResult{conn, err}
	}()
}

// abandon ends the attempt that runs.
func (r *recovery) abandon() {
	if r.cancel == nil {
		return
	}
	r.cancel()
	if result := <-r.result; result.conn != nil {
		result.conn.close()
	}
}

// finished handles the result of an attempt, and reports whether nothing is left to do.
func (r *recovery) finished(result recoveryResult) bool {
	r.cancel()
	r.cancel = nil
	s := r.s
	switch {
	case result.err == nil:
		now := r.c.condition()
		if now.fine() {
			result.conn.close() // the old session answered just before
			return false
		}
		r.announce(ErrSilent)
		if s.adopt(result.conn) {
			s.count.reconnects.Add(1)
			s.recovered(r.b)
		}
		return true
	case s.ctx.Err() != nil:
		return false
	case errors.Is(result.err, state.ErrHeld) && !r.ended:
		r.at, r.held = r.c.heldUntil(), true
		return false
	}
	if r.announced {
		s.setLastErr(result.err)
		s.log.Warn("reconnect failed", slog.String("error", result.err.Error()))
	}
	r.at = r.b.besideAt()
	if now := r.c.condition(); r.ended || !now.doubtedAt.IsZero() && time.Since(now.doubtedAt) >= rareAfter {
		if at := time.Now().Add(r.b.take()); r.ended || at.After(r.at) {
			r.at = at
		}
	}
	return false
}

// heldUntil asks for an answer once more, and returns until when a Held is believed.
func (c *sessionConn) heldUntil() time.Time {
	until := time.Now()
	_ = c.update(func(st *connState, now time.Time) {
		st.ping(now)
		until = now.Add(st.responseTime())
		if at := st.doubtedAt.Add(heldWait); at.After(until) {
			until = at
		}
	})
	return until
}
