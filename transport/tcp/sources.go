package tcp

import (
	"net/netip"
	"sync"
)

// sourceBits is how much of an IPv6 address names a source: a /64 is one
// subscriber's.
const sourceBits = 64

// sources counts the open connections of each source. It holds no more entries than
// there are connections.
type sources struct {
	mu   sync.Mutex
	open map[netip.Addr]int
}

// sourceOf returns the source that an address belongs to.
func sourceOf(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is4() {
		return a
	}
	prefix, _ := a.Prefix(sourceBits) // fails for more bits than the address has
	return prefix.Addr()
}

// enter counts a connection of a source, unless it has limit already.
func (s *sources) enter(source netip.Addr, limit int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[source] >= limit {
		return false
	}
	s.open[source]++
	return true
}

func (s *sources) leave(source netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[source]--; s.open[source] == 0 {
		delete(s.open, source)
	}
}
