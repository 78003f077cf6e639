package measure

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestQuantilesWithinBucketWidth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.Int64Range(0, int64(10*time.Second)), 1, 2000).Draw(t, "values")
		h := new(Histogram)
		for _, v := range values {
			h.Add(time.Duration(v))
		}
		slices.Sort(values)
		for _, q := range []float64{0, 0.5, 0.9, 0.99, 0.999, 1} {
			rank := min(int(q*float64(len(values))), len(values)-1)
			want, got := float64(values[rank]), float64(h.Quantile(q))
			if math.Abs(got-want) > 0.016*want+1 {
				t.Fatalf("%v: %v, want %v", q, time.Duration(got), time.Duration(want))
			}
		}
		d := h.Delays()
		if d.N != uint64(len(values)) || d.P50 > d.P99 || d.P99 > d.P999 {
			t.Fatalf("%+v", d)
		}
	})
}

func TestHistogramExtremes(t *testing.T) {
	h := new(Histogram)
	for _, d := range []time.Duration{math.MinInt64, -1, 0, 1, 63, 64, 127, 128, math.MaxInt64} {
		h.Add(d)
	}
	if h.n != 9 || h.Quantile(1) != math.MaxInt64 || h.Quantile(0) != 0 {
		t.Errorf("%d counted, %v to %v", h.n, h.Quantile(0), h.Quantile(1))
	}
	if new(Histogram).Delays() != (Delays{}) || new(Histogram).Quantile(0.5) != 0 {
		t.Error("an empty histogram has figures")
	}
	// Each bucket's middle is in the bucket.
	for i := range buckets {
		if got := bucketOf(uint64(middleOf(i))); got != i {
			t.Fatalf("the middle of bucket %d, %v, is in bucket %d", i, middleOf(i), got)
		}
	}
}

func TestHistogramDoesNotAllocate(t *testing.T) {
	h := new(Histogram)
	if n := testing.AllocsPerRun(100, func() { h.Add(12345) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
