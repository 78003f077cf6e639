//go:build linux

package scenario

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"time"

	"lewes/bench/measure"
	"lewes/bench/report"
	"lewes/bench/worker"
)

// Bounds of a search, datagrams per second.
const (
	slowest = 500
	fastest = 20_000_000
)

// share is the fraction of the highest rate at which costs are measured: low enough to be
// sustained, high enough for batches to have their usual size.
const share = 0.75

// compare measures the topologies of e in turn and adds a group to the report.
func (e *env) compare(ctx context.Context, g report.Group) error {
	if len(e.topologies) == 0 {
		return errNothingMeasured
	}
	e.each(ctx, "warming up", func(t *topology) error {
		_, err := e.try(ctx, t, t.first/4, e.probe)
		return err
	})
	for round := range e.searches {
		e.each(ctx, fmt.Sprintf("searching the highest rate, %d of %d", round+1, e.searches), func(t *topology) error { return e.search(ctx, t) })
	}
	common := e.commonRate()
	rate := func(t *topology) float64 {
		own := share * t.row.Median(report.Max)
		if t.row.Kind == report.Peer && (own < common || common == 0) {
			return own
		}
		return common
	}
	e.rounds(ctx, "measuring", 0, rate)
	e.profile(ctx, rate)
	return e.addGroup(ctx, g)
}

// rounds measures the topologies in turn. The first rounds, skip in number, only warm up.
func (e *env) rounds(ctx context.Context, step string, skip int, rate func(*topology) float64) {
	for round := range e.settings.Rounds + skip {
		e.each(ctx, fmt.Sprintf("%s, %d of %d", step, round+1-skip, e.settings.Rounds), func(t *topology) error {
			r, err := e.try(ctx, t, rate(t), e.settings.Trial)
			if err == nil && round >= skip {
				t.add(r)
			}
			return err
		})
	}
}

// addGroup adds the rows of the topologies to a group, and the group to the report.
func (e *env) addGroup(ctx context.Context, g report.Group) error {
	g.Scenario = e.scenario
	for _, t := range e.topologies {
		if !t.dropped {
			g.Rows = append(g.Rows, t.row)
		}
	}
	e.report.AddGroup(g)
	return ctx.Err()
}

// each calls do for each topology. One that fails takes no further part.
func (e *env) each(ctx context.Context, step string, do func(*topology) error) {
	for _, t := range e.topologies {
		if t.dropped || ctx.Err() != nil {
			continue
		}
		e.progress("%s: %s", step, t.row.Subject)
		if err := do(t); err != nil && ctx.Err() == nil {
			t.dropped = true
			e.leaveOut(e.scenario+", "+t.row.Subject, err)
		}
	}
}

// search finds the highest rate that a topology sustains.
func (e *env) search(ctx context.Context, t *topology) error {
	s := measure.Search{Start: t.first, Floor: slowest, Ceiling: fastest, Precision: 0.04}
	if e.settings.Quick {
		s.Precision = 0.15
	}
	var best *run
	found, err := s.Run(ctx, func(ctx context.Context, rate float64) (measure.Outcome, error) {
		r, err := e.try(ctx, t, rate, e.probe)
		if err != nil {
			return measure.Outcome{}, err
		}
		o := r.outcome(e.probe)
		if o.Loss <= measure.MaxLoss && (best == nil || r.sent.Sent > best.sent.Sent) {
			best = r
		}
		return o, nil
	})
	if err != nil {
		return err
	}
	t.first = 0.85 * found.Rate
	t.row.Bound = found.Bound
	t.row.Add(report.Max, found.Rate)
	if t.subject != nil && best.arrived.Datagrams > 0 {
		t.row.Add(report.MaxCPU, best.per(best.used.subject))
	}
	return nil
}

// commonRate returns the rate that all but the peers are measured at.
func (e *env) commonRate() (common float64) {
	for _, t := range e.topologies {
		if t.dropped || t.row.Kind == report.Peer {
			continue
		}
		if own := share * t.row.Median(report.Max); common == 0 || own < common {
			common = own
		}
	}
	return common
}

// profile takes a CPU profile of each gateway in a run of its own, which is not measured.
func (e *env) profile(ctx context.Context, rate func(*topology) float64) {
	if e.settings.Profiles == "" {
		return
	}
	e.each(ctx, "profiling", func(t *topology) error {
		if t.gateway == nil {
			return nil
		}
		return e.profileOf(ctx, t.gateway, fmt.Sprintf("%s-%s-%d", e.scenario, t.row.Subject, t.payload), func() error {
			_, err := e.try(ctx, t, rate(t), max(e.settings.Trial, time.Second))
			return err
		})
	})
}

var notInFileNames = regexp.MustCompile(`[^A-Za-z0-9]+`)

// profileOf takes a CPU profile of a worker during some work.
func (b *bench) profileOf(ctx context.Context, p *worker.Process, name string, work func() error) error {
	file := filepath.Join(b.settings.Profiles, notInFileNames.ReplaceAllString(name, "-")+".cpu.pprof")
	if err := p.Profile(ctx, file); err != nil {
		return err
	}
	return errors.Join(work(), p.Profile(ctx, ""))
}
