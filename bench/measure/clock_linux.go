package measure

import (
	"time"

	"golang.org/x/sys/unix"
)

// sharedClock reads the clock that counts from the start of the machine.
func sharedClock() int64 {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) != nil {
		return time.Now().UnixNano()
	}
	return t.Nano()
}
