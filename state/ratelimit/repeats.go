package ratelimit

import "time"

// RepeatInterval is the interval in which a Repeats reports a bounded number of events.
const RepeatInterval = time.Minute

// Repeats bounds the reports of an event that repeats: the first events of a minute are reported, and the
// others are counted. The zero Repeats is ready for use. It is not safe for concurrent use.
type Repeats struct {
	began    time.Time // of the minute
	reported int       // in the minute
	skipped  uint64    // since the last report
}

// Add counts an event. It returns whether the event is one of the first burst of its minute, which are to be
// reported, and how many before it were not.
func (r *Repeats) Add(now time.Time, burst int) (skipped uint64, report bool) {
	if r.over(now) {
		r.began, r.reported = now, 0
	}
	if r.reported >= burst {
		r.skipped++
		return 0, false
	}
	skipped, r.skipped = r.skipped, 0
	r.reported++
	return skipped, true
}

// Flush returns how many events were not reported if the minute is over, and begins the next one.
func (r *Repeats) Flush(now time.Time) (skipped uint64) {
	if r.skipped == 0 || !r.over(now) {
		return 0
	}
	skipped, *r = r.skipped, Repeats{began: now, reported: 1}
	return skipped
}

// Idle reports whether the minute is over and every event was reported.
func (r *Repeats) Idle(now time.Time) bool { return r.skipped == 0 && r.over(now) }

func (r *Repeats) over(now time.Time) bool { return now.Sub(r.began) >= RepeatInterval }
