package pace

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestRateIsKept(t *testing.T) {
	for _, plan := range []Plan{
		{Rate: 1000, For: 100 * time.Millisecond},
		{Rate: 50_000, For: 100 * time.Millisecond, Unit: 52},
		{Rate: 1_000_000, For: 100 * time.Millisecond, Unit: 52, Most: 500},
		{Rate: 10, For: 50 * time.Millisecond, Unit: 64}, // less than one unit in that time
	} {
		largest, calls := 0, 0
		r, err := Run(t.Context(), plan, func(n int) (int, error) {
			largest, calls = max(largest, n), calls+1
			if n%max(plan.Unit, 1) != 0 {
				t.Errorf("%+v: %d at once, which are no whole units", plan, n)
			}
			return n, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		want := plan.Rate * plan.For.Seconds()
		slack := float64(max(plan.Unit, 1)) + 0.01*want
		if all := float64(r.Sent + r.Skipped); all > want+slack+plan.Rate*rest.Seconds() || all < want-slack-plan.Rate*0.02 {
			t.Errorf("%+v: %d sent and %d skipped, %.0f were due", plan, r.Sent, r.Skipped, want)
		}
		if largest > max(plan.Most, plan.Unit, 1) {
			t.Errorf("%+v: %d at once", plan, largest)
		}
		if r.Took < plan.For || r.Took > plan.For+200*time.Millisecond {
			t.Errorf("%+v: took %v", plan, r.Took)
		}
	}
}

// A sender that cannot keep up falls behind; it does not flood once it can.
func TestNoFloodAfterADelay(t *testing.T) {
	const rate = 100_000
	var after []int
	first := true
	r, err := Run(t.Context(), Plan{Rate: rate, For: 200 * time.Millisecond, Most: 1 << 20}, func(n int) (int, error) {
		if first {
			first = false
			time.Sleep(100 * time.Millisecond)
		} else {
			after = append(after, n)
		}
		return n, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(after) == 0 {
		t.Fatal("nothing was sent after the delay")
	}
	if most := int(rate*catchUp.Seconds()) + 1; after[0] > most {
		t.Errorf("%d at once after the delay, at most %d are right", after[0], most)
	}
	if r.Skipped < rate*0.09 {
		t.Errorf("%d are said to have been skipped of about %d", r.Skipped, int(rate*0.098))
	}
	if got := r.Rate(); got > rate*0.6 {
		t.Errorf("a rate of %.0f for half the time", got)
	}
}

func TestRunEnds(t *testing.T) {
	broken := errors.New("socket closed")
	if _, err := Run(t.Context(), Plan{Rate: 1e6, For: time.Minute}, func(int) (int, error) { return 0, broken }); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Run(ctx, Plan{Rate: 1000, For: time.Minute}, func(n int) (int, error) { return n, nil }); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}
