package measure

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestSummary(t *testing.T) {
	for _, row := range []struct {
		series Series
		want   Summary
	}{
		{nil, Summary{}},
		{Series{math.NaN(), math.Inf(1)}, Summary{}},
		{Series{3}, Summary{3, 3, 3, 1}},
		{Series{3, 1}, Summary{2, 1, 3, 2}},
		{Series{9, 1, 2}, Summary{2, 1, 9, 3}},
		{Series{9, math.NaN(), 1, 2, 4}, Summary{3, 1, 9, 4}},
	} {
		if got := row.series.Summary(); got != row.want {
			t.Errorf("%v: %+v, want %+v", row.series, got, row.want)
		}
	}
	if got := (Series{9, 1, 2}).Summary().Spread(); got != 3.5 {
		t.Errorf("spread %v, want 3.5", got)
	}
	if (Summary{}).Spread() != 0 || (Summary{}).Measured() {
		t.Error("nothing was measured and something is shown")
	}
}

func TestSummaryLeavesTheSeriesAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Series(rapid.SliceOfN(rapid.Float64Range(-1e9, 1e9), 1, 20).Draw(t, "series"))
		before := slices.Clone(s)
		sum := s.Summary()
		if !slices.Equal(s, before) {
			t.Fatal("the series was sorted in place")
		}
		less, more := 0, 0
		for _, v := range s {
			if v < sum.Median {
				less++
			}
			if v > sum.Median {
				more++
			}
		}
		if less > len(s)/2 || more > len(s)/2 || sum.Low != slices.Min(s) || sum.High != slices.Max(s) {
			t.Fatalf("%v: %+v", s, sum)
		}
	})
}
