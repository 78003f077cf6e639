package policy_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"lewes/router/policy"
)

// table is a routing table that counts look-ups.
type table struct {
	mu      sync.Mutex
	routes  map[netip.Addr]policy.Route
	lookups int
	fail    error
	during  func() // called during a look-up
	changed chan struct{}
}

func (r *table) Route(addr netip.Addr) (policy.Route, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lookups++
	route := r.routes[addr]
	if r.during != nil {
		r.during()
	}
	return route, r.fail
}

func (r *table) Wait(ctx context.Context) error {
	select {
	case <-r.changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func newTable(local ...string) *table {
	r := &table{routes: make(map[netip.Addr]policy.Route), changed: make(chan struct{}, 1)}
	for _, s := range local {
		r.routes[netip.MustParseAddr(s)] = policy.RouteLocal
	}
	return r
}

// Shows R8.12.
func TestRoutedAddressesAreDenied(t *testing.T) {
	routes := newTable("198.51.100.7", "10.0.0.5", "2001:db8::7", "127.0.0.1", "203.0.113.9")
	routes.routes[netip.MustParseAddr("198.51.100.255")] = policy.RouteBroadcast
	routes.routes[netip.MustParseAddr("203.0.113.1")] = policy.RouteMulticast
	p := policy.New(policy.Config{Routes: routes, Allow: mustRules("10.0.0.0/8", "127.0.0.0/8", "203.0.113.9:53", "239.0.0.0/8")})
	for s, want := range map[string]struct {
		allowed bool
		why     string
	}{
		"198.51.100.7:53":            {false, "own addresses"},
		"198.51.100.8:53":            {true, "public"},
		"10.0.0.5:53":                {false, "own addresses"}, // a rule for its network is wider
		"10.0.0.6:53":                {true, "allow rule"},
		"[2001:db8::7]:53":           {false, "own addresses"},
		"[64:ff9b::198.51.100.7]:53": {false, "leads to 198.51.100.7"},
		"127.0.0.1:53":               {true, "allow rule"}, // loopback and multicast have ranges of their own
		"239.1.2.3:53":               {true, "allow rule"},
		"203.0.113.9:53":             {true, "own addresses and matches the allow rule"},
		"203.0.113.9:54":             {false, "own addresses"},
		"198.51.100.255:53":          {false, "broadcast"},
		"203.0.113.1:53":             {false, "multicast"},
	} {
		if d := p.Explain(netip.MustParseAddrPort(s)); d.Allowed != want.allowed || !strings.Contains(d.Why, want.why) {
			t.Errorf("%v, want %+v", d, want)
		}
	}
	routes.fail = errors.New("no memory")
	unknown := netip.MustParseAddrPort("8.8.8.8:53")
	if d := p.Explain(unknown); d.Allowed || d.Source != policy.OwnAddress {
		t.Errorf("without an answer: %v", d)
	}
	routes.fail = nil
	if d := p.Explain(unknown); !d.Allowed {
		t.Errorf("the failure was kept: %v", d)
	}
}

func TestRoutesAreCachedUntilChange(t *testing.T) {
	routes := newTable()
	p := policy.New(policy.Config{Routes: routes})
	target := netip.MustParseAddrPort("198.51.100.7:53")
	lookups := func(want int) {
		t.Helper()
		if !p.Allowed(target) || routes.lookups != want {
			t.Errorf("allowed %v after %d look-ups, want %d", p.Allowed(target), routes.lookups, want)
		}
	}
	lookups(1)
	lookups(1)
	routes.changed <- struct{}{}
	if err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	lookups(2)
	lookups(2)
	refresh := func(want bool) {
		t.Helper()
		if changed, err := p.Refresh(); err != nil || changed != want {
			t.Errorf("changed %v, %v, want %v", changed, err, want)
		}
	}
	refresh(false)
	lookups(2)

	// Refresh looks the addresses up again, outside of decisions, and compares.
	change := func() {
		t.Helper()
		routes.changed <- struct{}{}
		if err := p.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	change()
	refresh(false)
	lookups(3)
	routes.routes[target.Addr()] = policy.RouteLocal
	change()
	change()
	refresh(true)
	refresh(false)
	if p.Allowed(target) {
		t.Error("the new route does not apply")
	}
	delete(routes.routes, target.Addr())
	for range 100 { // more than are remembered
		change()
		p.Allowed(target)
	}
	refresh(true)
	refresh(false)

	// The network changes during a look-up: its answer does not count.
	change()
	routes.during = func() {
		routes.during = nil
		routes.routes[target.Addr()] = policy.RouteLocal
		change()
	}
	if p.Allowed(target) {
		t.Error("allowed by a route from before the change")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Wait(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait after the end: %v", err)
	}
}

// The cache is bounded, and keeps the addresses in use.
func TestRouteCacheIsBounded(t *testing.T) {
	routes := newTable()
	p := policy.New(policy.Config{Routes: routes})
	used := netip.MustParseAddrPort("198.51.100.7:53")
	p.Allowed(used)
	const others = 5 * policy.MaxCachedRoutes
	for i := range uint32(others) {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], 0x20000000+i)
		p.Allowed(netip.AddrPortFrom(netip.AddrFrom4(a), 53))
		if i%(policy.MaxCachedRoutes/2) == 0 {
			p.Allowed(used)
		}
	}
	if n := p.CachedRoutes(); n > 2*policy.MaxCachedRoutes {
		t.Errorf("%d addresses are cached, want at most %d", n, 2*policy.MaxCachedRoutes)
	}
	if routes.lookups != 1+others {
		t.Errorf("%d look-ups, want 1 for the address in use and %d", routes.lookups, others)
	}
	change := func() {
		routes.changed <- struct{}{}
		if err := p.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	change()
	if changed, err := p.Refresh(); err != nil || !changed {
		t.Errorf("changed %v, %v: routes that were evicted may have changed", changed, err)
	}
	p.Allowed(used)
	if n := testing.AllocsPerRun(100, func() { p.Allowed(used) }); n != 0 {
		t.Errorf("a cached decision allocates %v times", n)
	}
}
