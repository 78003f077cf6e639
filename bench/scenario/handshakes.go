package scenario

import (
	"context"
	"fmt"
	"sync"
	"time"

	"lewes/bench/gateway"
	"lewes/bench/load"
	"lewes/bench/measure"
	"lewes/bench/operations"
	"lewes/bench/report"
	"lewes/bench/worker"
	"lewes/router"
)

// together is how many handshakes are under way at once when a gateway is to be busy.
const together = 32

// settling is how long a gateway is given to finish what clients have given up.
const settling = 100 * time.Millisecond

// keys measures what public-key operations a gateway does: how many, and what each takes of its
// CPU time, beside the operations themselves.
type keys struct {
	bench      *Bench
	gateway    *worker.Process
	operations *worker.Process
	load       *worker.Process
}

func handshakes(ctx context.Context, c *crew) error {
	k, at, err := c.keys(ctx)
	if err != nil {
		return err
	}
	for _, known := range []bool{false, true} {
		title := "Handshakes, with the exchange of the KEM key"
		if known {
			title = "Handshakes of clients that know the KEM key"
		}
		if err := k.handshakes(ctx, title, known); err != nil {
			return err
		}
	}
	return c.underFlood(ctx, at)
}

// keys starts a gateway with all its shards, a load, and who measures the operations.
func (c *crew) keys(ctx context.Context) (*keys, gateway.At, error) {
	k := &keys{bench: c.bench}
	var at gateway.At
	var err error
	if k.gateway, err = c.start(ctx, roleGateway, gateway.Params{}, &at, worker.Where{}); err != nil {
		return nil, at, err
	}
	if k.operations, err = c.start(ctx, roleOperations, worker.None{}, nil, worker.Where{}); err != nil {
		return nil, at, err
	}
	k.load, err = c.start(ctx, roleLoad, load.Params{To: at.Addr, Gateway: &at.Identity}, nil, worker.Where{})
	return k, at, err
}

// done is what a gateway has counted.
func (k *keys) done(ctx context.Context) (s router.Stats, err error) {
	time.Sleep(settling)
	err = k.gateway.Call(ctx, "stats", worker.None{}, &s)
	return s, err
}

// round asks the load for something, counts what the gateway did, and notes what each
// cost.
func (k *keys) round(ctx context.Context, f *figures, work func() (measure.Delays, time.Duration, error), counted func(*router.Stats) uint64) error {
	before, err := k.done(ctx)
	if err != nil {
		return err
	}
	used, err := k.gateway.Usage(ctx)
	if err != nil {
		return err
	}
	loaded, err := k.load.Usage(ctx)
	if err != nil {
		return err
	}
	delays, took, err := work()
	if err != nil {
		return err
	}
	after, err := k.done(ctx)
	if err != nil {
		return err
	}
	usedAfter, err := k.gateway.Usage(ctx)
	if err != nil {
		return err
	}
	loadedAfter, err := k.load.Usage(ctx)
	if err != nil {
		return err
	}
	n := float64(counted(&after) - counted(&before))
	if n == 0 {
		return errNotMeasured
	}
	used, loaded = usedAfter.Since(used), loadedAfter.Since(loaded)
	per := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) / n }
	f.max = append(f.max, n/took.Seconds())
	f.cpu = append(f.cpu, per(used.CPU()))
	f.user = append(f.user, per(used.User))
	f.system = append(f.system, per(used.System))
	f.allocs = append(f.allocs, float64(used.Mallocs)/n)
	f.loadCPU = append(f.loadCPU, per(loaded.CPU()))
	f.noteDelays(delays)
	return nil
}

// alone notes what the operations cost without a gateway.
func (k *keys) alone(ctx context.Context, f *figures, sum func(*operations.Costs) time.Duration) error {
	var costs operations.Costs
	if err := k.operations.Call(ctx, "measure", k.bench.settings.Trial, &costs); err != nil {
		return err
	}
	micros := float64(sum(&costs)) / float64(time.Microsecond)
	f.cpu = append(f.cpu, micros)
	f.user = append(f.user, micros)
	return nil
}

// handshakes measures them with the gateway busy, and one at a time.
func (k *keys) handshakes(ctx context.Context, title string, known bool) error {
	b := k.bench
	alone := &rig{row: report.Row{Subject: "its public-key operations", Kind: report.Operations}}
	busy := &rig{row: report.Row{Subject: "gateway", Kind: report.Gateway}}
	single := &rig{row: report.Row{Subject: "gateway, one at a time", Kind: report.Gateway}}
	rigs := []*rig{alone, busy, single}
	for round := range b.settings.Rounds + 1 {
		b.each(ctx, rigs, fmt.Sprintf("known KEM key %v, %d of %d", known, round, b.settings.Rounds), func(r *rig) error {
			if round <= 1 { // the first is thrown away
				r.figures = figures{}
			}
			if r == alone {
				return k.alone(ctx, &r.figures, func(c *operations.Costs) time.Duration { return c.Handshake(known) })
			}
			plan := load.MakePlan{For: b.settings.Trial, Together: together, Known: known, Forget: true}
			if r == single {
				plan.Together = 1
			}
			return k.round(ctx, &r.figures, func() (measure.Delays, time.Duration, error) {
				var made load.Made
				err := k.load.Call(ctx, "make", plan, &made)
				return made.Delays, plan.For, err
			}, func(s *router.Stats) uint64 { return s.Handshakes.Established })
		})
	}
	g := report.Group{
		Scenario: b.doing,
		Title:    title,
		Unit:     "handshake",
		Notes:    []string{"the gateway's budget of handshakes a source is raised; " + count(together, "handshake") + " are under way at once; delays are the client's, from its first packet to the gateway's last"},
	}
	for _, r := range rigs {
		if !r.dropped {
			g.Rows = append(g.Rows, r.fill())
		}
	}
	b.report.Groups = append(b.report.Groups, g)
	if b.settings.Profiles != "" && !known {
		return k.profile(ctx, "handshakes", func() error {
			return k.load.Call(ctx, "make", load.MakePlan{For: max(b.settings.Trial, time.Second), Together: together, Forget: true}, nil)
		})
	}
	return ctx.Err()
}

