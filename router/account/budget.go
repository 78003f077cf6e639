package account

import (
	"sync/atomic"
	"time"
)

// Budget is a token bucket that fills with time. Its zero value is full. It is safe for concurrent
// use.
type Budget struct {
	full atomic.Int64 // when it is full again, in Unix nanoseconds
}

// Take takes what needs the time refill to fill again from a budget that fills within depth. It
// takes nothing and reports false if too little is left.
func (b *Budget) Take(now time.Time, refill, depth time.Duration) bool {
	at := now.UnixNano()
	for {
		full := b.full.Load()
		next := max(full, at) + int64(refill)
		if next-at > int64(depth) {
			return false
		}
		if b.full.CompareAndSwap(full, next) {
			return true
		}
	}
}
