package state

import (
	mathrand "math/rand/v2"
	"testing"
	"time"
)

// Deadlines grows and shrinks by whole blocks that never move, so that no insertion
// costs more than one allocation and one path through the heap.
func TestDeadlinesGrowWithoutCopying(t *testing.T) {
	const timerCount = 20 * timersPerBlock
	var d Deadlines[int]
	timers := make([]Timer[int], timerCount)
	var made []*timerBlock[int]
	for i := range timers {
		d.Set(&timers[i], epoch.Add(time.Duration(mathrand.Int64N(int64(time.Hour)))))
		if len(d.heap.blocks) > len(made)+1 {
			t.Fatalf("timer %d: %d blocks made at once", i, len(d.heap.blocks)-len(made))
		}
		if len(d.heap.blocks) > len(made) {
			made = append(made, d.heap.blocks[len(made)])
		}
	}
	if want := timerCount / timersPerBlock; len(made) != want {
		t.Fatalf("%d blocks for %d timers, want %d", len(made), timerCount, want)
	}
	for i, b := range d.heap.blocks {
		if b != made[i] {
			t.Errorf("block %d has moved", i)
		}
	}
	for range timers {
		if _, ok := d.Pop(epoch.Add(time.Hour)); !ok {
			t.Fatal("a timer is missing")
		}
		if spare := len(d.heap.blocks)*timersPerBlock - d.heap.n; spare >= 2*timersPerBlock {
			t.Fatalf("%d places stay allocated for %d timers", spare+d.heap.n, d.heap.n)
		}
	}
}