// profile takes a profile of the gateway during some work.
func (k *keys) profile(ctx context.Context, name string, work func() error) error {
	file := k.bench.profileFile(name, "gateway", 0)
	if err := k.gateway.StartProfile(ctx, file); err != nil {
		return err
	}
	err := work()
	if stopped := k.gateway.StopProfile(ctx); err == nil {
		err = stopped
	}
	if err == nil {
		k.bench.report.Profiles = append(k.bench.report.Profiles, file)
	}
	return err
}

// floodRate is what a session carries while others are made.
const floodRate = 20_000

// underFlood measures what handshakes do to a session that stands.
func (c *crew) underFlood(ctx context.Context, at gateway.At) error {
	b := c.bench
	quiet, target, err := c.rigWith(ctx, report.Row{Subject: "without handshakes", Kind: report.Gateway}, outward)
	if err != nil {
		return err
	}
	params := load.Params{To: at.Addr, Gateway: &at.Identity}
	if quiet.load, err = c.start(ctx, roleLoad, params, nil, worker.Where{}); err != nil {
		return err
	}
	if err := c.connect(ctx, quiet, load.ConnectPlan{Sessions: 1}); err != nil {
		return err
	}
	if err := c.open(ctx, quiet, target, 1); err != nil {
		return err
	}
	quiet.train = 8
	flood := *quiet
	flood.row.Subject = "while new sessions are made"
	flooder, err := c.start(ctx, roleLoad, params, nil, worker.Where{})
	if err != nil {
		return err
	}
	rigs := []*rig{quiet, &flood}
	for round := range b.settings.Rounds + 1 {
		b.each(ctx, rigs, fmt.Sprintf("datagrams beside, %d of %d", round, b.settings.Rounds), func(r *rig) error {
			var made load.Made
			var making sync.WaitGroup
			var failed error
			if r == &flood {
				making.Go(func() {
					failed = flooder.Call(ctx, "make", load.MakePlan{For: b.settings.Trial + settling, Together: together, Forget: true}, &made)
				})
				time.Sleep(settling / 2)
			}
			t, err := b.try(ctx, r, floodRate, b.settings.Trial)
			if making.Wait(); err == nil {
				err = failed
			}
			if err == nil && round > 0 { // the first is thrown away
				r.note(t)
				r.cpu, r.user, r.system, r.allocs = nil, nil, nil, nil // of both kinds of work
				if made.Sessions > 0 {
					r.max = append(r.max, made.Rate())
				}
			}
			return err
		})
	}
	g := report.Group{
		Scenario: b.doing,
		Title:    "Datagrams of a session that stands, while others are made",
		Unit:     "datagram",
		Payload:  payloadSize,
		Notes:    []string{fmt.Sprintf("%d datagrams a second; what is under max/s are the handshakes beside them", floodRate)},
	}
	for _, r := range rigs {
		if !r.dropped {
			g.Rows = append(g.Rows, r.fill())
		}
	}
	b.report.Groups = append(b.report.Groups, g)
	return ctx.Err()
}

// renewing is how many sessions renew their keys at once.
const renewing = 64

func subsessions(ctx context.Context, c *crew) error {
	b := c.bench
	k, _, err := c.keys(ctx)
	if err != nil {
		return err
	}
	if err := k.load.Call(ctx, "connect", load.ConnectPlan{Sessions: renewing, Known: true}, nil); err != nil {
		return err
	}
	alone := &rig{row: report.Row{Subject: "its public-key operations", Kind: report.Operations}}
	busy := &rig{row: report.Row{Subject: "gateway", Kind: report.Gateway}}
	rigs := []*rig{alone, busy}
	for round := range b.settings.Rounds + 1 {
		b.each(ctx, rigs, fmt.Sprintf("%d of %d", round, b.settings.Rounds), func(r *rig) error {
			if round <= 1 { // the first is thrown away
				r.figures = figures{}
			}
			if r == alone {
				return k.alone(ctx, &r.figures, (*operations.Costs).Subsession)
			}
			return k.round(ctx, &r.figures, func() (measure.Delays, time.Duration, error) {
				var renewed load.Renewed
				err := k.load.Call(ctx, "renew", load.RenewPlan{For: b.settings.Trial}, &renewed)
				return renewed.Delays, renewed.Took, err
			}, func(s *router.Stats) uint64 { return s.Rekeys })
		})
	}
	g := report.Group{
		Scenario: b.doing,
		Title:    "Subsessions: new keys for " + count(renewing, "session"),
		Unit:     "subsession",
		Notes:    []string{"each session renews its keys as soon as it has; delays are the client's, from its first packet to the gateway's Ack under the new keys"},
	}
	for _, r := range rigs {
		if !r.dropped {
			g.Rows = append(g.Rows, r.fill())
		}
	}
	b.report.Groups = append(b.report.Groups, g)
	return ctx.Err()
}
