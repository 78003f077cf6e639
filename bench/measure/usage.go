package measure

import (
	"runtime"
	"runtime/debug"
	"time"
)

// Usage is what a process has used up to a moment, or between two.
type Usage struct {
	At       int64         `json:"at"`     // of the clock Now; between two: nanoseconds
	User     time.Duration `json:"user"`   // CPU time outside the kernel
	System   time.Duration `json:"system"` // CPU time inside it
	Mallocs  uint64        `json:"mallocs"`
	Heap     uint64        `json:"heap"`     // bytes of live and not yet collected objects; no difference
	Resident uint64        `json:"resident"` // bytes, 0 where the system does not say; no difference
}

// Self returns what this process has used so far.
func Self() Usage {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	user, system := processTimes()
	return Usage{
		At:       Now(),
		User:     user,
		System:   system,
		Mallocs:  m.Mallocs,
		Heap:     m.HeapAlloc,
		Resident: resident(),
	}
}

// Settle gives back all memory that is not in use, so that what is resident is what is
// needed.
func Settle() {
	runtime.GC() // finalizers run after the first
	debug.FreeOSMemory()
}

// Since returns what was used between two moments. Heap and Resident are those
// of the later.
func (u Usage) Since(before Usage) Usage {
	u.At -= before.At
	u.User -= before.User
	u.System -= before.System
	u.Mallocs -= before.Mallocs
	return u
}

// Add sums up what two processes have used in one time.
func (u Usage) Add(other Usage) Usage {
	u.At = max(u.At, other.At)
	u.User += other.User
	u.System += other.System
	u.Mallocs += other.Mallocs
	u.Heap += other.Heap
	u.Resident += other.Resident
	return u
}

// CPU is the CPU time, in and outside the kernel.
func (u Usage) CPU() time.Duration { return u.User + u.System }
