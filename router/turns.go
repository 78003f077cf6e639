package router

import "time"

// TurnBounds are the upper bounds of TurnTimes.Counts but for the last, which has none.
var TurnBounds = [...]time.Duration{
	20 * time.Microsecond, 50 * time.Microsecond, 100 * time.Microsecond, 200 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond,
}

// TurnTimes says how long the turns of a shard took, from the moment that the first of a
// batch was there to the last that was sent. A turn that takes long holds up all
// sessions of the shard.
type TurnTimes struct {
	Counts  [len(TurnBounds) + 1]uint64
	Sum     time.Duration
	Longest time.Duration
}

func (t *TurnTimes) add(took time.Duration) {
	i := 0
	for i < len(TurnBounds) && took > TurnBounds[i] {
		i++
	}
	t.Counts[i]++
	t.Sum += took
	t.Longest = max(t.Longest, took)
}
