package policy

import (
	"context"
	"errors"
	"net/netip"
	"sync"
)

// Route is the kind of an address in the system's routing table.
type Route uint8

const (
	RouteRemote    Route = iota // to another machine, or no route
	RouteLocal                  // to this machine, whichever interface has the address, if any
	RouteBroadcast              // to every machine of a network
	RouteMulticast
)

// RouteTable is the system's routing table. Its methods are safe for concurrent use.
type RouteTable interface {
	// Route returns the kind of an address that is not multicast and has no zone.
	Route(netip.Addr) (Route, error)
	// Wait returns nil once routes, addresses or interfaces have changed since the last call, and an
	// error once ctx is done or changes are no longer reported.
	Wait(ctx context.Context) error
}

// Bounds of a routeCache: addresses of a generation, and generations that await recheck.
const (
	maxCachedRoutes = 1 << 15
	maxStale        = 8
)

// routeCache holds the routes of the addresses that were looked up last, until the next change, and
// after it for a comparison.
type routeCache struct {
	mu          sync.Mutex
	changes     uint64 // so far
	rechecked   uint64 // changes when recheck was called last
	recent, old map[netip.Addr]Route
	stale       []map[netip.Addr]Route // from before the changes since then
	incomplete  bool                   // a route that decided since then is in none of these maps
}

func (c *routeCache) find(addr netip.Addr) (r Route, changes uint64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r, ok = c.recent[addr]; ok {
		return r, c.changes, true
	}
	if r, ok = c.old[addr]; ok {
		c.add(addr, r)
	}
	return r, c.changes, ok
}

// store adds a route that was looked up after a call of find, and reports false if it may be older than
// the last change.
func (c *routeCache) store(addr netip.Addr, r Route, changes uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if changes != c.changes {
		return false
	}
	c.add(addr, r)
	return true
}

func (c *routeCache) add(addr netip.Addr, r Route) {
	if len(c.recent) >= maxCachedRoutes {
		c.incomplete = c.incomplete || len(c.old) > 0
		c.recent, c.old = nil, c.recent
	}
	if c.recent == nil {
		c.recent = make(map[netip.Addr]Route)
	}
	c.recent[addr] = r
}

// clear marks all routes as stale.
func (c *routeCache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes++
	for _, m := range []map[netip.Addr]Route{c.recent, c.old} {
		if len(m) > 0 {
			c.stale = append(c.stale, m)
		}
	}
	if len(c.stale) > maxStale {
		c.stale, c.incomplete = nil, true
	}
	c.recent, c.old = nil, nil
}

// recheck looks the stale routes up again, outside of any lock, and reports whether one may differ
// from the one that decided.
func (p *Policy) recheck() bool {
	c := &p.cache
	c.mu.Lock()
	if c.rechecked == c.changes {
		c.mu.Unlock()
		return false
	}
	c.rechecked = c.changes
	stale, changed := c.stale, c.incomplete
	c.stale, c.incomplete = nil, false
	c.mu.Unlock()
	for _, m := range stale {
		for addr, before := range m {
			now, err := p.lookup(addr)
			changed = changed || err != nil || now != before
		}
	}
	return changed
}

// lookup returns an address's route from the cache or the routing table.
func (p *Policy) lookup(addr netip.Addr) (Route, error) {
	for {
		r, changes, ok := p.cache.find(addr)
		if ok {
			return r, nil
		}
		r, err := p.routes.Route(addr)
		if err != nil || p.cache.store(addr, r, changes) {
			return r, err
		}
	}
}

// route returns the description of an address that the system does not route to one other machine, or "".
func (p *Policy) route(addr netip.Addr) (what string) {
	// These have ranges of their own.
	if p.routes == nil || addr.IsLoopback() || addr.IsMulticast() || addr.IsUnspecified() {
		return ""
	}
	r, err := p.lookup(addr)
	if err != nil {
		return "possibly " + ownAddress + ", as the system's routing table cannot be read"
	}
	switch r {
	case RouteLocal:
		return ownAddress
	case RouteBroadcast:
		return "a broadcast address of the gateway's network"
	case RouteMulticast:
		return multicast
	default:
		return ""
	}
}

// Wait waits for a change of the system's routing table, after which earlier decisions no longer hold.
// Its errors are those of RouteTable, or errors.ErrUnsupported without a routing table.
func (p *Policy) Wait(ctx context.Context) error {
	if p.routes == nil {
		return errors.ErrUnsupported
	}
	err := p.routes.Wait(ctx)
	p.cache.clear()
	return err
}
