package state

import (
	"testing"

	"pgregory.net/rapid"
)

func TestIndexTableAgreesWithAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := newIndexTable(rapid.Uint32().Draw(t, "secret"))
		model := map[uint32]*Generation{}
		// Few different indexes collide often; many make the table grow.
		index := rapid.Uint32Range(1, rapid.SampledFrom([]uint32{8, 300, 5000, 1<<32 - 1}).Draw(t, "range"))
		for range rapid.IntRange(1, 1500).Draw(t, "steps") {
			i := index.Draw(t, "index")
			switch rapid.IntRange(0, 3).Draw(t, "action") {
			case 0, 1:
				g := &Generation{index: i}
				table.put(i, g)
				model[i] = g
			case 2:
				table.remove(i)
				delete(model, i)
			default:
				if got := table.find(i); got != model[i] {
					t.Fatalf("find(%d) = %p, want %p", i, got, model[i])
				}
			}
			if table.count != len(model) {
				t.Fatalf("count %d, want %d", table.count, len(model))
			}
		}
		for i, g := range model {
			if table.find(i) != g {
				t.Fatalf("%d is lost", i)
			}
		}
		seen := 0
		table.each(func(i uint32, g *Generation) bool {
			if model[i] != g {
				t.Fatalf("each gives %d, which is not there", i)
			}
			seen++
			return true
		})
		if seen != len(model) {
			t.Fatalf("each gives %d entries, want %d", seen, len(model))
		}
	})
}

func TestIndexZeroNamesNothing(t *testing.T) {
	table := newIndexTable(3)
	for i := range uint32(1000) {
		table.put(i+1, &Generation{})
	}
	table.remove(0)
	if table.find(0) != nil || table.count != 1000 {
		t.Errorf("find(0) = %v, %d entries", table.find(0), table.count)
	}
}
