package measure

import (
	"time"

	"golang.org/x/sys/windows"
)

// processTimes returns the CPU time of all threads of this process.
func processTimes() (user, system time.Duration) {
	var created, exited, inKernel, outside windows.Filetime
	if windows.GetProcessTimes(windows.CurrentProcess(), &created, &exited, &inKernel, &outside) != nil {
		return 0, 0
	}
	ticks := func(f windows.Filetime) time.Duration {
		return time.Duration(uint64(f.HighDateTime)<<32|uint64(f.LowDateTime)) * 100
	}
	return ticks(outside), ticks(inKernel)
}
