package measure

import (
	"context"
	"errors"
	"fmt"
	"math"
)

// MaxLoss is the fraction of datagrams that may be lost at a sustained rate.
const MaxLoss = 0.001

// Outcome is the result of a trial at a rate.
type Outcome struct {
	Sent float64 // per second, which may be less than requested
	Loss float64 // fraction of the sent datagrams
}

// tolerance is how far a sender may miss its rate before it counts as the limit.
const tolerance = 0.05

func (o Outcome) held() bool { return o.Loss <= MaxLoss }

func (o Outcome) limited(rate float64) bool { return o.Sent < rate*(1-tolerance) }

// Search finds the highest rate that a system sustains.
type Search struct {
	Start, Floor, Ceiling float64 // the first, lowest and highest rate to try, per second
	Precision             float64 // largest relative distance between the last good and the first bad rate
}

// Found is the highest sustained rate.
type Found struct {
	Rate   float64 // per second, as sent
	Loss   float64 // at that rate
	Trials int
	Bound  string // why the search ended without loss: the system may sustain more than Rate
}

// Reasons why a search ended without loss.
const (
	BoundSender  = "the load was the limit"
	BoundCeiling = "the highest rate of the search"
)

// ErrNothingHeld means that the system lost datagrams at every rate.
var ErrNothingHeld = errors.New("measure: loss at every rate")

// tries is how often a rate is tried that the sender does not reach.
const tries = 4

// Run searches. trial sends at a rate. A rate with loss is tried twice, and one that the sender
// does not reach is tried again several times: another program may have been the cause.
func (s Search) Run(ctx context.Context, trial func(context.Context, float64) (Outcome, error)) (found Found, err error) {
	s.Floor = max(s.Floor, 1)
	good, bad := 0.0, math.Inf(1)
	for rate := min(max(s.Start, s.Floor), s.Ceiling); ; rate = s.next(good, bad) {
		o, n, err := try(ctx, rate, trial)
		found.Trials += n
		if err != nil {
			return found, err
		}
		held, limited := o.held(), o.limited(rate)
		switch {
		case held:
			if o.Sent > found.Rate {
				found.Rate, found.Loss = o.Sent, o.Loss
			}
			good = rate
		case limited: // loss at the rate that the sender reached
			bad = min(bad, max(o.Sent, good*(1+s.Precision)))
		default:
			bad = min(bad, rate)
		}
		switch {
		case held && limited:
			found.Bound = BoundSender
		case held && rate >= s.Ceiling:
			found.Bound = BoundCeiling
		case good == 0 && bad <= s.Floor:
			return found, fmt.Errorf("%w, down to %.0f per second", ErrNothingHeld, bad)
		case good == 0 || bad/good > 1+s.Precision:
			continue
		}
		return found, nil
	}
}

// try tries a rate until the outcome counts, and returns the number of trials.
func try(ctx context.Context, rate float64, trial func(context.Context, float64) (Outcome, error)) (best Outcome, n int, err error) {
	lost := 0
	for n = 1; n <= tries; n++ {
		if err := ctx.Err(); err != nil {
			return best, n, err
		}
		o, err := trial(ctx, rate)
		if !o.held() {
			lost++
		}
		switch {
		case err != nil, o.held() && !o.limited(rate), lost == 2, n == tries && best.Sent == 0:
			return o, n, err
		case o.held() && o.Sent > best.Sent:
			best = o
		}
	}
	return best, tries, nil
}

// next returns the rate to try between a good and a bad one.
func (s Search) next(good, bad float64) float64 {
	switch {
	case math.IsInf(bad, 1):
		return min(2*good, s.Ceiling)
	case good == 0:
		return max(bad/2, s.Floor)
	}
	return math.Sqrt(good * bad)
}
