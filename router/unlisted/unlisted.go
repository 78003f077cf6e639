// Package unlisted remembers the identities that a gateway refused because they are not in its list of
// clients, so that an operator can tell a newcomer from an attacker. It keeps them in memory only.
package unlisted

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"lewes/crypto/identity"
	"lewes/state/ratelimit"
)

// Bounds of a Book, which is one per gateway.
const (
	MaxEntries   = 256
	MaxPerSource = 16 // of one IPv4 /24 or IPv6 /48
	Lifetime     = time.Hour
)

// Entry is a refused identity.
type Entry struct {
	Identity    identity.PublicKey
	Source      netip.Prefix // of the last try: an IPv4 /24 or IPv6 /48
	First, Last time.Time
	Count       uint64 // tries
}

// Book holds the refused identities of the last hour. At a bound it forgets the one that has been quiet
// for longest, of the same source first. The zero Book is empty. It is safe for concurrent use.
type Book struct {
	mu      sync.Mutex
	entries []Entry // by Last, oldest first
}

// Add records a refusal of id from an address. It returns a copy of the entry, and whether it is new.
func (b *Book) Add(now time.Time, id identity.PublicKey, from netip.Addr) (e Entry, added bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expire(now)
	e = Entry{Identity: id, First: now}
	added = true
	if i := slices.IndexFunc(b.entries, func(e Entry) bool { return e.Identity == id }); i >= 0 {
		e, added = b.entries[i], false
		b.entries = slices.Delete(b.entries, i, i+1)
	}
	e.Source, e.Last = source(from), now
	e.Count++
	b.makeRoom(e.Source)
	b.entries = append(b.entries, e)
	return e, added
}

// All returns the entries, the latest first.
func (b *Book) All(now time.Time) []Entry {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expire(now)
	all := slices.Clone(b.entries)
	slices.Reverse(all)
	return all
}

func (b *Book) expire(now time.Time) {
	n := 0
	for n < len(b.entries) && now.Sub(b.entries[n].Last) >= Lifetime {
		n++
	}
	b.entries = slices.Delete(b.entries, 0, n)
}

// makeRoom removes the oldest entry of a source that has MaxPerSource, or of all.
func (b *Book) makeRoom(from netip.Prefix) {
	n, oldest := 0, 0
	for i := len(b.entries) - 1; i >= 0; i-- {
		if b.entries[i].Source == from {
			n, oldest = n+1, i
		}
	}
	switch {
	case n >= MaxPerSource:
		b.entries = slices.Delete(b.entries, oldest, oldest+1)
	case len(b.entries) >= MaxEntries:
		b.entries = slices.Delete(b.entries, 0, 1)
	}
}

// source returns the network of an address that is shown.
func source(a netip.Addr) netip.Prefix {
	bits := 48
	if a = a.Unmap(); a.Is4() {
		bits = 24
	}
	return netip.PrefixFrom(ratelimit.Prefix(a, bits), bits)
}
