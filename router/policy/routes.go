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

// maxCachedRoutes bounds each of the two generations of a routeCache.
const maxCachedRoutes = 1 << 15

// routeCache holds the routes of the addresses that were looked up last, until the next change.
type routeCache struct {
	mu          sync.Mutex
	changes     uint64
	recent, old map[netip.Addr]Route
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

// store adds a route that was looked up after a call of find, unless it may be older than the last change.
func (c *routeCache) store(addr netip.Addr, r Route, changes uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if changes == c.changes {
		c.add(addr, r)
	}
}

func (c *routeCache) add(addr netip.Addr, r Route) {
	if len(c.recent) >= maxCachedRoutes {
		c.recent, c.old = nil, c.recent
	}
	if c.recent == nil {
		c.recent = make(map[netip.Addr]Route)
	}
	c.recent[addr] = r
}

func (c *routeCache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes++
	c.recent, c.old = nil, nil
}

// route returns the description of an address that the system does not route to one other machine, or "".
func (p *Policy) route(addr netip.Addr) (what string) {
	// These have ranges of their own.
	if p.routes == nil || addr.IsLoopback() || addr.IsMulticast() || addr.IsUnspecified() {
		return ""
	}
	r, changes, ok := p.cache.find(addr)
	if !ok {
		var err error
		if r, err = p.routes.Route(addr); err != nil {
			return "possibly " + ownAddress + ", as the system's routing table cannot be read"
		}
		p.cache.store(addr, r, changes)
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
