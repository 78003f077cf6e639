package ratelimit

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"sync/atomic"
	"time"

	"lewes/crypto/kdf"
)

const (
	// slots is the number of buckets of a Table: 512 KiB.
	slots = 1 << 16
	// renewal is the time after which the key of a Table is replaced. Each source has another bucket
	// then, with at most a burst more or less than it had.
	renewal = 10 * time.Minute
)

// Table limits sources by prefix. It is safe for concurrent use, without a lock.
type Table struct {
	interval time.Duration // between two tokens
	depth    time.Duration // the time to fill a bucket
	start    time.Time
	rand     io.Reader
	key      atomic.Pointer[key]
	full     [slots]atomic.Int64 // when the bucket is full again, nanoseconds after start
}

// key selects the buckets until a time, in nanoseconds after the table's start.
type key struct {
	mac   *kdf.MACKey
	until int64
}

// NewTable returns a table with rate tokens per second and a burst of burst tokens for each source
// prefix. It draws its keys from rand, which must be safe for concurrent use if the table is used
// concurrently; the first error is returned.
func NewTable(now time.Time, rate float64, burst int, rand io.Reader) (*Table, error) {
	interval := time.Duration(float64(time.Second) / rate)
	t := &Table{interval: interval, depth: interval * time.Duration(burst), start: now, rand: rand}
	first, err := t.newKey(0)
	if err != nil {
		return nil, err
	}
	t.key.Store(first)
	return t, nil
}

func (t *Table) newKey(at int64) (*key, error) {
	var random [32]byte
	if _, err := io.ReadFull(t.rand, random[:]); err != nil {
		return nil, fmt.Errorf("ratelimit: no randomness for a key: %w", err)
	}
	return &key{kdf.NewMACKey(&random), at + int64(renewal)}, nil
}

// Take takes a token of source and reports whether there was one. If not, wait is
// the time until the next.
func (t *Table) Take(now time.Time, source netip.Addr) (wait time.Duration, ok bool) {
	at := int64(now.Sub(t.start))
	slot := t.slot(at, source)
	for {
		full := slot.Load()
		if wait := t.wait(at, full); wait > 0 {
			return wait, false
		}
		if slot.CompareAndSwap(full, max(full, at)+int64(t.interval)) {
			return 0, true
		}
	}
}

// Wait returns the time until source has a token, 0 if it has one now. It takes none.
func (t *Table) Wait(now time.Time, source netip.Addr) time.Duration {
	at := int64(now.Sub(t.start))
	return t.wait(at, t.slot(at, source).Load())
}

func (t *Table) wait(at, full int64) time.Duration {
	return time.Duration(max(0, max(full, at)+int64(t.interval)-at-int64(t.depth)))
}

// slot returns the bucket of the source's prefix at a time.
func (t *Table) slot(at int64, source netip.Addr) *atomic.Int64 {
	k := t.key.Load()
	if at >= k.until {
		// Without randomness the present key stays.
		if next, err := t.newKey(at); err == nil {
			t.key.CompareAndSwap(k, next)
			k = t.key.Load()
		}
	}
	bits := 64
	if source.Unmap().Is4() {
		bits = 32
	}
	prefix := Prefix(source, bits).As16()
	sum := k.mac.MAC(prefix[:])
	return &t.full[binary.LittleEndian.Uint64(sum[:])%slots]
}

// Prefix returns the first bits of the unmapped address, without a zone.
func Prefix(a netip.Addr, bits int) netip.Addr {
	p, err := a.Unmap().WithZone("").Prefix(bits)
	if err != nil {
		return a
	}
	return p.Addr()
}
