package measure

import (
	"testing"
	"time"
)

// However often a process starts, its clock is in step with the shared one.
func TestClockIsInStep(t *testing.T) {
	for range 50 {
		at, shared := synchronize()
		var off time.Duration
		for i := range 200 { // the nearest of several looks: one may have been interrupted
			before := time.Now()
			now := sharedClock()
			after := time.Now()
			expected := shared + int64(before.Add(after.Sub(before)/2).Sub(at))
			if d := time.Duration(now - expected).Abs(); i == 0 || d < off {
				off = d
			}
		}
		if off > 2*time.Microsecond {
			t.Fatalf("out of step by %v", off)
		}
	}
}

func TestClockGoesOn(t *testing.T) {
	before := Now()
	time.Sleep(5 * time.Millisecond)
	if d := time.Duration(Now() - before); d < 5*time.Millisecond || d > 5*time.Second {
		t.Errorf("5 ms are %v", d)
	}
}
