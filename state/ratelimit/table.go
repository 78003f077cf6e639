package ratelimit

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/cespare/xxhash/v2"
)

// slots is the number of buckets of a Table: 512 KiB.
const slots = 1 << 16

// Table limits sources by prefix. It has one owner and no lock.
type Table struct {
	interval time.Duration // between two tokens
	depth    time.Duration // the time that a full bucket's tokens stand for
	seed     uint64
	start    time.Time
	full     [slots]int64 // when the bucket will be full again, nanoseconds after start
}

// NewTable returns a table that lets each source prefix do rate things a second
// and burst at once. The seed is drawn at random by the caller. Time is counted
// from now on.
func NewTable(now time.Time, rate float64, burst int, seed uint64) *Table {
	interval := time.Duration(float64(time.Second) / rate)
	return &Table{interval: interval, depth: interval * time.Duration(burst), seed: seed, start: now}
}

// Take reports whether source has a token left, and takes it. When it has none,
// wait is the time until the next.
func (t *Table) Take(now time.Time, source netip.Addr) (wait time.Duration, ok bool) {
	if wait := t.Wait(now, source); wait > 0 {
		return wait, false
	}
	slot := &t.full[t.hash(source)%slots]
	*slot = max(*slot, int64(now.Sub(t.start))) + int64(t.interval)
	return 0, true
}

// Wait returns how long it takes until source has a token, and takes none. It is 0
// where it has one.
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

// Prefix returns the address with all but its first bits cleared, without a zone
// and unmapped.
func Prefix(a netip.Addr, bits int) netip.Addr {
	p, err := a.Unmap().WithZone("").Prefix(bits)
	if err != nil {
		return a
	}
	return p.Addr()
}
