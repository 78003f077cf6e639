package router

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// A walk through a shard's table does its work in slices, each a batch of its own, so that others
// use the shard in between. Work is counted in units, each at most about a microsecond, and a slice
// ends with the step that uses up its units.
const (
	sliceUnits = 512
	visitUnits = 1  // to look at a value
	closeUnits = 16 // to end a session or flow and notify the client
	dropUnits  = 2  // to end a flow or an index binding with its session
	// socketUnits is the work to close a socket. A walk closes those that it discards once there
	// are many: closing them in its steps would exceed the units.
	socketUnits   = 10
	manyDiscarded = 2048
)

// step does a piece of a walk and returns its work in units, at least one; 0 ends the walk.
type step func(st *shardState) (units int)

// walk calls next in slices until it returns 0 or ctx ends.
func (s *Shard) walk(ctx context.Context, next step) {
	for more := true; more && ctx.Err() == nil; {
		more = false
		s.Do(func(now time.Time, st *shardState) {
			for left := sliceUnits; left > 0; {
				units := socketUnits
				if len(st.discarded) < manyDiscarded {
					if units = next(st); units == 0 {
						return
					}
				} else {
					st.closeDiscarded(now)
				}
				left -= units
			}
			more = true
		})
		runtime.Gosched() // a batch that waits for the lock gets it
	}
}

// walk walks all shards at a time. newStep returns the step of one shard, which counts in n; walk
// returns the sum of all counts.
func (g *Gateway) walk(ctx context.Context, newStep func(n *int) step) (sum int) {
	counts := make([]int, len(g.shards))
	var walks sync.WaitGroup
	for i, s := range g.shards {
		walks.Go(func() { s.walk(ctx, newStep(&counts[i])) })
	}
	walks.Wait()
	for _, n := range counts {
		sum += n
	}
	return sum
}
