package measure

import "time"

// The clock's origin, and what Go's own clock said there. Go's reads without a
// call into the kernel.
var began, origin = synchronize()

// synchronize reads both clocks at one moment, as nearly as it can: a process that was
// kept off its processor between the two would be out of step with all others by as
// much.
func synchronize() (at time.Time, shared int64) {
	best := time.Duration(-1)
	for range 100 {
		before := time.Now()
		now := sharedClock()
		if took := time.Since(before); best < 0 || took < best {
			best, at, shared = took, before.Add(took/2), now
		}
	}
	return at, shared
}

// Now returns nanoseconds of a clock that does not jump and that all processes of this
// machine share, so that one may take a time and another the difference.
func Now() int64 { return origin + int64(time.Since(began)) }
