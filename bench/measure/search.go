package measure

import (
	"context"
	"errors"
	"fmt"
	"math"
)

// MaxLoss is the part of what was sent that may be lost for a rate to count as held.
const MaxLoss = 0.001

// Outcome is what came of a trial at a rate.
type Outcome struct {
	Sent float64 // a second, which may be less than what was asked for
	Loss float64 // part of what was sent
}

// short is by how much a sender may miss its rate before it counts as the limit.
const short = 0.05

func (o Outcome) held() bool { return o.Loss <= MaxLoss }

func (o Outcome) limited(rate float64) bool { return o.Sent < rate*(1-short) }

// Search looks for the highest rate that a system holds.
type Search struct {
	Start     float64 // where to begin, a second
	Floor     float64 // a system that does not hold this holds nothing
	Ceiling   float64 // not to be exceeded
	Precision float64 // how far apart the last good and the first bad rate may lie, as in 0.05
}

// Found is the highest rate that was held.
type Found struct {
	Rate   float64 // a second, as it was sent
	Loss   float64 // at that rate
	Trials int
	// Bound is set where no rate was lost at: the sender could send no more, or the
	// ceiling was reached. The system may hold more than Rate.
	Bound string
}

// Why a search ended without a loss.
const (
	BoundSender  = "the sender could send no more"
	BoundCeiling = "no higher rate was tried"
)

// ErrNothingHeld means that the system lost at every rate.
var ErrNothingHeld = errors.New("it loses at every rate that was tried")

// tries is how often a rate is tried that the sender does not reach.
const tries = 4

// Run searches. trial sends at a rate and says what came of it. A rate at which
// something was lost is tried once more, one that the sender did not reach some times
// more, before that counts: on a machine with other things to do, it may be another
// program's doing.
func (s Search) Run(ctx context.Context, trial func(context.Context, float64) (Outcome, error)) (Found, error) {
	s.Floor = max(s.Floor, 1)
	s.Start = max(s.Start, s.Floor)
	var found Found
	good, bad := 0.0, math.Inf(1)
	try := func(rate float64) (held bool, o Outcome, err error) {
		var best Outcome
		lost := 0
		for range tries {
			if err = ctx.Err(); err != nil {
				return false, o, err
			}
			if o, err = trial(ctx, rate); err != nil {
				return false, o, err
			}
			found.Trials++
			switch {
			case !o.held():
				if lost++; lost == 2 {
					return false, o, nil
				}
			case !o.limited(rate):
				return true, o, nil
			case o.Sent > best.Sent:
				best = o
			}
		}
		if best.Sent > 0 {
			return true, best, nil
		}
		return false, o, nil
	}
	for rate := min(s.Start, s.Ceiling); ; rate = s.next(good, bad) {
		held, o, err := try(rate)
		if err != nil {
			return found, err
		}
		limited := o.limited(rate)
		switch {
		case held:
			if o.Sent > found.Rate {
				found.Rate, found.Loss = o.Sent, o.Loss
			}
			good = rate
		case limited: // it lost at what the sender could do, which is less than was asked for
			bad = min(bad, max(o.Sent, good*(1+s.Precision)))
		default:
			bad = min(bad, rate)
		}
		switch {
		case held && limited:
			found.Bound = BoundSender
			return found, nil
		case held && rate >= s.Ceiling:
			found.Bound = BoundCeiling
			return found, nil
		case good == 0 && bad <= s.Floor:
			return found, fmt.Errorf("%w, down to %.0f a second", ErrNothingHeld, bad)
		case good > 0 && bad/good <= 1+s.Precision:
			return found, nil
		}
	}
}

// next returns the rate to try between what was held and what was not.
func (s Search) next(good, bad float64) float64 {
	switch {
	case math.IsInf(bad, 1):
		return min(2*good, s.Ceiling)
	case good == 0:
		return max(bad/2, s.Floor)
	}
	return math.Sqrt(good * bad)
}
