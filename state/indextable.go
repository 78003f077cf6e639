package state

import "math/bits"

// indexTable finds generations by receiver index: open addressing, so that the
// lookups of a batch do not wait for each other's memory, and growth in small
// steps, so that no insertion stalls a shard.
//
// Indexes are random, those of clients by their own choice: the place of an index
// depends on a secret odd factor.
type indexTable struct {
	now    slots
	before slots // what is being moved to now; empty otherwise
	moved  int   // places of before that are moved
	count  int
}

// moveStep is how many places are moved with each change while the table grows.
// Growth doubles a table that is half full, so it ends well before the next.
const moveStep = 16

const minSlotBits = 6

func newIndexTable(factor uint32) indexTable {
	return indexTable{now: newSlots(minSlotBits, factor|1)}
}

// find returns the generation that index names, or nil.
func (t *indexTable) find(index uint32) *Generation {
	if g := t.now.find(index); g != nil || t.before.places == nil {
		return g
	}
	return t.before.find(index)
}

// put makes index name g.
func (t *indexTable) put(index uint32, g *Generation) {
	t.remove(index)
	if t.before.places == nil && t.count >= len(t.now.places)/2 {
		t.before, t.moved = t.now, 0
		t.now = newSlots(bits.Len(uint(len(t.before.places))), t.now.factor)
	}
	t.move()
	t.now.put(index, g)
	t.count++
}

// remove makes index name nothing.
func (t *indexTable) remove(index uint32) {
	t.move()
	if t.now.remove(index) || t.before.places != nil && t.before.remove(index) {
		t.count--
	}
}

// move moves a few places of the smaller table. A removal may have shifted an
// entry back over the mark, so each place is emptied until it stays empty.
func (t *indexTable) move() {
	if t.before.places == nil {
		return
	}
	end := min(t.moved+moveStep, len(t.before.places))
	for ; t.moved < end; t.moved++ {
		for t.before.places[t.moved].index != 0 {
			p := t.before.places[t.moved]
			t.before.remove(p.index)
			t.now.put(p.index, p.generation)
		}
	}
	if t.moved == len(t.before.places) {
		t.before, t.moved = slots{}, 0
	}
}

// each calls f for every entry until it returns false.
func (t *indexTable) each(f func(index uint32, g *Generation) bool) {
	for _, places := range [][]place{t.now.places, t.before.places} {
		for _, p := range places {
			if p.index != 0 && !f(p.index, p.generation) {
				return
			}
		}
	}
}

// slots is a table of one size, with linear probing. Index 0, which names
// nothing, marks an empty place.
type slots struct {
	places []place
	factor uint32
	shift  uint8
}

type place struct {
	index      uint32
	generation *Generation
}

func newSlots(bits int, factor uint32) slots {
	return slots{places: make([]place, 1<<bits), factor: factor, shift: uint8(32 - bits)}
}

// home is where index would be in an empty table.
func (s *slots) home(index uint32) int { return int(index * s.factor >> s.shift) }

func (s *slots) next(at int) int { return (at + 1) & (len(s.places) - 1) }

func (s *slots) find(index uint32) *Generation {
	for at := s.home(index); ; at = s.next(at) {
		switch p := &s.places[at]; p.index {
		case 0: // first: index 0 names nothing
			return nil
		case index:
			return p.generation
		}
	}
}

func (s *slots) put(index uint32, g *Generation) {
	at := s.home(index)
	for s.places[at].index != 0 {
		at = s.next(at)
	}
	s.places[at] = place{index, g}
}

// remove empties the place of index and closes the gap, so that no search ends too
// early.
func (s *slots) remove(index uint32) bool {
	at := s.home(index)
	for ; s.places[at].index != index; at = s.next(at) {
		if s.places[at].index == 0 {
			return false
		}
	}
	if index == 0 {
		return false
	}
	gap := at
	for at = s.next(at); s.places[at].index != 0; at = s.next(at) {
		home, mask := s.home(s.places[at].index), len(s.places)-1
		if (at-home)&mask >= (at-gap)&mask {
			s.places[gap] = s.places[at]
			gap = at
		}
	}
	s.places[gap] = place{}
	return true
}
