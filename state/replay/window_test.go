package replay

import (
	"errors"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"
)

// model is a direct implementation of section 6.
type model struct {
	seen    map[uint64]bool
	highest uint64
	any     bool
	floor   uint64
}

func (m *model) compact() {
	if m.any {
		m.floor = m.highest + 1
	}
}

func (m *model) check(seq uint64) error {
	switch {
	case !m.any || seq > m.highest:
		return nil
	case m.highest-seq >= Size || seq < m.floor:
		return ErrTooOld
	case m.seen[seq]:
		return ErrReplay
	}
	return nil
}

func (m *model) mark(seq uint64) {
	m.seen[seq] = true
	if !m.any || seq > m.highest {
		m.highest, m.any = seq, true
	}
}

// Shows R6.4, R6.6.
func TestWindowAgreesWithModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w Window
		m := model{seen: map[uint64]bool{}}
		at := rapid.Uint64Range(0, 1<<62-1).Draw(t, "start")
		if rapid.Bool().Draw(t, "from zero") {
			at = 0
		}
		for range rapid.IntRange(1, 400).Draw(t, "packets") {
			step := rapid.OneOf(
				rapid.Int64Range(-3, 3),
				rapid.Int64Range(-130, 130),
				rapid.Int64Range(-Size-2, Size+2),
				rapid.Int64Range(-3*Size, 3*Size),
				rapid.SampledFrom([]int64{-Size, -Size + 1, Size - 1, Size, Size + 1, 64, -64}),
			).Draw(t, "step")
			if rapid.IntRange(0, 50).Draw(t, "rest") == 0 {
				w.Compact()
				m.compact()
			}
			seq := at + uint64(step)
			if step < 0 && uint64(-step) > at {
				seq = 0
			}
			got, want := w.Check(seq), m.check(seq)
			if !errors.Is(got, want) {
				t.Fatalf("Check(%d) after highest %d = %v, want %v", seq, m.highest, got, want)
			}
			if want == nil {
				w.Mark(seq)
				m.mark(seq)
				at = max(at, seq)
			}
		}
	})
}

func TestMarkIgnoresRejectedNumber(t *testing.T) {
	var w Window
	for _, seq := range []uint64{0, 5000, 4999, 905, 9000} {
		w.Mark(seq)
	}
	before, ring := w, *w.ring
	for _, seq := range []uint64{0, 5000, 4904, 4903, 9000} {
		if w.Check(seq) == nil {
			t.Fatalf("Check(%d) took a number that is seen or too old", seq)
		}
		w.Mark(seq)
	}
	if w != before || *w.ring != ring {
		t.Error("marking refused numbers changed the window")
	}
}

func TestWindowCoversLast4096(t *testing.T) {
	var w Window
	w.Mark(Size - 1)
	for seq := uint64(0); seq < Size-1; seq++ {
		if err := w.Check(seq); err != nil {
			t.Fatalf("Check(%d) = %v, want nil", seq, err)
		}
		w.Mark(seq)
	}
	for seq := uint64(0); seq < Size; seq++ {
		if err := w.Check(seq); !errors.Is(err, ErrReplay) {
			t.Fatalf("Check(%d) = %v, want ErrReplay", seq, err)
		}
	}
	w.Mark(Size)
	if err := w.Check(0); !errors.Is(err, ErrTooOld) {
		t.Errorf("Check(0) = %v, want ErrTooOld", err)
	}
}

func TestCompactRejectsAllOldNumbers(t *testing.T) {
	var w Window
	for _, seq := range []uint64{0, 1, 3, 70} {
		w.Mark(seq)
	}
	w.Compact()
	for seq := range uint64(71) {
		if w.Check(seq) == nil {
			t.Fatalf("Check(%d) took a number that Rest has forgotten", seq)
		}
		w.Mark(seq)
	}
	if err := w.Check(71); err != nil {
		t.Fatalf("Check(71) = %v", err)
	}
	w.Mark(72)
	if w.Check(71) != nil || w.Check(72) == nil || w.Check(70) == nil {
		t.Error("the window after a rest does not count on")
	}
}

func BenchmarkWindow(b *testing.B) {
	orders := map[string]func(i uint64) uint64{
		"in order":  func(i uint64) uint64 { return i },
		"swapped":   func(i uint64) uint64 { return i ^ 1 },
		"scattered": func(i uint64) uint64 { return i + rand.Uint64N(1024) },
		"jumps":     func(i uint64) uint64 { return i * 5000 },
	}
	for name, order := range orders {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var w Window
			var i uint64
			for b.Loop() {
				if seq := order(i); w.Check(seq) == nil {
					w.Mark(seq)
				}
				i++
			}
		})
	}
}
