package state

import (
	mathrand "math/rand/v2"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stall is the longest time that one step of a shard's bookkeeping may take.
const stall = 2 * time.Millisecond

// spent returns the processor time of this thread: what the machine does meanwhile for
// others is not counted, what the collector asks of this goroutine is.
func spent(t *testing.T) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// longest runs step n times and returns the longest that a few of them took together, and
// which.
func longest(t *testing.T, n int, step func(i int)) (most time.Duration, which int) {
	const few = 16
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := spent(t)
	for i := range n {
		step(i)
		if i%few > 0 {
			continue
		}
		now := spent(t)
		if d := now - before; d > most {
			most, which = d, i
		}
		before = now
	}
	return most, which
}

// Many sessions come and go without one of them costing the others a stall: neither the
// table of indexes nor the deadlines are ever copied or cleared as a whole.
func TestGrowthDoesNotStall(t *testing.T) {
	for try := range 5 {
		worst := growth(t)
		if worst <= stall {
			return
		}
		t.Logf("try %d: %v; a machine that is busy with others may charge us for them", try, worst)
	}
	t.Errorf("sessions that come and go take more than %v at a time", stall)
}

// growth returns the longest that a few steps took together.
func growth(t *testing.T) (worst time.Duration) {
	const sessions = 600_000 // the table has then grown beyond a million places
	// Memory that was in use before is cleared first, which costs time.
	for range 4 {
		used := make([]*int, 16<<20)
		used[len(used)/2] = new(int)
		runtime.KeepAlive(used)
	}
	runtime.GC()
	measure := func(what string, step func(i int)) {
		d, which := longest(t, sessions, step)
		t.Logf("%s: at most %v, at the %d.", what, d, which)
		worst = max(worst, d)
	}
	generation := &Generation{}
	table := NewSessions(0x9E3779B9)
	indexes := make([]uint32, sessions)
	for i := range indexes {
		indexes[i] = mathrand.Uint32() | 1
	}
	measure("adding an index", func(i int) {
		table.Apply(Event{Kind: IndexAdded, Index: indexes[i], Generation: generation})
	})
	measure("removing an index", func(i int) {
		table.Apply(Event{Kind: IndexRemoved, Index: indexes[i], Generation: generation})
	})
	var deadlines Deadlines[int]
	timers := make([]Timer[int], sessions)
	measure("setting a deadline", func(i int) {
		deadlines.Set(&timers[i], epoch.Add(time.Duration(mathrand.Int64N(int64(time.Hour)))))
	})
	measure("a deadline that has come", func(int) { deadlines.Pop(epoch.Add(time.Hour)) })
	return worst
}
