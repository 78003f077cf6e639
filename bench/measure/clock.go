package measure

import "time"

// The clock's origin, and what Go's own clock said there. Go's reads without a
// call into the kernel.
var (
	began  = time.Now()
	origin = sharedClock()
)

// Now returns nanoseconds of a clock that does not jump and that all processes of this
// machine share, so that one may take a time and another the difference.
func Now() int64 { return origin + int64(time.Since(began)) }
