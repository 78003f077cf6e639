package measure

import (
	"math/bits"
	"time"
)

// Histogram counts durations in buckets of at most 1.6 % width. The zero value is empty. Add
// neither allocates nor locks.
type Histogram struct {
	counts [buckets]uint32
	n      uint64
	max    time.Duration
}

// Each power of two has 64 buckets.
const (
	fine    = 6
	buckets = (64 - fine) << fine
)

func bucketOf(ns uint64) int {
	if ns < 1<<fine {
		return int(ns)
	}
	shift := bits.Len64(ns) - 1 - fine
	return shift<<fine + int(ns>>shift)
}

// middleOf returns the middle of a bucket, in nanoseconds.
func middleOf(bucket int) float64 {
	if bucket < 2<<fine {
		return float64(bucket)
	}
	shift := bucket>>fine - 1
	low := uint64(bucket-shift<<fine) << shift
	return float64(low) + float64(uint64(1)<<shift)/2
}

// Add counts a duration; a negative one counts as 0.
func (h *Histogram) Add(d time.Duration) {
	d = max(d, 0)
	h.counts[bucketOf(uint64(d))]++
	h.n++
	h.max = max(h.max, d)
}

// Quantile returns the duration below which a fraction q of all lie, 0 if there are none.
func (h *Histogram) Quantile(q float64) time.Duration {
	rank := uint64(q * float64(h.n))
	if rank+1 >= h.n {
		return h.max
	}
	var seen uint64
	for i, c := range h.counts {
		if seen += uint64(c); seen > rank {
			return min(time.Duration(middleOf(i)), h.max)
		}
	}
	return h.max
}

// Delays is a summary of a Histogram.
type Delays struct {
	N    uint64        `json:"n"`
	P50  time.Duration `json:"p50"`
	P99  time.Duration `json:"p99"`
	P999 time.Duration `json:"p99.9"`
}

// Delays returns the summary.
func (h *Histogram) Delays() Delays {
	return Delays{N: h.n, P50: h.Quantile(0.5), P99: h.Quantile(0.99), P999: h.Quantile(0.999)}
}
