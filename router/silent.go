package router

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

const (
	// silence is how long an address of a name may leave datagrams unanswered before the next is tried.
	silence = time.Second
	// silentFor is how long an address that did not answer comes after the name's others.
	silentFor = 5 * time.Minute
	// maxSilent bounds the addresses that are remembered.
	maxSilent = 1024
)

// silentAddrs remembers which addresses of names did not answer, so that others come first. The zero
// value is ready to use.
type silentAddrs struct{ since map[silentAddr]time.Time }

// silentAddr is an address of one name: whoever controls a name can order its addresses alone.
type silentAddr struct {
	name string
	addr netip.Addr
}

func (s *silentAddrs) add(now time.Time, name string, addr netip.Addr) {
	if s.since == nil {
		s.since = make(map[silentAddr]time.Time)
	}
	if len(s.since) >= maxSilent {
		clear(s.since)
	}
	s.since[silentAddr{name, addr}] = now
}

// order returns a name's addresses with the silent ones last, the latest at the end.
func (s *silentAddrs) order(now time.Time, name string, addrs []netip.Addr) []netip.Addr {
	at := func(a netip.Addr) int64 {
		if since, ok := s.since[silentAddr{name, a}]; ok && now.Sub(since) < silentFor {
			return since.UnixNano()
		}
		return 0
	}
	ordered := slices.Clone(addrs)
	slices.SortStableFunc(ordered, func(a, b netip.Addr) int { return cmp.Compare(at(a), at(b)) })
	return ordered
}
