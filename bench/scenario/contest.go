package scenario

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"lewes/bench/measure"
	"lewes/bench/report"
)

// What a search looks between, datagrams a second.
const (
	slowest = 500
	fastest = 20_000_000
)

// share is the part of the highest rate at which costs are measured: far enough below it to
// be held, close enough for batches to be what they are under load.
const share = 0.75

// contest measures rigs against each other and adds their rows to the group, the group to the
// report.
func (b *Bench) contest(ctx context.Context, g report.Group, rigs []*rig) error {
	if len(rigs) == 0 {
		return errNotMeasured
	}
	b.each(ctx, rigs, "warming up", func(r *rig) error {
		_, err := b.try(ctx, r, r.first/4, b.probe)
		return err
	})
	for round := range b.searches {
		b.each(ctx, rigs, fmt.Sprintf("looking for the highest rate, %d of %d", round+1, b.searches), func(r *rig) error { return b.search(ctx, r) })
	}
	common := commonRate(rigs)
	for round := range b.settings.Rounds {
		b.each(ctx, rigs, fmt.Sprintf("measuring, %d of %d", round+1, b.settings.Rounds), func(r *rig) error {
			t, err := b.try(ctx, r, r.rate(common), b.settings.Trial)
			if err == nil {
				r.note(t)
			}
			return err
		})
	}
	b.profiles(ctx, g.Scenario, rigs, func(r *rig) float64 { return r.rate(common) })
	for _, r := range rigs {
		if !r.dropped && len(r.at) > 0 {
			g.Rows = append(g.Rows, r.fill())
		}
	}
	if len(g.Rows) > 0 {
		b.report.Groups = append(b.report.Groups, g)
	}
	return ctx.Err()
}

// each does something with each rig that takes part. One that fails takes part no more.
func (b *Bench) each(ctx context.Context, rigs []*rig, what string, do func(*rig) error) {
	for _, r := range rigs {
		if r.dropped || ctx.Err() != nil {
			continue
		}
		b.say("%s: %s", what, r.row.Subject)
		if err := do(r); err != nil && ctx.Err() == nil {
			r.dropped = true
			b.leaveOut(b.doing+", "+r.row.Subject, err)
		}
	}
}

// search looks for the highest rate that a rig holds.
func (b *Bench) search(ctx context.Context, r *rig) error {
	s := measure.Search{Start: r.first, Floor: slowest, Ceiling: fastest, Precision: 0.04}
	if b.settings.Quick {
		s.Precision = 0.15
	}
	var last, best *trial
	found, err := s.Run(ctx, func(ctx context.Context, rate float64) (measure.Outcome, error) {
		t, err := b.try(ctx, r, rate, b.probe)
		if err != nil {
			return measure.Outcome{}, err
		}
		last = t
		b.say("looking for the highest rate: %s: %.0f a second asked for, %.0f sent, %.2f %% lost", r.row.Subject, rate, t.rate, 100*t.loss)
		o := t.outcome(b.probe)
		if o.Loss <= measure.MaxLoss && (best == nil || t.rate > best.rate) {
			best = t
		}
		return o, nil
	})
	if err != nil {
		if last != nil && errors.Is(err, measure.ErrNothingHeld) {
			err = fmt.Errorf("%w: the last time %d of %d arrived, %v late", err, last.arrived, last.sent, last.late.Round(time.Millisecond))
		}
		return err
	}
	r.first = 0.85 * found.Rate
	r.row.Bound = found.Bound
	r.max = append(r.max, found.Rate)
	r.maxLoss = append(r.maxLoss, found.Loss)
	r.maxBits = append(r.maxBits, found.Rate*float64(8*r.payload))
	if r.subject != nil && best.arrived > 0 {
		r.maxCPU = append(r.maxCPU, best.per(best.subject.CPU()))
	}
	return nil
}

// commonRate is what all but the peers are measured at.
func commonRate(rigs []*rig) (common float64) {
	for _, r := range rigs {
		if r.dropped || r.row.Kind == report.Peer {
			continue
		}
		if own := share * r.max.Summary().Median; common == 0 || own < common {
			common = own
		}
	}
	return common
}

// rate is what the rig is measured at: the common rate, or less for a peer that does not
// hold it.
func (r *rig) rate(common float64) float64 {
	own := share * r.max.Summary().Median
	if r.row.Kind != report.Peer {
		return common
	}
	if common > 0 {
		return min(own, common)
	}
	return own
}

// profiles takes a CPU profile of each gateway, in trials of their own: what is profiled is not
// measured.
func (b *Bench) profiles(ctx context.Context, scenario string, rigs []*rig, rate func(*rig) float64) {
	if b.settings.Profiles == "" {
		return
	}
	b.each(ctx, rigs, "profiling", func(r *rig) error {
		if r.row.Kind != report.Gateway || r.subject == nil {
			return nil
		}
		file := b.profileFile(scenario, r.row.Subject, r.payload)
		if err := r.subject.StartProfile(ctx, file); err != nil {
			return err
		}
		_, err := b.try(ctx, r, rate(r), max(b.settings.Trial, time.Second))
		if stopped := r.subject.StopProfile(ctx); err == nil {
			err = stopped
		}
		if err == nil {
			b.report.Profiles = append(b.report.Profiles, file)
		}
		return err
	})
}

func (b *Bench) profileFile(scenario, subject string, payload int) string {
	name := scenario + "-" + subject
	if payload > 0 {
		name = fmt.Sprintf("%s-%d", name, payload)
	}
	name = strings.Map(func(c rune) rune {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
			return c
		}
		return '-'
	}, name)
	for strings.Contains(name, "--") {
		name = strings.ReplaceAll(name, "--", "-")
	}
	return filepath.Join(b.settings.Profiles, name+".cpu.pprof")
}
