package state

import (
	mathrand "math/rand/v2"
	"slices"
	"testing"

	"lewes/crypto/identity"
)

// TestBagWalk changes a bag during walks that take turns: every walk returns each value that stays
// from its start to its end, and ends although values are added.
func TestBagWalk(t *testing.T) {
	random := mathrand.New(mathrand.NewPCG(1, 2))
	var b Bag[*Slot[int]]
	slots := make(map[*Slot[*Slot[int]]]bool)
	add := func() {
		s := new(Slot[*Slot[int]])
		s.Value = new(Slot[int])
		b.Add(s)
		slots[s] = true
	}
	remove := func() {
		for s := range slots { // any
			b.Remove(s)
			b.Remove(s)
			delete(slots, s)
			return
		}
	}
	type walk struct {
		cursor  Cursor
		started []*Slot[*Slot[int]]
		seen    map[*Slot[int]]bool
		steps   int // -1: it has ended
		most    int // steps, from its first one on
	}
	for range 3 * perBlock {
		add()
	}
	for range 20 {
		var walks [3]*walk
		for i := range walks {
			walks[i] = &walk{cursor: Start, seen: map[*Slot[int]]bool{}}
			for s := range slots {
				walks[i].started = append(walks[i].started, s)
			}
		}
		for ended := 0; ended < len(walks); {
			w := walks[random.IntN(len(walks))]
			if w.steps < 0 {
				continue
			}
			if w.steps == 0 {
				w.most = b.Len()
			}
			v, ok := b.Next(&w.cursor)
			if ok {
				w.seen[v] = true
				w.steps++
			} else {
				for _, s := range w.started {
					if slots[s] && !w.seen[s.Value] {
						t.Fatal("a walk has left out a value that stayed")
					}
				}
				if w.steps > w.most {
					t.Fatalf("%d steps for at most %d values", w.steps, w.most)
				}
				w.steps = -1
				ended++
			}
			if random.IntN(2) == 0 {
				add()
			}
			for range random.IntN(2) {
				remove()
			}
		}
		if b.Len() != len(slots) {
			t.Fatalf("%d values, want %d", b.Len(), len(slots))
		}
	}
	left := 0
	b.All(func(*Slot[int]) { left++ })
	if left != len(slots) {
		t.Errorf("All called for %d values, want %d", left, len(slots))
	}
}

type linked struct{ l peerLinks[*linked] }

func (l *linked) links() *peerLinks[*linked] { return &l.l }

// TestPeerIndex compares the index with a plain model.
func TestPeerIndex(t *testing.T) {
	random := mathrand.New(mathrand.NewPCG(3, 4))
	x := make(peerIndex[*linked])
	model := make(map[identity.PublicKey][]*linked)
	for range 20_000 {
		peer := identity.PublicKey{byte(random.IntN(8))}
		if have := model[peer]; len(have) == 0 || random.IntN(2) == 0 {
			v := new(linked)
			x.add(peer, v)
			model[peer] = append(have, v)
		} else {
			i := random.IntN(len(have))
			x.remove(peer, have[i])
			x.remove(peer, have[i]) // has no effect
			model[peer] = slices.Delete(have, i, i+1)
		}
		var got []*linked
		for v := x[peer]; v != nil; v = v.l.next {
			got = append(got, v)
		}
		slices.Reverse(got)
		if !slices.Equal(got, model[peer]) {
			t.Fatal("the index differs from the model")
		}
		if _, found := x[peer]; found != (len(got) > 0) {
			t.Fatal("a client without values is in the index")
		}
	}
}
