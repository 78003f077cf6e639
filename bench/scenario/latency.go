package scenario

import (
	"context"
	"fmt"

	"lewes/bench/report"
	"lewes/crypto/seal"
)

// probeRate is how many datagrams a second find an idle gateway: few enough that each
// wakes it.
const probeRate = 2000

// half is the part of the highest rate at which a subject counts as half loaded.
const half = 0.5

func latency(ctx context.Context, c *crew) error {
	b := c.bench
	g := c.gather(ctx)
	g.add("nothing between")(c.direct(ctx))
	for _, suite := range []seal.Suite{0, best()} {
		g.add("the loop")(c.loop(ctx, outward, loopOptions{suite: suite}))
	}
	g.add("gateway")(c.gateway(ctx, outward, gatewayOptions{suite: best()}))
	g.add(wireGuard)(c.wireguard(ctx, outward, false))
	g.add("masque-go")(c.masque(ctx, outward))

	b.alone(ctx, g.rigs)
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, r := range g.rigs {
		r.figures = figures{dropped: r.dropped}
	}
	return b.halfLoaded(ctx, g.rigs)
}

// alone measures single datagrams.
func (b *Bench) alone(ctx context.Context, rigs []*rig) {
	group := report.Group{
		Scenario: b.doing,
		Title:    "Delay, idle",
		Unit:     "datagram",
		Payload:  payloadSize,
		Notes:    []string{fmt.Sprintf("%d datagrams a second, each by itself: whoever is on the way is asleep when one comes", probeRate)},
	}
	trains := make([]int, len(rigs))
	for i, r := range rigs {
		trains[i], r.train = r.train, 1
	}
	for round := range b.settings.Rounds + 1 {
		b.each(ctx, rigs, fmt.Sprintf("idle, %d of %d", round, b.settings.Rounds), func(r *rig) error {
			t, err := b.try(ctx, r, probeRate, b.settings.Trial)
			if err == nil && round > 0 { // the first is thrown away
				r.note(t)
			}
			return err
		})
	}
	for i, r := range rigs {
		r.train = trains[i]
		if !r.dropped && len(r.at) > 0 {
			row := r.row
			group.Rows = append(group.Rows, r.fill())
			r.row = row
		}
	}
	if len(group.Rows) > 0 {
		b.report.Groups = append(b.report.Groups, group)
	}
}

// halfLoaded measures what comes through each at half of what it holds.
func (b *Bench) halfLoaded(ctx context.Context, rigs []*rig) error {
	b.each(ctx, rigs, "looking for the highest rate", func(r *rig) error { return b.search(ctx, r) })
	for round := range b.settings.Rounds {
		b.each(ctx, rigs, fmt.Sprintf("half loaded, %d of %d", round+1, b.settings.Rounds), func(r *rig) error {
			t, err := b.try(ctx, r, half*r.max[0], b.settings.Trial)
			if err == nil {
				r.note(t)
			}
			return err
		})
	}
	group := report.Group{
		Scenario: b.doing,
		Title:    "Delay, half loaded",
		Unit:     "datagram",
		Payload:  payloadSize,
		Notes:    []string{"each at half of the highest rate that it holds, which differs; of each train, the delay of the first datagram counts, from before the train was sealed"},
	}
	for _, r := range rigs {
		if !r.dropped && len(r.at) > 0 {
			group.Rows = append(group.Rows, r.fill())
		}
	}
	if len(group.Rows) > 0 {
		b.report.Groups = append(b.report.Groups, group)
	}
	return ctx.Err()
}
