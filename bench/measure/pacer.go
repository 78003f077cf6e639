package measure

import (
	"context"
	"math"
	"runtime"
	"time"
)

const (
	// shortestSleep lets datagrams that are due accumulate.
	shortestSleep = 100 * time.Microsecond
	// catchUp bounds the lost time that is made up for: a time slice of another program on the
	// same core.
	catchUp = 4 * time.Millisecond
)

// Pacer sends at a set rate, in small bursts. It never makes up for much lost time with a large
// burst: a sender that was preempted sends less and reports that.
type Pacer struct {
	Rate float64       // datagrams per second
	For  time.Duration // duration
	// Unit is the number of datagrams that are sent together, as in a GSO train. Most bounds one
	// call of send; 0 means Unit.
	Unit, Most int
}

// Plan describes the datagrams to send.
type Plan struct {
	Run  uint32        `json:"run"`
	Rate float64       `json:"rate"` // datagrams per second, over all flows
	For  time.Duration `json:"for"`
	Size int           `json:"size"` // bytes of payload, at least HeaderSize
	// Train is the number of consecutive datagrams of one flow. They may leave as one GSO train
	// unless Single is set.
	Train  int  `json:"train"`
	Single bool `json:"single"`
}

// Sent is the result of a Pacer.
type Sent struct {
	Sent    uint64        `json:"sent"`
	Took    time.Duration `json:"took"`
	Skipped uint64        `json:"skipped"` // due but not sent, because the sender was late
}

// Rate returns the datagrams sent per second.
func (r Sent) Rate() float64 {
	if r.Took <= 0 {
		return 0
	}
	return float64(r.Sent) / r.Took.Seconds()
}

// Run calls send with the number of datagrams that are due, a multiple of Unit, until For has
// passed or ctx ends, but at least once if a unit is due in that time. send returns how many it
// has sent. Run keeps its thread to itself, so that it wakes on time.
func (p Pacer) Run(ctx context.Context, send func(n int) (int, error)) (Sent, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	sharpen()
	unit := max(p.Unit, 1)
	most := max(p.Most/unit*unit, unit)
	var r Sent
	start := time.Now()
	from := start // moves when lost time is given up
	var done uint64
	for ctx.Err() == nil {
		now := time.Now()
		if now.Sub(start) >= p.For && (done > 0 || p.Rate*p.For.Seconds() < float64(unit)) {
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
		wait := max(next.Sub(now), shortestSleep)
		sleep(min(wait, max(start.Add(p.For).Sub(now), 0)))
	}
	r.Took = time.Since(start)
	return r, ctx.Err()
}
