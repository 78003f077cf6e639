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
	if d.heap.n == 0 {
		return time.Time{}
	}
	return d.heap.first().at
}

// Pop takes out the earliest timer if its time has come.
func (d *Deadlines[T]) Pop(now time.Time) (value T, ok bool) {
	if d.heap.n == 0 || now.Before(d.heap.first().at) {
		return value, false
	}
	t := heap.Pop(&d.heap).(*Timer[T])
	t.at = time.Time{}
	return t.Value, true
}

// Len returns the number of timers that wait.
func (d *Deadlines[T]) Len() int { return d.heap.n }

// timers is a heap in blocks: a slice would be copied as a whole when it grows, and hold up
// everything that its owner has to do for milliseconds.
type timers[T any] struct {
	blocks []*timerBlock[T]
	n      int
}

type timerBlock[T any] [timersPerBlock]*Timer[T]

const timersPerBlock = 1024

// at returns where timer i stands.
func (h *timers[T]) at(i int) **Timer[T] { return &h.blocks[i/timersPerBlock][i%timersPerBlock] }

func (h *timers[T]) first() *Timer[T] { return h.blocks[0][0] }

func (h *timers[T]) Len() int           { return h.n }
func (h *timers[T]) Less(i, j int) bool { return (*h.at(i)).at.Before((*h.at(j)).at) }
func (h *timers[T]) Swap(i, j int) {
	a, b := h.at(i), h.at(j)
	*a, *b = *b, *a
	(*a).place, (*b).place = i+1, j+1
}

func (h *timers[T]) Push(x any) {
	t := x.(*Timer[T])
	if h.n == len(h.blocks)*timersPerBlock {
		h.blocks = append(h.blocks, new(timerBlock[T]))
	}
	*h.at(h.n) = t
	h.n++
	t.place = h.n
}

func (h *timers[T]) Pop() any {
	h.n--
	at := h.at(h.n)
	t := *at
	*at = nil
	t.place = 0
	// One block stays in reserve, so that nothing is made and dropped in turns.
	if empty := len(h.blocks) - 2; empty >= 0 && h.n <= empty*timersPerBlock {
		h.blocks[empty+1] = nil
		h.blocks = h.blocks[:empty+1]
	}
	return t
}
