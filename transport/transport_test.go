package transport

import (
	"bytes"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

func TestSegmentsOfEdges(t *testing.T) {
	for _, c := range []struct {
		name    string
		size    int
		segment int
		want    []int
	}{
		{"empty datagram", 0, 0, []int{0}},
		{"empty with a segment", 0, 10, []int{0}},
		{"datagram", 10, 0, []int{10}},
		{"segment as long as the data", 10, 10, []int{10}},
		{"segment longer than the data", 10, 11, []int{10}},
		{"negative segment", 10, -1, []int{10}},
		{"whole segments", 12, 4, []int{4, 4, 4}},
		{"last one shorter", 13, 4, []int{4, 4, 4, 1}},
		{"bytes", 3, 1, []int{1, 1, 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := Packet{Data: make([]byte, c.size, c.size+8), Segment: c.segment}
			var got []int
			for s := range p.Segments() {
				got = append(got, len(s))
				if cap(s) != len(s) {
					t.Errorf("segment of %d bytes has room for %d: an append would write into the next", len(s), cap(s))
				}
			}
			if len(got) != len(c.want) {
				t.Fatalf("lengths %v, want %v", got, c.want)
			}
			for i := range got {
				if got[i] != c.want[i] {
					t.Fatalf("lengths %v, want %v", got, c.want)
				}
			}
			if p.Count() != len(c.want) {
				t.Errorf("Count %d, want %d", p.Count(), len(c.want))
			}
		})
	}
}

func TestSegmentsJoinToData(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := Packet{
			Data:    rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "data"),
			Segment: rapid.IntRange(-1, 310).Draw(t, "segment"),
		}
		var joined []byte
		n := 0
		for s := range p.Segments() {
			joined = append(joined, s...)
			n++
		}
		if !bytes.Equal(joined, p.Data) {
			t.Fatalf("segments join to %x, want %x", joined, p.Data)
		}
		if n != p.Count() {
			t.Fatalf("%d segments, Count says %d", n, p.Count())
		}
	})
}

func TestSegmentsStopsWhenAsked(t *testing.T) {
	p := Packet{Data: make([]byte, 100), Segment: 10}
	n := 0
	for range p.Segments() {
		if n++; n == 3 {
			break
		}
	}
	if n != 3 {
		t.Fatalf("took %d segments, want 3", n)
	}
}

func TestSegmentsDoesNotAllocate(t *testing.T) {
	p := Packet{Data: make([]byte, 1000), Segment: 10}
	total := 0
	if n := testing.AllocsPerRun(100, func() {
		for s := range p.Segments() {
			total += len(s)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
	if total == 0 {
		t.Error("nothing was walked")
	}
}

func TestSendErrorJoinsErrors(t *testing.T) {
	err := error(&SendError{Index: 3, Failed: 2, Err: errors.Join(ErrTooLarge, ErrFull)})
	for _, want := range []error{ErrTooLarge, ErrFull} {
		if !errors.Is(err, want) {
			t.Errorf("errors.Is(%q, %q) is false", err, want)
		}
	}
	if errors.Is(err, ErrRefused) {
		t.Errorf("%q is taken for a reason that it does not hold", err)
	}
	if got, want := (&SendError{Index: 3, Failed: 1, Err: ErrFull}).Error(), "packet 3 of the batch not sent: send buffer full"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
