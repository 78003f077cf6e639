package measure

import (
	"runtime"
	"runtime/debug"
	"time"
)

// began and origin are the same moment on Go's clock and on the shared clock. Go's clock is read
// without a system call.
var began, origin = synchronize()

// synchronize reads both clocks. It keeps the reading that took least time, because a process that
// is preempted between the two reads would be out of step with the others.
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

// Now returns nanoseconds of a monotonic clock that all processes of this machine share: one
// process may take the start of an interval and another its end.
func Now() int64 { return origin + int64(time.Since(began)) }

// Usage is the resource usage of a process up to a moment, or between two.
type Usage struct {
	At       int64         `json:"at"`       // of Now; between two: nanoseconds
	CPU      time.Duration `json:"cpu"`      // user and system
	Mallocs  uint64        `json:"mallocs"`  // 0 for a process that is not a worker
	Heap     uint64        `json:"heap"`     // bytes of objects not yet collected; no difference
	Resident uint64        `json:"resident"` // bytes, 0 where unknown; no difference
}

// Self returns this process's usage so far.
func Self() Usage {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return Usage{At: Now(), CPU: selfCPU(), Mallocs: m.Mallocs, Heap: m.HeapAlloc, Resident: resident()}
}

// Settle returns unused memory to the system.
func Settle() {
	runtime.GC() // finalizers run after the first collection
	debug.FreeOSMemory()
}

// Since returns the usage between two moments. Heap and Resident are those of the later one.
func (u Usage) Since(before Usage) Usage {
	u.At -= before.At
	u.CPU -= before.CPU
	u.Mallocs -= before.Mallocs
	return u
}

// Add adds another process's usage in the same time.
func (u Usage) Add(other Usage) Usage {
	u.At = max(u.At, other.At)
	u.CPU += other.CPU
	u.Mallocs += other.Mallocs
	u.Heap += other.Heap
	u.Resident += other.Resident
	return u
}
