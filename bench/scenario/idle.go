package scenario

import (
	"context"
	"fmt"
	"time"

	"lewes/bench/gateway"
	"lewes/bench/load"
	"lewes/bench/measure"
	"lewes/bench/report"
	"lewes/bench/worker"
)

const (
	// chunk is how many sessions are made between two looks.
	chunk = 1000
	// resting is how long it takes until a session has let go of what only one in use
	// needs, with room.
	resting = 45 * time.Second
)

func idle(ctx context.Context, c *crew) error {
	b, sessions := c.bench, c.bench.settings.Sessions
	var at gateway.At
	g, err := c.start(ctx, roleGateway, gateway.Params{}, &at, worker.Where{})
	if err != nil {
		return err
	}
	l, err := c.start(ctx, roleLoad, load.Params{To: at.Addr, Gateway: &at.Identity}, nil, worker.Where{})
	if err != nil {
		return err
	}
	empty, err := g.Settle(ctx)
	if err != nil {
		return err
	}
	if empty.Resident == 0 {
		return fmt.Errorf("this system does not say how much memory a process has")
	}
	began := time.Now()
	for made := 0; made < sessions; {
		b.say("%d of %d sessions made", made, sessions)
		n := min(chunk, sessions-made)
		if err := l.Call(ctx, "make", load.MakePlan{Sessions: n, Together: together, Known: true, Forget: true}, nil); err != nil {
			return err
		}
		made += n
	}
	took := time.Since(began)
	group := report.Group{
		Scenario: b.doing,
		Title:    "Memory of sessions that rest",
		Unit:     "session",
		Notes: []string{
			fmt.Sprintf("resident memory of the gateway's process, after it gave back what it does not need; it was %d KiB without sessions", empty.Resident>>10),
			fmt.Sprintf("the sessions were made in %v; %s", took.Round(time.Second), handshakeNote),
		},
	}
	look := func(subject string) error {
		now, err := g.Settle(ctx)
		if err != nil {
			return err
		}
		group.Rows = append(group.Rows, report.Row{
			Subject:  subject,
			Kind:     report.Gateway,
			Units:    sessions,
			Resident: measure.Series{float64(now.Resident)}.Summary(),
			PerUnit:  measure.Series{(float64(now.Resident) - float64(empty.Resident)) / float64(sessions)}.Summary(),
		})
		return nil
	}
	if err := look("gateway, sessions just made"); err != nil {
		return err
	}
	if !b.settings.Quick {
		for left := resting; left > 0; left -= time.Second {
			b.say("waiting until the sessions rest, %v", left)
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Second):
			}
		}
		if err := look(restedSubject); err != nil {
			return err
		}
	}
	b.report.Groups = append(b.report.Groups, group)
	return nil
}

// restedSubject is the row that counts.
const restedSubject = "gateway, sessions at rest"
