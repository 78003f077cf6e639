//go:build linux

package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lewes/bench/load"
	"lewes/bench/measure"
	"lewes/bench/report"
	"lewes/bench/worker"
	"lewes/router"
)

const (
	// concurrent is the number of concurrent handshakes that keep a gateway busy.
	concurrent = 32
	// settling is the time for a gateway to finish abandoned handshakes.
	settling = 100 * time.Millisecond
	// renewing is the number of sessions that renew their keys at once.
	renewing = 64
)

// keyEnv measures the public-key operations of a gateway.
type keyEnv struct {
	*env
	gateway, load, operations *worker.Process
}

// newKeyEnv starts a gateway with all shards, a load, and a process that measures the operations
// alone.
func newKeyEnv(ctx context.Context, e *env) (*keyEnv, error) {
	if len(e.settings.Gateways) > 0 {
		return nil, errors.New("needs the gateway of this tree, whose counters and memory the bench reads")
	}
	k := &keyEnv{env: e}
	var at gatewayAt
	var err error
	if k.gateway, err = e.start(ctx, roleGateway, gatewayParams{}, &at, worker.Where{}); err != nil {
		return nil, err
	}
	if k.operations, err = e.start(ctx, roleOperations, worker.None{}, nil, worker.Where{}); err != nil {
		return nil, err
	}
	k.load, err = e.start(ctx, roleLoad, load.Params{To: at.Addr, Gateway: &at.Identity}, nil, worker.Where{})
	return k, err
}

// counted returns a counter of the gateway and its usage.
func (k *keyEnv) counted(ctx context.Context, counter func(*router.Stats) uint64) (n uint64, used measure.Usage, err error) {
	time.Sleep(settling)
	var s router.Stats
	if err = k.gateway.Call(ctx, "stats", worker.None{}, &s); err == nil {
		used, err = k.gateway.Usage(ctx)
	}
	return counter(&s), used, err
}

// subject is a way to perform operations at the gateway.
type subject struct {
	name string
	work func() (load.Made, error)
}

// measure adds the cost of each operation that the gateway counts during the work.
func (k *keyEnv) measure(ctx context.Context, row *report.Row, work func() (load.Made, error), counter func(*router.Stats) uint64) error {
	before, usedBefore, err := k.counted(ctx, counter)
	if err != nil {
		return err
	}
	made, err := work()
	if err != nil {
		return err
	}
	after, used, err := k.counted(ctx, counter)
	if err != nil {
		return err
	}
	if after == before {
		return errNothingMeasured
	}
	n := float64(after - before)
	used = used.Since(usedBefore)
	row.Add(report.Max, n/made.Took.Seconds())
	row.Add(report.CPU, float64(used.CPU)/n)
	row.Add(report.Allocs, float64(used.Mallocs)/n)
	row.AddDelays(made.Delays)
	return nil
}

// compareToOperations measures operations alone and subjects in turn; the first round warms up.
func (k *keyEnv) compareToOperations(ctx context.Context, g report.Group, sum func(*operations) time.Duration, counter func(*router.Stats) uint64, subjects ...subject) error {
	alone := &topology{row: report.Row{Subject: "public-key operations", Kind: report.Operations}}
	k.topologies = []*topology{alone}
	works := make(map[*topology]func() (load.Made, error))
	for _, s := range subjects {
		t := &topology{row: report.Row{Subject: s.name, Kind: report.Gateway}}
		k.topologies, works[t] = append(k.topologies, t), s.work
	}
	for round := range k.settings.Rounds + 1 {
		k.each(ctx, fmt.Sprintf("%s, %d of %d", g.Title, round, k.settings.Rounds), func(t *topology) error {
			if round == 1 {
				t.row.Samples = nil
			}
			if t != alone {
				return k.measure(ctx, &t.row, works[t], counter)
			}
			var costs operations
			err := k.operations.Call(ctx, "measure", k.settings.Trial, &costs)
			t.row.Add(report.CPU, float64(sum(&costs)))
			return err
		})
	}
	return k.addGroup(ctx, g)
}

