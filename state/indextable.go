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

// Places come in blocks, which are made when something is put there: one piece of the size
// that a million sessions need would take milliseconds to clear when the table grows.
const (
	minSlotBits = 6
	blockBits   = 13
	blockSize   = 1 << blockBits
)

func newIndexTable(factor uint32) indexTable {
	return indexTable{now: newSlots(minSlotBits, factor|1)}
}

// find returns the generation that index names, or nil.
func (t *indexTable) find(index uint32) *Generation {
	if g := t.now.find(index); g != nil || t.before.size == 0 {
		return g
	}
	return t.before.find(index)
}

// put makes index name g.
func (t *indexTable) put(index uint32, g *Generation) {
	t.remove(index)
	if t.before.size == 0 && t.count >= t.now.size/2 {
		t.before, t.moved = t.now, 0
		t.now = newSlots(bits.Len(uint(t.before.size)), t.now.factor)
	}
	t.move()
	t.now.put(index, g)
	t.count++
}

// remove makes index name nothing.
func (t *indexTable) remove(index uint32) {
	t.move()
	if t.now.remove(index) || t.before.size != 0 && t.before.remove(index) {
		t.count--
	}
}

// move moves a few places of the smaller table. A removal may have shifted an
// entry back over the mark, so each place is emptied until it stays empty.
func (t *indexTable) move() {
	if t.before.size == 0 {
		return
	}
	end := min(t.moved+moveStep, t.before.size)
	for ; t.moved < end; t.moved++ {
		for p := t.before.at(t.moved); p.index != 0; p = t.before.at(t.moved) {
			t.before.remove(p.index)
			t.now.put(p.index, p.generation)
		}
	}
	if t.moved == t.before.size {
		t.before, t.moved = slots{}, 0
	}
}

// each calls f for every entry until it returns false.
func (t *indexTable) each(f func(index uint32, g *Generation) bool) {
	for _, slots := range []*slots{&t.now, &t.before} {
		for _, b := range slots.blocks {
			for _, p := range b {
				if p.index != 0 && !f(p.index, p.generation) {
					return
				}
			}
		}
	}
}

// slots is a table of one size, with linear probing. Index 0, which names
// nothing, marks an empty place.
type slots struct {
	blocks [][]place // nil: nothing is there
	size   int       // places
	factor uint32
	shift  uint8
}

type place struct {
	index      uint32
	generation *Generation
}

func newSlots(bits int, factor uint32) slots {
	size := 1 << bits
	return slots{blocks: make([][]place, max(1, size/blockSize)), size: size, factor: factor, shift: uint8(32 - bits)}
}

// home is where index would be in an empty table.
func (s *slots) home(index uint32) int { return int(index * s.factor >> s.shift) }

func (s *slots) next(at int) int { return (at + 1) & (s.size - 1) }

// at returns what stands in a place.
func (s *slots) at(at int) place {
	if b := s.blocks[at>>blockBits]; b != nil {
		return b[at&(blockSize-1)]
	}
	return place{}
}

func (s *slots) set(at int, p place) {
	b := &s.blocks[at>>blockBits]
	if *b == nil {
		*b = make([]place, min(s.size, blockSize))
	}
	(*b)[at&(blockSize-1)] = p
}

func (s *slots) find(index uint32) *Generation {
	for at := s.home(index); ; at = s.next(at) {
		b, i := s.blocks[at>>blockBits], at&(blockSize-1)
		if i >= len(b) {
			return nil
		}
		switch p := &b[i]; p.index {
		case 0: // first: index 0 names nothing
			return nil
		case index:
			return p.generation
		}
	}
}

func (s *slots) put(index uint32, g *Generation) {
	at := s.home(index)
	for s.at(at).index != 0 {
		at = s.next(at)
	}
	s.set(at, place{index, g})
}

// remove empties the place of index and closes the gap, so that no search ends too
// early.
func (s *slots) remove(index uint32) bool {
	at := s.home(index)
	for ; s.at(at).index != index; at = s.next(at) {
		if s.at(at).index == 0 {
			return false
		}
	}
	if index == 0 {
		return false
	}
	gap := at
	for at = s.next(at); s.at(at).index != 0; at = s.next(at) {
		p := s.at(at)
		home, mask := s.home(p.index), s.size-1
		if (at-home)&mask >= (at-gap)&mask {
			s.set(gap, p)
			gap = at
		}
	}
	s.set(gap, place{})
	return true
}
