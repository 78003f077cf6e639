package pace

import (
	"context"
	"math"
	"runtime"
	"time"
)

const (
	// rest is the shortest sleep: within it, what is due gathers.
	rest = 100 * time.Microsecond
	// catchUp is how much lost time is made up for: a turn of another program on the
	// same core.
	catchUp = 4 * time.Millisecond
)

// Plan says how to send.
type Plan struct {
	Rate float64       // datagrams a second
	For  time.Duration // how long
	// Unit is how many leave together, as in a train; what is due is sent in whole
	// units. Most bounds what one call of send is given; 0 means Unit.
	Unit, Most int
}

// Result says what was sent.
type Result struct {
	Sent    uint64        `json:"sent"`
	Took    time.Duration `json:"took"`    // from the first to the last
	Skipped uint64        `json:"skipped"` // due, and not sent because the sender was late
}

// Rate returns how many were sent a second.
func (r Result) Rate() float64 {
	if r.Took <= 0 {
		return 0
	}
	return float64(r.Sent) / r.Took.Seconds()
}

// Run calls send with the number of datagrams that are due, a multiple of the unit, until the
// plan's time is over or ctx ends. send returns how many it has sent. Run keeps its
// thread for itself, so that it wakes on time.
func Run(ctx context.Context, p Plan, send func(n int) (int, error)) (Result, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	sharpen()
	unit := max(p.Unit, 1)
	most := max(p.Most/unit*unit, unit)
	var r Result
	start := time.Now()
	from := start // when the count of what is due began; moves when time is given up
	var done uint64
	for ctx.Err() == nil {
		now := time.Now()
		if now.Sub(start) >= p.For {
			break
		}
		due := uint64(p.Rate * now.Sub(from).Seconds())
		late := uint64(p.Rate*catchUp.Seconds()) + uint64(unit)
		if due > done+late {
			skip := due - done - late
			from = from.Add(time.Duration(float64(skip) / p.Rate * float64(time.Second)))
			r.Skipped += skip
			due -= skip
		}
		if n := int(due-done) / unit * unit; n > 0 {
			n = min(n, most)
			sent, err := send(n)
			r.Sent += uint64(sent)
			done += uint64(n)
			if err != nil {
				r.Took = time.Since(start)
				return r, err
			}
			continue
		}
		next := from.Add(time.Duration(math.Ceil(float64(done+uint64(unit)) / p.Rate * float64(time.Second))))
		wait := max(next.Sub(now), rest)
		sleep(min(wait, max(start.Add(p.For).Sub(now), 0)))
	}
	r.Took = time.Since(start)
	return r, ctx.Err()
}
