package measure

import (
	"testing"
	"time"
)

// spin works for as long as d.
func spin(d time.Duration) (n int) {
	for end := time.Now().Add(d); time.Now().Before(end); n++ {
	}
	return n
}

func TestUsageSeesWorkAndRest(t *testing.T) {
	before := Self()
	if spin(60*time.Millisecond) == 0 {
		t.Fatal("no work was done")
	}
	worked := Self().Since(before)
	before = Self()
	time.Sleep(60 * time.Millisecond)
	rested := Self().Since(before)
	if worked.CPU() <= rested.CPU() || worked.CPU() < 5*time.Millisecond {
		t.Errorf("work took %v of CPU time, rest %v", worked.CPU(), rested.CPU())
	}
	for _, u := range []Usage{worked, rested} {
		if u.At < int64(55*time.Millisecond) || u.At > int64(10*time.Second) {
			t.Errorf("60 ms are %v", time.Duration(u.At))
		}
	}
}

var kept [][]byte

func TestUsageSeesAllocations(t *testing.T) {
	before := Self()
	for range 1000 {
		b := make([]byte, 16<<10)
		for i := range b {
			b[i] = 1 // a page that nobody touched is not there
		}
		kept = append(kept, b)
	}
	used := Self().Since(before)
	if used.Mallocs < 1000 || used.Heap < before.Heap+15<<20 {
		t.Errorf("%d allocations, heap from %d to %d", used.Mallocs, before.Heap, used.Heap)
	}
	if used.Resident > 0 && used.Resident < 15<<20 {
		t.Errorf("16 MB in use and %d bytes resident", used.Resident)
	}
	kept = nil
	Settle()
	if after := Self(); after.Heap > used.Heap-15<<20 {
		t.Errorf("heap %d, after settling %d", used.Heap, after.Heap)
	}
}

func TestUsageOfTwoProcesses(t *testing.T) {
	a := Usage{At: 5, User: 1, System: 2, Mallocs: 3, Heap: 4, Resident: 5}
	b := Usage{At: 4, User: 10, System: 20, Mallocs: 30, Heap: 40, Resident: 50}
	if got, want := a.Add(b), (Usage{At: 5, User: 11, System: 22, Mallocs: 33, Heap: 44, Resident: 55}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
