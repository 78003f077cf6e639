//go:build linux

package scenario

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lewes/bench/load"
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

func (k *keyEnv) stats(ctx context.Context) (s router.Stats, err error) {
	time.Sleep(settling)
	err = k.gateway.Call(ctx, "stats", worker.None{}, &s)
	return s, err
}

// measure adds the cost of each operation that the gateway counts while the load works.
func (k *keyEnv) measure(ctx context.Context, row *report.Row, work func() (load.Made, error), counter func(*router.Stats) uint64) error {
	before, err := k.stats(ctx)
	if err != nil {
		return err
	}
	used, err := k.gateway.Usage(ctx)
	if err != nil {
		return err
	}
	made, err := work()
	if err != nil {
		return err
	}
	after, err := k.stats(ctx)
	if err != nil {
		return err
	}
	usedAfter, err := k.gateway.Usage(ctx)
	if err != nil {
		return err
	}
	n := float64(counter(&after) - counter(&before))
	if n == 0 {
		return errNothingMeasured
	}
	used = usedAfter.Since(used)
	row.Add(report.Max, n/made.Took.Seconds())
	row.Add(report.CPU, float64(used.CPU)/n)
	row.Add(report.Allocs, float64(used.Mallocs)/n)
	row.AddDelays(made.Delays)
	return nil
}

// compareToOperations measures operations alone and subjects in turn; the first round warms up.
func (k *keyEnv) compareToOperations(ctx context.Context, g report.Group, sum func(*operations) time.Duration, counter func(*router.Stats) uint64, subjects map[string]func() (load.Made, error)) error {
	alone := &topology{row: report.Row{Subject: "public-key operations", Kind: report.Operations}}
	k.topologies = []*topology{alone}
	for _, name := range []string{"gateway", "gateway, one at a time"} {
		if subjects[name] != nil {
			k.topologies = append(k.topologies, &topology{row: report.Row{Subject: name, Kind: report.Gateway}})
		}
	}
	for round := range k.settings.Rounds + 1 {
		k.each(ctx, fmt.Sprintf("%s, %d of %d", g.Title, round, k.settings.Rounds), func(t *topology) error {
			if round == 1 {
				t.row.Samples = nil
			}
			if t != alone {
				return k.measure(ctx, &t.row, subjects[t.row.Subject], counter)
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
	make := func(plan load.MakePlan) func() (load.Made, error) {
		plan.Forget = true
		return func() (made load.Made, err error) {
			err = k.load.Call(ctx, "make", plan, &made)
			made.Took = plan.For
			return made, err
		}
	}
	trial := e.settings.Trial
	for _, known := range []bool{false, true} {
		variant, title := "key-exchange", "Handshakes, with the exchange of the KEM key"
		if known {
			variant, title = "known-key", "Handshakes, with a known KEM key"
		}
		if err := k.compareToOperations(ctx, report.Group{
			Variant: variant,
			Title:   title,
			Unit:    "handshake",
			Notes: []string{
				"target: a gateway costs at most 1.3 × operations",
				count(concurrent, "handshake") + " at once, not limited by the gateway; delays are from the client's first packet to the gateway's last",
			},
		}, func(c *operations) time.Duration { return c.handshake(known) },
			func(s *router.Stats) uint64 { return s.Handshakes.Established },
			map[string]func() (load.Made, error){
				"gateway":                make(load.MakePlan{For: trial, Together: concurrent, Known: known}),
				"gateway, one at a time": make(load.MakePlan{For: trial, Together: 1, Known: known}),
			}); err != nil {
			return err
		}
	}
	if e.settings.Profiles != "" {
		if err := e.profileOf(ctx, k.gateway, "handshakes", func() error {
			_, err := make(load.MakePlan{For: max(trial, time.Second), Together: concurrent})()
			return err
		}); err != nil {
			return err
		}
	}
	return nil
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
	}, (*operations).subsession,
		func(s *router.Stats) uint64 { return s.Rekeys },
		map[string]func() (load.Made, error){
			"gateway": func() (made load.Made, err error) {
				err = k.load.Call(ctx, "renew", e.settings.Trial, &made)
				return made, err
			},
		})
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
		row := report.Row{Subject: subject, Kind: report.Gateway, Units: sessions}
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
