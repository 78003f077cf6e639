// Package ratelimit limits the rate of requests per source, in memory that does not
// grow with the number of sources (sections 4 and 12 of PROTOCOL.md).
//
// A Table has a fixed number of token buckets. A seeded hash of the source's prefix
// (/32 of IPv4, /64 of IPv6) selects one. Sources that share a bucket share its
// tokens, and outsiders cannot find out which do.
package ratelimit

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/cespare/xxhash/v2"
)

// slots is the number of buckets of a Table: 512 KiB.
const slots = 1 << 16

// Table limits sources by prefix. It is not safe for concurrent use.
type Table struct {
	interval time.Duration // between two tokens
	depth    time.Duration // the time to fill a bucket
	seed     uint64
	start    time.Time
	full     [slots]int64 // when the bucket is full again, nanoseconds after start
}

// NewTable returns a table with rate tokens per second and a burst of burst tokens
// for each source prefix. The seed must be random.
func NewTable(now time.Time, rate float64, burst int, seed uint64) *Table {
	interval := time.Duration(float64(time.Second) / rate)
	return &Table{interval: interval, depth: interval * time.Duration(burst), seed: seed, start: now}
}

// Take takes a token of source and reports whether there was one. If not, wait is
// the time until the next.
func (t *Table) Take(now time.Time, source netip.Addr) (wait time.Duration, ok bool) {
	if wait := t.Wait(now, source); wait > 0 {
		return wait, false
	}
	slot := &t.full[t.hash(source)%slots]
	*slot = max(*slot, int64(now.Sub(t.start))) + int64(t.interval)
	return 0, true
}

// Wait returns the time until source has a token, 0 if it has one now. It takes none.
func (t *Table) Wait(now time.Time, source netip.Addr) time.Duration {
	at := int64(now.Sub(t.start))
	over := max(t.full[t.hash(source)%slots], at) + int64(t.interval) - at - int64(t.depth)
	return time.Duration(max(over, 0))
}

// hash returns the seeded hash of the source's prefix.
func (t *Table) hash(source netip.Addr) uint64 {
	bits := 64
	if source.Unmap().Is4() {
		bits = 32
	}
	prefix := Prefix(source, bits).As16()
	var b [8 + 16]byte
	binary.LittleEndian.PutUint64(b[:], t.seed)
	copy(b[8:], prefix[:])
	return xxhash.Sum64(b[:])
}

// Prefix returns the first bits of the unmapped address, without a zone.
func Prefix(a netip.Addr, bits int) netip.Addr {
	p, err := a.Unmap().WithZone("").Prefix(bits)
	if err != nil {
		return a
	}
	return p.Addr()
}
