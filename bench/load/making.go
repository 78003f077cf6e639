//go:build linux

package load

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lewes/bench/measure"
	"lewes/state"
)

// MakePlan describes the sessions to create.
type MakePlan struct {
	Sessions int           `json:"sessions"` // 0: as many as possible
	For      time.Duration `json:"for"`      // 0: until all are created
	Together int           `json:"together"` // concurrent handshakes; 0 means 64
	// Known omits the exchange of the gateway's KEM key, one round trip, after the first handshake.
	Known bool `json:"known"`
	// Forget drops each session when it is confirmed, on this side only.
	Forget bool `json:"forget"`
}

// Made is the number of sessions or subsessions that were created.
type Made struct {
	Number int            `json:"number"`
	Took   time.Duration  `json:"took"`
	Delays measure.Delays `json:"delays"` // from the first packet to the gateway's Ack
}

// making is a MakePlan in progress.
type making struct {
	plan   MakePlan
	began  time.Time
	until  time.Time // zero: no limit
	begun  int
	made   int
	failed int
	err    error
	last   time.Time
	delays measure.Histogram
	done   chan struct{}
}

var errBusy = errors.New("load: another plan is in progress")

// makeSessions creates sessions until the plan is complete or ctx ends.
func (e *engine) makeSessions(ctx context.Context, plan MakePlan) (Made, error) {
	if plan.Together <= 0 {
		plan.Together = 64
	}
	m, err := e.startMaking(plan)
	if err != nil {
		return Made{}, err
	}
	select {
	case <-m.done:
	case <-ctx.Done():
		err = ctx.Err()
	case <-e.ended:
		err = errSocketClosed
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.making = nil
	if err == nil && (plan.For == 0 && m.made < plan.Sessions || m.made == 0 && m.failed > 0) {
		err = fmt.Errorf("load: created %d of %d sessions: %w", m.made, plan.Sessions, m.err)
	}
	return Made{m.made, m.last.Sub(m.began), m.delays.Delays()}, err
}

func (e *engine) startMaking(plan MakePlan) (*making, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.making != nil || e.renewing != nil {
		return nil, errBusy
	}
	now := time.Now()
	m := &making{plan: plan, began: now, last: now, done: make(chan struct{})}
	if plan.For > 0 {
		m.until = now.Add(plan.For)
	}
	e.making = m
	e.refill(now)
	e.flush()
	return m, nil
}

// over reports whether no more handshakes are to begin. A failed one is replaced, unless many
// fail.
func (m *making) over(now time.Time) bool {
	return m.plan.Sessions > 0 && m.begun-m.failed == m.plan.Sessions || !m.until.IsZero() && !now.Before(m.until) || m.failed > 10+m.begun/10
}

// refill begins as many handshakes as may be concurrent, and ends the plan after the last one.
func (e *engine) refill(now time.Time) {
	m := e.making
	if m == nil {
		return
	}
	select {
	case <-m.done:
		return
	default:
	}
	for !m.over(now) && m.begun-m.made-m.failed < m.plan.Together {
		known := m.plan.Known && e.knownKEM != nil
		if m.plan.Known && !known && m.begun > m.failed {
			break // until the first handshake has learned the key
		}
		if err := e.begin(now, known); err != nil {
			m.failed, m.err = m.failed+1, err
		}
		m.begun++
	}
	if m.over(now) && (m.begun == m.made+m.failed || !m.until.IsZero()) {
		close(m.done)
	}
}

// confirmed handles the event that the gateway has a session's keys.
func (e *engine) confirmed(now time.Time, s *state.Session) {
	a := e.attempts[s.Current().Index()]
	if a != nil {
		e.drop(a)
	}
	m := e.making
	if m != nil && a != nil && (m.until.IsZero() || !now.After(m.until)) {
		m.made++
		m.last = now
		m.delays.Add(now.Sub(a.began))
	}
	if m != nil && m.plan.Forget {
		e.forget(s)
		return
	}
	e.kept = append(e.kept, s)
}

// renewing is a renewSessions in progress.
type renewing struct {
	began, until time.Time
	since        map[*state.Session]time.Time
	made         int
	delays       measure.Histogram
	done         chan Made
}

// renewSessions rekeys all sessions for d: each starts a subsession as soon as it has completed
// the previous one.
func (e *engine) renewSessions(ctx context.Context, d time.Duration) (Made, error) {
	r, err := e.startRenewing(d)
	if err != nil {
		return Made{}, err
	}
	select {
	case made := <-r.done:
		return made, nil
	case <-ctx.Done():
		return Made{}, ctx.Err()
	case <-e.ended:
		return Made{}, errSocketClosed
	}
}

func (e *engine) startRenewing(d time.Duration) (*renewing, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.making != nil || e.renewing != nil:
		return nil, errBusy
	case len(e.kept) == 0:
		return nil, errors.New("load: no session to rekey")
	}
	now := time.Now()
	e.renewing = &renewing{began: now, until: now.Add(d), since: make(map[*state.Session]time.Time), done: make(chan Made, 1)}
	for _, s := range e.kept {
		e.rekey(now, s)
		e.settle(now, s)
	}
	e.flush()
	return e.renewing, nil
}

func (e *engine) rekey(now time.Time, s *state.Session) {
	e.renewing.since[s] = now
	s.Rekey(now, &e.out)
}

// rekeyed handles the event that a session has new keys.
func (e *engine) rekeyed(now time.Time, s *state.Session) {
	r := e.renewing
	if r == nil || !now.Before(r.until) {
		return
	}
	r.made++
	r.delays.Add(now.Sub(r.since[s]))
	e.rekey(now, s)
}

func (e *engine) endRenewing(now time.Time) {
	r := e.renewing
	e.renewing = nil
	r.done <- Made{r.made, now.Sub(r.began), r.delays.Delays()}
}
