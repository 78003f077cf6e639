package state

import (
	"math"

	"lewes/crypto/identity"
)

// Bag is an unordered collection that is walked in pieces: adding, removing and the next step of a
// walk take constant time. The zero value is ready to use.
type Bag[T any] struct{ slots blocks[*Slot[T]] }

// Slot is an entry of a Bag. It belongs to one value and one Bag.
type Slot[T any] struct {
	Value T
	place int32 // in the bag, from 1; 0: not in it
	heap  int32 // of a Timer: its place in the Deadlines
}

// Cursor is the position of a walk through a Bag. Any number of walks may go on at a time.
type Cursor int

// Start is the cursor of a new walk.
const Start Cursor = math.MaxInt

// Len returns the number of values.
func (b *Bag[T]) Len() int { return b.slots.n }

// Add adds a value that is not in the bag.
func (b *Bag[T]) Add(s *Slot[T]) {
	b.slots.push(s)
	s.place = int32(b.slots.n)
}

// Remove removes a value if it is in the bag.
func (b *Bag[T]) Remove(s *Slot[T]) {
	if s.place == 0 {
		return
	}
	last := b.slots.pop()
	if last != s {
		*b.slots.at(int(s.place) - 1) = last
		last.place = s.place
	}
	s.place = 0
}

// Next returns the next value of a walk. A walk returns every value that is in the bag from its
// start to its end. It may return one twice, and values added meanwhile or not: the last value
// takes the place of a removed one, and the walk goes from the last place to the first.
func (b *Bag[T]) Next(c *Cursor) (value T, ok bool) {
	if *c = min(*c, Cursor(b.slots.n)) - 1; *c < 0 {
		return value, false
	}
	return (*b.slots.at(int(*c))).Value, true
}

// All calls f for every value. f may remove the value that it is called with.
func (b *Bag[T]) All(f func(T)) {
	c := Start
	for v, ok := b.Next(&c); ok; v, ok = b.Next(&c) {
		f(v)
	}
}

// peerIndex finds the values of a client. Those of one client form a list.
type peerIndex[T peered[T]] map[identity.PublicKey]T

// peered is a value of a peerIndex.
type peered[T any] interface {
	comparable
	links() *peerLinks[T]
}

// peerLinks are a value's neighbours in the list of its client.
type peerLinks[T any] struct{ prev, next T }

func (x peerIndex[T]) add(peer identity.PublicKey, v T) {
	var none T
	if next := x[peer]; next != none {
		next.links().prev = v
		v.links().next = next
	}
	x[peer] = v
}

// remove removes a value if it is in the index.
func (x peerIndex[T]) remove(peer identity.PublicKey, v T) {
	var none T
	l := v.links()
	switch {
	case l.prev != none:
		l.prev.links().next = l.next
	case x[peer] != v:
		return
	case l.next == none:
		delete(x, peer)
	default:
		x[peer] = l.next
	}
	if l.next != none {
		l.next.links().prev = l.prev
	}
	*l = peerLinks[T]{}
}

// blocks is a stack of values in blocks. A slice would be copied as a whole when it grows and stall
// its owner for milliseconds.
type blocks[T any] struct {
	blocks []*[perBlock]T
	n      int
}

const perBlock = 1024

func (b *blocks[T]) at(i int) *T { return &b.blocks[i/perBlock][i%perBlock] }

func (b *blocks[T]) push(v T) {
	if b.n == len(b.blocks)*perBlock {
		b.blocks = append(b.blocks, new([perBlock]T))
	}
	*b.at(b.n) = v
	b.n++
}

func (b *blocks[T]) pop() T {
	b.n--
	at := b.at(b.n)
	v := *at
	*at = *new(T)
	// Keep one spare block, so that blocks are not freed and allocated in turns.
	if empty := len(b.blocks) - 2; empty >= 0 && b.n <= empty*perBlock {
		b.blocks[empty+1] = nil
		b.blocks = b.blocks[:empty+1]
	}
	return v
}
