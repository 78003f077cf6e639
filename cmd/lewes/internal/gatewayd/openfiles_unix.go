//go:build unix

package gatewayd

import (
	"math"

	"golang.org/x/sys/unix"
)

// openFiles returns the process's limit on open files.
func openFiles() int {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil || uint64(l.Cur) > math.MaxInt32 {
		return math.MaxInt32
	}
	return int(l.Cur)
}
