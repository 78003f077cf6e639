//go:build linux

package load

import (
	"cmp"
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

// making is a MakePlan or a renewal of keys in progress.
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
	renews map[*state.Session]time.Time // of a renewal: the beginning of each subsession; else nil
}

// makeSessions creates sessions until the plan is complete or ctx ends.
func (e *engine) makeSessions(ctx context.Context, plan MakePlan) (Made, error) {
	plan.Together = cmp.Or(plan.Together, 64)
	return e.perform(ctx, &making{plan: plan})
}

// renewSessions rekeys all sessions for d: each starts a subsession as soon as it has completed
// the previous one.
func (e *engine) renewSessions(ctx context.Context, d time.Duration) (Made, error) {
	return e.perform(ctx, &making{plan: MakePlan{For: d}, renews: make(map[*state.Session]time.Time)})
}

// perform waits until m is complete or ctx ends.
func (e *engine) perform(ctx context.Context, m *making) (Made, error) {
	err := e.startMaking(m)
	if err != nil {
		return Made{}, err
	}
	select {
	case <-m.done:
	case <-ctx.Done():
		err = ctx.Err()
	case <-e.ended:
		err = errors.New("load: socket closed")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.making = nil
	if err == nil && m.renews == nil && (m.plan.For == 0 && m.made < m.plan.Sessions || m.made == 0 && m.failed > 0) {
		err = fmt.Errorf("load: created %d of %d sessions: %w", m.made, m.plan.Sessions, m.err)
	}
	return Made{m.made, m.last.Sub(m.began), m.delays.Delays()}, err
}

func (e *engine) startMaking(m *making) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.making != nil:
		return errors.New("load: another plan is in progress")
	case m.renews != nil && len(e.kept) == 0:
		return errors.New("load: no session to rekey")
	}
	now := time.Now()
	m.began, m.last, m.done = now, now, make(chan struct{})
	if m.plan.For > 0 {
		m.until = now.Add(m.plan.For)
	}
	e.making = m
	if m.renews != nil {
		for _, s := range e.kept {
			e.rekey(now, s)
			e.settle(now, s)
		}
	}
	e.refill(now)
	e.flush()
	return nil
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
	for m.renews == nil && !m.over(now) && m.begun-m.made-m.failed < m.plan.Together {
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

func (e *engine) rekey(now time.Time, s *state.Session) {
	e.making.renews[s] = now
	s.Rekey(now, &e.out)
}

// rekeyed handles the event that a session has new keys.
func (e *engine) rekeyed(now time.Time, s *state.Session) {
	m := e.making
	if m == nil || m.renews == nil || !now.Before(m.until) {
		return
	}
	m.made++
	m.last = now
	m.delays.Add(now.Sub(m.renews[s]))
	e.rekey(now, s)
}
