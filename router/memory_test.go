package router

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// TestMemoryThresholds runs through a shortage: garbage does not count, and the start and the
// end are logged once.
func TestMemoryThresholds(t *testing.T) {
	core, logged := observer.New(zap.DebugLevel)
	var used, garbage uint64
	collected := 0
	m := memory{
		read:    func() (uint64, uint64) { return used + garbage, 1000 },
		collect: func() { collected++; garbage = 0 },
	}
	now := epoch
	for _, step := range []struct {
		after         time.Duration
		used, garbage uint64
		short         bool
		collected     int
		again         time.Duration
		lines         int
	}{
		{0, 100, 0, false, 0, memoryInterval, 0},
		{time.Second, 400, 500, false, 1, memoryInterval, 0},
		{time.Second, 400, 500, true, 1, memoryIntervalNear, 1}, // garbage, but so soon again
		{time.Second, 810, 0, true, 1, memoryIntervalNear, 1},
		{collectInterval, 790, 300, true, 2, memoryIntervalNear, 1},
		{time.Second, 740, 300, true, 2, memoryIntervalNear, 1},
		{collectInterval, 740, 300, false, 3, memoryIntervalNear, 2},
		{time.Second, 790, 0, false, 3, memoryIntervalNear, 2},
		{collectInterval, 801, 0, true, 4, memoryIntervalNear, 3},
		{time.Second, 100, 0, false, 4, memoryInterval, 4},
	} {
		now = now.Add(step.after)
		used, garbage = step.used, step.garbage
		again := m.look(now, zap.New(core))
		if m.short.Load() != step.short || collected != step.collected || again != step.again || logged.Len() != step.lines {
			t.Errorf("%+v: short %v, collected %d times, again after %v, %d lines", step, m.short.Load(), collected, again, logged.Len())
		}
	}
	m.read = func() (uint64, uint64) { return 1 << 40, 0 }
	if m.look(now.Add(time.Hour), zap.NewNop()); m.short.Load() {
		t.Error("memory without a limit is short")
	}
}

// TestReadMemory compares the values with the runtime's own.
func TestReadMemory(t *testing.T) {
	_, limit := readMemory()
	if limit != 0 {
		t.Skip("this test runs under a memory limit")
	}
	// What tests before this one have left behind goes first, or it goes meanwhile: its
	// finalizers take a round of their own.
	runtime.GC()
	time.Sleep(10 * time.Millisecond)
	debug.FreeOSMemory()
	before, _ := readMemory()
	last := debug.SetMemoryLimit(1 << 40)
	defer debug.SetMemoryLimit(last)
	block := make([]byte, 64<<20)
	for i := range block {
		block[i] = 1
	}
	during, limit := readMemory()
	if limit != 1<<40 {
		t.Errorf("the limit is %d", limit)
	}
	if grown := int64(during - before); grown < 50<<20 || grown > 80<<20 {
		t.Errorf("64 MiB more are %d MiB more", grown>>20)
	}
	runtime.KeepAlive(block)
	block = nil
	runtime.GC()
	if after, _ := readMemory(); int64(during-after) < 50<<20 {
		t.Errorf("%d MiB with 64 MiB, %d MiB after", during>>20, after>>20)
	}
}
