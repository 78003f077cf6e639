package state

import (
	"cmp"
	"container/heap"
	"io"
	"time"
)

// Deadlines is a priority queue of timers. The zero value is ready to use.
type Deadlines[T any] struct{ heap timers[T] }

// Timer is an entry of a Deadlines, and its Slot one of a Bag. It belongs to one value, one
// Deadlines and at most one Bag.
type Timer[T any] struct {
	Slot[T]
	at time.Time
}

// Set moves the timer to at; a zero time removes it.
func (d *Deadlines[T]) Set(t *Timer[T], at time.Time) {
	switch {
	case t.heap == 0 && at.IsZero():
	case t.heap == 0:
		t.at = at
		heap.Push(&d.heap, t)
	case at.IsZero():
		heap.Remove(&d.heap, int(t.heap)-1)
		t.at = at
	case !at.Equal(t.at):
		t.at = at
		heap.Fix(&d.heap, int(t.heap)-1)
	}
}

// Next returns the earliest time, or zero if no timer is set.
func (d *Deadlines[T]) Next() time.Time {
	if d.heap.n == 0 {
		return time.Time{}
	}
	return d.heap.first().at
}

// Pop removes the earliest timer if it is due.
func (d *Deadlines[T]) Pop(now time.Time) (value T, ok bool) {
	if d.heap.n == 0 || now.Before(d.heap.first().at) {
		return value, false
	}
	t := heap.Pop(&d.heap).(*Timer[T])
	t.at = time.Time{}
	return t.Value, true
}

// Len returns the number of timers set.
func (d *Deadlines[T]) Len() int { return d.heap.n }

// timers implements heap.Interface.
type timers[T any] struct{ blocks[*Timer[T]] }

func (h *timers[T]) first() *Timer[T] { return *h.at(0) }

func (h *timers[T]) Len() int           { return h.n }
func (h *timers[T]) Less(i, j int) bool { return (*h.at(i)).at.Before((*h.at(j)).at) }
func (h *timers[T]) Swap(i, j int) {
	a, b := h.at(i), h.at(j)
	*a, *b = *b, *a
	(*a).heap, (*b).heap = int32(i+1), int32(j+1)
}

func (h *timers[T]) Push(x any) {
	t := x.(*Timer[T])
	h.push(t)
	t.heap = int32(h.n)
}

func (h *timers[T]) Pop() any {
	t := h.pop()
	t.heap = 0
	return t
}

// earliest returns the earliest of times that is not zero, or zero.
func earliest(times ...time.Time) (first time.Time) {
	for _, at := range times {
		if !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}

// Retransmission over UDP (section 10): after 200 ms or twice the round trip, whichever
// is longer, then times 1.5 up to a second, each with up to a tenth of jitter.
const (
	firstRetry   = 200 * time.Millisecond
	longestRetry = time.Second
)

// backoff schedules retransmissions.
type backoff struct {
	rand    io.Reader
	longest time.Duration // 0: longestRetry
	wait    time.Duration
	at      time.Time
}

// start schedules the first retransmission.
func (b *backoff) start(now time.Time, rtt time.Duration) {
	b.wait = max(firstRetry, 2*rtt)
	b.at = now.Add(b.jittered())
}

// due reports whether a retransmission is due, and schedules the next one.
func (b *backoff) due(now time.Time) bool {
	if now.Before(b.at) {
		return false
	}
	b.wait = min(b.wait*3/2, max(cmp.Or(b.longest, longestRetry), b.wait))
	b.at = now.Add(b.jittered())
	return true
}

func (b *backoff) jittered() time.Duration {
	var r [1]byte
	if _, err := io.ReadFull(b.rand, r[:]); err != nil {
		return b.wait
	}
	return b.wait + b.wait*time.Duration(r[0])/(10*256)
}
