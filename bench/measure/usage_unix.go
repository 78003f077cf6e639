//go:build unix

package measure

import (
	"time"

	"golang.org/x/sys/unix"
)

// processTimes returns the CPU time of all threads of this process.
func processTimes() (user, system time.Duration) {
	var r unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &r) != nil {
		return 0, 0
	}
	return time.Duration(r.Utime.Nano()), time.Duration(r.Stime.Nano())
}
