package measure

import (
	"math"
	"slices"
)

// Series is a figure measured several times.
type Series []float64

// Summary is what is said of a Series: the median, and between what all values
// were. N is how many there were; 0: it was not measured.
type Summary struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
	N      int     `json:"n"`
}

// Summary returns what is to be said of s. Values that are not numbers count as not
// measured.
func (s Series) Summary() Summary {
	sorted := slices.DeleteFunc(slices.Clone(s), func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) })
	n := len(sorted)
	if n == 0 {
		return Summary{}
	}
	slices.Sort(sorted)
	median := sorted[n/2]
	if n%2 == 0 {
		median = (sorted[n/2-1] + sorted[n/2]) / 2
	}
	return Summary{Median: median, Low: sorted[0], High: sorted[n-1], N: n}
}

// Measured says whether there is anything to show.
func (s Summary) Measured() bool { return s.N > 0 }

// Spread returns how far the values lie from the median at most, as a part of it.
func (s Summary) Spread() float64 {
	if s.Median == 0 {
		return 0
	}
	return max(s.High-s.Median, s.Median-s.Low) / math.Abs(s.Median)
}
