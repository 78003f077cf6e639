package ratelimit

import (
	"testing"
	"time"
)

func TestRepeatsBecomeACount(t *testing.T) {
	var r Repeats
	now := time.Unix(1_000_000, 0)
	reported := 0
	for range 1000 {
		if _, ok := r.Add(now, 10); ok {
			reported++
		}
	}
	if reported != 10 || r.Idle(now.Add(RepeatInterval)) {
		t.Errorf("%d reports in a minute", reported)
	}
	if n := r.Flush(now.Add(RepeatInterval - 1)); n != 0 {
		t.Errorf("flushed %d before the minute was over", n)
	}
	now = now.Add(RepeatInterval)
	if n, ok := r.Add(now, 10); !ok || n != 990 {
		t.Errorf("the first of the next minute: %d skipped, reported %v", n, ok)
	}
	for range 10 {
		r.Add(now, 10)
	}
	now = now.Add(RepeatInterval)
	if n := r.Flush(now); n != 1 {
		t.Errorf("flushed %d after the minute, want 1", n)
	}
	if n := r.Flush(now.Add(RepeatInterval)); n != 0 || !r.Idle(now.Add(RepeatInterval)) {
		t.Errorf("flushed %d of nothing", n)
	}
}
