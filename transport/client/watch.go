package client

import (
	"sync/atomic"
	"time"
)

// patience is the shortest time in which something must come from the gateway after
// something was sent, for the session not to be doubted.
const patience = time.Second

// watch looks, where an application sends, whether anything comes back. It costs a
// writer one load, and a timer each second.
type watch struct {
	since atomic.Int64 // of the first packet that it waits for an answer to, as Session.at has it; 0: of none
	timer *time.Timer
}

// sent starts the watch unless it goes already.
func (l *link) sent() {
	if l.watch.since.Load() == 0 {
		l.await(l.s.at(time.Now()))
	}
}

func (l *link) await(now time.Duration) {
	if l.watch.since.CompareAndSwap(0, max(int64(now), 1)) {
		l.watch.timer.Reset(patience)
	}
}

// look doubts the session if nothing has come since the watch began. A gateway that
// is asked for nothing sends nothing, so that the doubt, a Ping, is what tells.
func (l *link) look() {
	_ = l.with(func(now time.Time) {
		since := time.Duration(l.watch.since.Load())
		if rest := since + max(patience, 3*l.session.RTT()) - l.s.at(now); rest > 0 {
			l.watch.timer.Reset(rest)
			return
		}
		l.watch.since.Store(0)
		if since != 0 && l.s.at(l.session.LastOpened()) < since {
			l.doubt(now)
		}
	})
}
