package measure

import (
	"os"
	"runtime"
	"runtime/debug"
	"time"
)

// Usage is the resource usage of a process up to a moment, or between two.
type Usage struct {
	CPU      time.Duration `json:"cpu"`      // user and system
	Mallocs  uint64        `json:"mallocs"`  // 0 for a process that is not a worker
	Resident uint64        `json:"resident"` // bytes, 0 where unknown; no difference
}

// Self returns this process's usage so far.
func Self() Usage {
	u, _ := OfProcess(os.Getpid()) // zero on other systems
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u.Mallocs = m.Mallocs
	return u
}

// Settle returns unused memory to the system.
func Settle() {
	runtime.GC() // finalizers run after the first collection
	debug.FreeOSMemory()
}

// Since returns the usage between two moments. Resident is that of the later one.
func (u Usage) Since(before Usage) Usage {
	return Usage{u.CPU - before.CPU, u.Mallocs - before.Mallocs, u.Resident}
}

// Add adds another process's usage in the same time.
func (u Usage) Add(other Usage) Usage {
	return Usage{u.CPU + other.CPU, u.Mallocs + other.Mallocs, u.Resident + other.Resident}
}
