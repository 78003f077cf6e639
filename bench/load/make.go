package load

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lewes/bench/measure"
	"lewes/state"
)

// MakePlan says how many sessions to make.
type MakePlan struct {
	Sessions int           `json:"sessions"` // 0: as many as there is time for
	For      time.Duration `json:"for"`      // 0: until all are made
	Together int           `json:"together"` // handshakes under way at once; 0 means 64
	// Known skips the exchange of the gateway's KEM key, once a first handshake has
	// brought it: one flight less.
	Known bool `json:"known"`
	// Forget lets go of each session once it stands, at this end only.
	Forget bool `json:"forget"`
}

// Made says what was made.
type Made struct {
	Sessions int            `json:"sessions"`
	Failed   int            `json:"failed"`
	Took     time.Duration  `json:"took"`
	Delays   measure.Delays `json:"delays"` // of each handshake, from the first packet to the gateway's Ack
}

// Rate returns how many sessions were made a second.
func (m *Made) Rate() float64 { return float64(m.Sessions) / m.Took.Seconds() }

// making is a MakePlan under way.
type making struct {
	plan   MakePlan
	began  time.Time
	until  time.Time // zero: none
	begun  int
	made   int
	failed int
	err    error
	last   time.Time
	delays *measure.Histogram
	done   chan struct{}
}

var errBusy = errors.New("load: sessions are being made or renewed already")

// makeSessions makes sessions until the plan is fulfilled or ctx ends.
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
		err = errors.New("load: the socket was closed")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.making = nil
	made := Made{Sessions: m.made, Failed: m.failed, Took: m.last.Sub(m.began), Delays: m.delays.Delays()}
	if err == nil && plan.Sessions > 0 && plan.For == 0 && m.made < plan.Sessions {
		err = fmt.Errorf("load: %d of %d sessions were made: %w", m.made, plan.Sessions, m.err)
	}
	if m.failed > 0 && m.made == 0 {
		err = fmt.Errorf("load: no session was made: %w", m.err)
	}
	return made, err
}

func (e *engine) startMaking(plan MakePlan) (*making, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.making != nil || e.renew != nil {
		return nil, errBusy
	}
	now := time.Now()
	m := &making{plan: plan, began: now, last: now, delays: new(measure.Histogram), done: make(chan struct{})}
	if plan.For > 0 {
		m.until = now.Add(plan.For)
	}
	e.making = m
	e.refill(now)
	e.flush()
	return m, nil
}

// over reports whether no handshake is to begin any more. In the place of one that
// failed another begins, unless many fail.
func (m *making) over(now time.Time) bool {
	return m.plan.Sessions > 0 && m.begun-m.failed == m.plan.Sessions || !m.until.IsZero() && !now.Before(m.until) || m.failed > 10+m.begun/10
}

// refill begins handshakes, as many as may be under way, and ends the making when
// it is over and none is left.
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
			break // the first handshake brings the key
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

// confirmed is called when the gateway has a session's keys for sure.
func (e *engine) confirmed(now time.Time, s *state.Session) {
	m := e.making
	var a *attempt
	if a = e.attempts[s.Current().Index()]; a != nil {
		e.drop(a)
	}
	switch {
	case m != nil && !m.until.IsZero() && now.After(m.until):
		// Too late to count.
	case m != nil && a != nil:
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

// RenewPlan says how long to renew keys.
type RenewPlan struct {
	For time.Duration `json:"for"`
}

// Renewed says how many subsessions were made.
type Renewed struct {
	Subsessions int            `json:"subsessions"`
	Took        time.Duration  `json:"took"`
	Delays      measure.Delays `json:"delays"` // from KK1 to the Ack on the child
}

// renewing is a RenewPlan under way: each session starts a subsession as soon as its
// last one stands.
type renewing struct {
	began, until time.Time
	since        map[*state.Session]time.Time
	made         int
	delays       *measure.Histogram
	done         chan Renewed
}

// renewSessions renews the keys of all sessions over and over.
func (e *engine) renewSessions(ctx context.Context, plan RenewPlan) (Renewed, error) {
	r, err := e.startRenewing(plan)
	if err != nil {
		return Renewed{}, err
	}
	select {
	case renewed := <-r.done:
		return renewed, nil
	case <-ctx.Done():
		return Renewed{}, ctx.Err()
	case <-e.ended:
		return Renewed{}, errors.New("load: the socket was closed")
	}
}

func (e *engine) startRenewing(plan RenewPlan) (*renewing, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.making != nil || e.renew != nil:
		return nil, errBusy
	case len(e.kept) == 0:
		return nil, errors.New("load: there is no session whose keys could be renewed")
	}
	now := time.Now()
	e.renew = &renewing{
		began:  now,
		until:  now.Add(plan.For),
		since:  make(map[*state.Session]time.Time),
		delays: new(measure.Histogram),
		done:   make(chan Renewed, 1),
	}
	for _, s := range e.kept {
		e.rekey(now, s)
		e.settle(now, s)
	}
	e.flush()
	return e.renew, nil
}

func (e *engine) rekey(now time.Time, s *state.Session) {
	e.renew.since[s] = now
	s.Rekey(now, &e.out)
}

// renewed is called when a session has new keys.
func (e *engine) renewed(now time.Time, s *state.Session) {
	r := e.renew
	if r == nil || !now.Before(r.until) {
		return
	}
	r.made++
	r.delays.Add(now.Sub(r.since[s]))
	e.rekey(now, s)
}

func (e *engine) endRenewing(now time.Time) {
	r := e.renew
	e.renew = nil
	r.done <- Renewed{Subsessions: r.made, Took: now.Sub(r.began), Delays: r.delays.Delays()}
}
