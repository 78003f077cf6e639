package measure

import (
	"math/bits"
	"time"
)

// Histogram counts durations in buckets that are 1.6 % wide at most, from a
// nanosecond up. The zero value is empty. Adding takes no memory and no lock: one
// goroutine does it.
type Histogram struct {
	counts [buckets]uint32
	n      uint64
	sum    float64
	max    time.Duration
}

// Within each power of two there are 64 buckets.
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

// Add counts one duration; less than 0 counts as 0.
func (h *Histogram) Add(d time.Duration) {
	d = max(d, 0)
	h.counts[bucketOf(uint64(d))]++
	h.n++
	h.sum += float64(d)
	h.max = max(h.max, d)
}

// Count returns how many were added.
func (h *Histogram) Count() uint64 { return h.n }

// Quantile returns the duration below which a part q of all lie, 0 if there are
// none.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank := uint64(q * float64(h.n))
	if rank >= h.n-1 {
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

// Delays is a Histogram in a few figures.
type Delays struct {
	N    uint64        `json:"n"`
	Mean time.Duration `json:"mean"`
	P50  time.Duration `json:"p50"`
	P99  time.Duration `json:"p99"`
	P999 time.Duration `json:"p99.9"`
	Max  time.Duration `json:"max"`
}

// Delays returns the figures.
func (h *Histogram) Delays() Delays {
	if h.n == 0 {
		return Delays{}
	}
	return Delays{
		N:    h.n,
		Mean: time.Duration(h.sum / float64(h.n)),
		P50:  h.Quantile(0.5),
		P99:  h.Quantile(0.99),
		P999: h.Quantile(0.999),
		Max:  h.max,
	}
}
