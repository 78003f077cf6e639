package state

import (
	"container/heap"
	"time"
)

// Deadlines holds things by the time at which they want attention: a heap, so
// that nothing is ever found by scanning everything. The zero value is ready.
type Deadlines[T any] struct{ heap timers[T] }

// Timer is a place in Deadlines. It belongs to one thing and one Deadlines.
type Timer[T any] struct {
	Value T
	at    time.Time
	place int // in the heap, from 1; 0: not in it
}

// Set moves the timer to at; a zero time takes it out.
func (d *Deadlines[T]) Set(t *Timer[T], at time.Time) {
	switch {
	case t.place == 0 && at.IsZero():
	case t.place == 0:
		t.at = at
		heap.Push(&d.heap, t)
	case at.IsZero():
		heap.Remove(&d.heap, t.place-1)
		t.at = at
	case !at.Equal(t.at):
		t.at = at
		heap.Fix(&d.heap, t.place-1)
	}
}

// Next returns the earliest time, or zero when nothing waits.
func (d *Deadlines[T]) Next() time.Time {
	if len(d.heap) == 0 {
		return time.Time{}
	}
	return d.heap[0].at
}

// Pop takes out the earliest timer if its time has come.
func (d *Deadlines[T]) Pop(now time.Time) (value T, ok bool) {
	if len(d.heap) == 0 || now.Before(d.heap[0].at) {
		return value, false
	}
	t := heap.Pop(&d.heap).(*Timer[T])
	t.at = time.Time{}
	return t.Value, true
}

// Len returns the number of timers that wait.
func (d *Deadlines[T]) Len() int { return len(d.heap) }

type timers[T any] []*Timer[T]

func (h timers[T]) Len() int           { return len(h) }
func (h timers[T]) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timers[T]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i+1, j+1
}

func (h *timers[T]) Push(x any) {
	t := x.(*Timer[T])
	*h = append(*h, t)
	t.place = len(*h)
}

func (h *timers[T]) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	t.place = 0
	return t
}