func handshakes(ctx context.Context, e *env) error {
	k, err := newKeyEnv(ctx, e)
	if err != nil {
		return err
	}
	trial := e.settings.Trial
	handshaking := func(together int, known bool) func() (load.Made, error) {
		return func() (made load.Made, err error) {
			err = k.load.Call(ctx, "make", load.MakePlan{For: trial, Together: together, Known: known, Forget: true}, &made)
			made.Took = trial
			return made, err
		}
	}
	for _, known := range []bool{false, true} {
		g := report.Group{Variant: "key-exchange", Title: "Handshakes, with the exchange of the KEM key", Unit: "handshake", Notes: []string{
			"target: a gateway costs at most 1.3 × operations",
			count(concurrent, "handshake") + " at once, not limited by the gateway; delays are from the client's first packet to the gateway's last",
		}}
		if known {
			g.Variant, g.Title = "known-key", "Handshakes, with a known KEM key"
		}
		if err := k.compareToOperations(ctx, g,
			func(c *operations) time.Duration { return c.handshake(known) },
			func(s *router.Stats) uint64 { return s.Handshakes.Established },
			subject{"gateway", handshaking(concurrent, known)},
			subject{"gateway, one at a time", handshaking(1, known)}); err != nil {
			return err
		}
	}
	if e.settings.Profiles == "" {
		return nil
	}
	return e.profileOf(ctx, k.gateway, "handshakes", func() error {
		_, err := handshaking(concurrent, false)()
		return err
	})
}

func subsessions(ctx context.Context, e *env) error {
	k, err := newKeyEnv(ctx, e)
	if err != nil {
		return err
	}
	if err := k.load.Call(ctx, "connect", load.ConnectPlan{Sessions: renewing, Known: true}, nil); err != nil {
		return err
	}
	return k.compareToOperations(ctx, report.Group{
		Title: "Subsessions, new keys for " + count(renewing, "session"),
		Unit:  "subsession",
		Notes: []string{"each session renews its keys again as soon as it has new ones; delays are from the client's first packet to the gateway's Ack under the new keys"},
	}, (*operations).subsession, func(s *router.Stats) uint64 { return s.Rekeys },
		subject{"gateway", func() (made load.Made, err error) {
			err = k.load.Call(ctx, "renew", e.settings.Trial, &made)
			return made, err
		}})
}

const (
	// chunk is the number of sessions created between two progress reports.
	chunk = 1000
	// resting is the time after which a session has released the state of an active one.
	resting = 45 * time.Second
)

func idle(ctx context.Context, e *env) error {
	k, err := newKeyEnv(ctx, e)
	if err != nil {
		return err
	}
	empty, err := k.gateway.Settle(ctx)
	if err != nil {
		return err
	}
	if empty.Resident == 0 {
		return errors.New("resident memory is not known on this system")
	}
	sessions := e.settings.Sessions
	began := time.Now()
	for made := 0; made < sessions; made += chunk {
		e.progress("%d of %d sessions", made, sessions)
		plan := load.MakePlan{Sessions: min(chunk, sessions-made), Together: concurrent, Known: true, Forget: true}
		if err := k.load.Call(ctx, "make", plan, nil); err != nil {
			return err
		}
	}
	g := report.Group{
		Scenario: e.scenario,
		Title:    "Memory, idle sessions",
		Unit:     "session",
		Notes: []string{
			"target: at most 1.5 KiB per session at rest",
			fmt.Sprintf("resident memory of the gateway's process after a collection; %d KiB without sessions", empty.Resident>>10),
			fmt.Sprintf("the sessions were created in %v; %s", time.Since(began).Round(time.Second), handshakeNote),
		},
	}
	add := func(subject string) error {
		now, err := k.gateway.Settle(ctx)
		if err != nil {
			return err
		}
		row := report.Row{Subject: subject, Kind: report.Gateway}
		row.Add(report.Units, float64(sessions))
		row.Add(report.Resident, float64(now.Resident))
		row.Add(report.PerUnit, (float64(now.Resident)-float64(empty.Resident))/float64(sessions))
		g.Rows = append(g.Rows, row)
		return nil
	}
	err = add("gateway, new sessions")
	if err == nil && !e.settings.Quick {
		e.progress("waiting %v until the sessions rest", resting)
		select {
		case <-ctx.Done():
			err = ctx.Err()
		case <-time.After(resting):
			err = add("gateway, sessions at rest")
		}
	}
	e.report.AddGroup(g)
	return err
}
