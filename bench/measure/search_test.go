package measure

import (
	"context"
	"errors"
	"math"
	"testing"

	"pgregory.net/rapid"
)

// system loses everything above its capacity, and its sender has a limit too.
func system(capacity, sender float64) func(context.Context, float64) (Outcome, error) {
	return func(_ context.Context, rate float64) (Outcome, error) {
		sent := min(rate, sender)
		return Outcome{Sent: sent, Loss: max(0, (sent-capacity)/sent)}, nil
	}
}

func TestSearchFindsCapacity(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		capacity := rapid.Float64Range(1_000, 1e7).Draw(t, "capacity")
		sender := rapid.Float64Range(1_000, 1e7).Draw(t, "sender")
		s := Search{
			Start:     rapid.Float64Range(500, 5e6).Draw(t, "start"),
			Floor:     500,
			Ceiling:   2e7,
			Precision: rapid.Float64Range(0.01, 0.3).Draw(t, "precision"),
		}
		found, err := s.Run(t.Context(), system(capacity, sender))
		if err != nil {
			t.Fatal(err)
		}
		best := min(capacity, sender) * (1 + 2*MaxLoss) // what is lost within the limit
		if found.Rate > best || found.Rate < best/(1+s.Precision)/1.06 {
			t.Fatalf("found %.0f, %.0f is held", found.Rate, best)
		}
		if found.Loss > MaxLoss {
			t.Fatalf("a loss of %g counts as held", found.Loss)
		}
		if capacity > 1.1*sender && found.Bound != BoundSender {
			t.Fatalf("the sender was the limit, and the search says %q", found.Bound)
		}
		if sender > 1.5*capacity && found.Bound != "" {
			t.Fatalf("the system was the limit, and the search says %q", found.Bound)
		}
		if limit := tries * (20 + int(math.Log2(2e4)/math.Log2(1+s.Precision))); found.Trials > limit {
			t.Fatalf("%d trials", found.Trials)
		}
	})
}

func TestSearchStopsAtTheCeiling(t *testing.T) {
	found, err := Search{Start: 1000, Floor: 100, Ceiling: 5000, Precision: 0.05}.Run(t.Context(), system(1e9, 1e9))
	if err != nil || found.Rate != 5000 || found.Bound != BoundCeiling {
		t.Errorf("%+v, %v", found, err)
	}
}

func TestSearchWithoutSustainedRate(t *testing.T) {
	trials := 0
	_, err := Search{Start: 1e6, Floor: 100, Ceiling: 1e7, Precision: 0.05}.Run(t.Context(), func(_ context.Context, rate float64) (Outcome, error) {
		if trials++; trials > 100 {
			t.Fatal("the search does not end")
		}
		return Outcome{Sent: rate, Loss: 0.5}, nil
	})
	if !errors.Is(err, ErrNothingHeld) {
		t.Errorf("error %v", err)
	}
}

// A single loss may be caused by another program.
func TestSearchRepeatsAfterLoss(t *testing.T) {
	n := 0
	held := system(400_000, 1e9)
	found, err := Search{Start: 1000, Floor: 100, Ceiling: 1e7, Precision: 0.05}.Run(t.Context(), func(ctx context.Context, rate float64) (Outcome, error) {
		if n++; n%2 == 1 {
			return Outcome{Sent: rate, Loss: 0.2}, nil
		}
		return held(ctx, rate)
	})
	if err != nil || found.Rate < 370_000 || found.Rate > 401_000 {
		t.Errorf("%+v, %v", found, err)
	}
}

// A sender that was preempted a few times does not end the search.
func TestSearchRepeatsAfterSlowSender(t *testing.T) {
	asked := make(map[float64]int)
	able := system(400_000, 1e9)
	found, err := Search{Start: 1000, Floor: 100, Ceiling: 1e7, Precision: 0.05}.Run(t.Context(), func(ctx context.Context, rate float64) (Outcome, error) {
		if asked[rate]++; asked[rate] < tries-1 {
			return Outcome{Sent: rate / 10}, nil
		}
		return able(ctx, rate)
	})
	if err != nil || found.Rate < 370_000 || found.Rate > 401_000 || found.Bound != "" {
		t.Errorf("%+v, %v", found, err)
	}
}

func TestSearchEnds(t *testing.T) {
	broken := errors.New("the sink is gone")
	_, err := Search{Start: 1000, Floor: 100, Ceiling: 1e7, Precision: 0.05}.Run(t.Context(), func(context.Context, float64) (Outcome, error) {
		return Outcome{}, broken
	})
	if !errors.Is(err, broken) {
		t.Errorf("a trial's error became %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = Search{Start: 1000, Floor: 100, Ceiling: 1e7, Precision: 0.05}.Run(ctx, func(_ context.Context, rate float64) (Outcome, error) {
		cancel()
		return Outcome{Sent: rate}, nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
