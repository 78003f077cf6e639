package control

import (
	"sync"
	"time"
)

// A Throttle's answers may use a fiftieth of a processor, and throttleBurst at once.
const (
	throttleShare = 50
	throttleBurst = 100 * time.Millisecond
)

// Throttle bounds the processor time of long answers of all connections together. The zero Throttle is
// ready for use, by any goroutine.
type Throttle struct {
	mu   sync.Mutex
	paid time.Time // when the time used so far is paid for
}

// Spend accounts for time used until now, and returns the pause that has to follow.
func (t *Throttle) Spend(now time.Time, used time.Duration) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.paid.Before(now) {
		t.paid = now
	}
	t.paid = t.paid.Add(used * throttleShare)
	return max(0, t.paid.Sub(now)-throttleBurst*throttleShare)
}
