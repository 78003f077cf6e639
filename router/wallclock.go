package router

import (
	"context"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// How the clock by which clients' times are judged follows the system's (section 4
// of PROTOCOL.md).
const (
	clockEvery  = time.Second
	clockSteady = time.Second // the system's clock has jumped when it is off by more
	clockSettle = time.Minute // before a jump is believed
)

// wallClock follows the system's clock for judging the times that clients name. The
// gateway's own clock starts at the system's time and is monotonic from there: no
// deadline and no key depends on what becomes of the system's. Where that is set to
// another time and stays there, the difference is the correction here. Forwards it
// is taken at once; backwards at half the speed of time, so that a time that was over
// never comes again, and with it none of the handshakes that somebody has kept.
type wallClock struct {
	correction atomic.Int64 // nanoseconds
	jumps      atomic.Uint64

	// Of the goroutine that looks.
	looked time.Time     // by the gateway's clock
	offset time.Duration // of the system's clock from the gateway's
	since  time.Time     // by the gateway's clock
}

// corrected returns the time that clients' are compared with.
func (w *wallClock) corrected(now time.Time) time.Time {
	return now.Add(time.Duration(w.correction.Load()))
}

// lead returns how far the time that clients' are compared with is ahead of the system's.
// A successor, whose clock starts at the system's, goes on from there.
func (w *wallClock) lead(now, system time.Time) time.Duration {
	return max(0, w.corrected(now.Round(0)).Sub(system.Round(0)))
}

// look compares the gateway's clock with the system's.
func (w *wallClock) look(now, system time.Time, log *zap.Logger) {
	offset := system.Round(0).Sub(now.Round(0))
	elapsed := now.Sub(w.looked)
	w.looked = now
	if change := offset - w.offset; change.Abs() > clockSteady {
		w.offset, w.since = offset, now
		w.jumps.Add(1)
		log.Warn("the system's clock has jumped; sessions are not touched, and the times of new handshakes are judged by it once it has settled", zap.Duration("by", change))
	}
	if now.Sub(w.since) < clockSettle {
		return
	}
	applied := time.Duration(w.correction.Load())
	if ahead := applied - w.offset; ahead <= 0 {
		applied = w.offset
	} else {
		applied -= min(ahead, elapsed/2)
	}
	w.correction.Store(int64(applied))
}

// watchClock looks until ctx is done.
func (g *Gateway) watchClock(ctx context.Context) {
	g.wall.looked = g.config.Clock()
	for sleep(ctx, clockEvery) {
		g.wall.look(g.config.Clock(), g.config.Wall(), g.log)
	}
}
