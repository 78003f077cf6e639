package policy

import (
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
)

// Config is the configuration of a Policy. The zero Config allows exactly the
// public network, the gateway's own public addresses included.
type Config struct {
	Allow, Deny []Rule
	// DenyByDefault denies the public network as well: only targets that match an allow rule are allowed.
	DenyByDefault bool
	// Own returns the gateway's addresses: those of its interfaces and those that
	// it is reached by (see HostAddrs). nil means none.
	Own func() []netip.Addr
	// Routes denies the addresses that the system routes to itself or to many machines, as it denies
	// those of Own. nil: Own alone counts. Replace ignores it.
	Routes RouteTable
}

// Policy decides which targets clients may send to. It is safe for concurrent use.
type Policy struct {
	rules atomic.Pointer[rules]
	own   atomic.Pointer[ownSet]

	refreshing sync.Mutex // held by Refresh

	gateways atomic.Pointer[func(netip.AddrPort) bool]

	routes RouteTable // immutable; nil: none
	cache  routeCache
}

// rules is immutable.
type rules struct {
	allow, deny   []Rule
	denyByDefault bool
	queryOwn      func() []netip.Addr
}

// New returns a Policy and calls Config.Own for the first time. It ignores an error of Refresh.
func New(c Config) *Policy {
	p := &Policy{routes: c.Routes}
	_ = p.Replace(c)
	return p
}

// Replace applies another Config. Its error is that of Refresh, after which the
// previously known addresses of the gateway are still denied.
func (p *Policy) Replace(c Config) error {
	p.rules.Store(&rules{allow: slices.Clone(c.Allow), deny: slices.Clone(c.Deny), denyByDefault: c.DenyByDefault, queryOwn: c.Own})
	_, err := p.Refresh()
	return err
}

// DenyGateways denies the targets for which serves returns true, whatever the rules: the addresses at
// which the gateways of the directory receive packets. A client that sent its handshakes there on a
// plain flow would avoid the limit on inner ClientHellos (section 8). The target's address is in its
// canonical form. serves must be safe for concurrent use.
func (p *Policy) DenyGateways(serves func(netip.AddrPort) bool) { p.gateways.Store(&serves) }

// Allowed reports whether clients may send to target. It does not allocate.
func (p *Policy) Allowed(target netip.AddrPort) bool {
	return p.decide(target).source.allows()
}

// Check returns nil if clients may send to target, otherwise a *DeniedError. It
// allocates only that error.
func (p *Policy) Check(target netip.AddrPort) error {
	if d := p.decide(target); !d.source.allows() {
		return &DeniedError{Target: target, decision: d}
	}
	return nil
}

func (p *Policy) decide(target netip.AddrPort) decision {
	addr, port := plain(target.Addr()), target.Port()
	if !addr.IsValid() || port == 0 {
		return decision{source: NoTarget, addr: addr}
	}
	embedding := embeddingOf(addr)
	var inner [maxFields]netip.Addr
	var n int
	if embedding != nil {
		inner, n = embedding.addrs(addr)
	}

	if d := p.deny(addr, port); d.source != Public {
		return d
	}
	for _, a := range inner[:n] {
		if d := p.deny(a, port); d.source != Public {
			return d
		}
	}

	d := p.decideRange(addr, port)
	if embedding == nil || !d.source.allows() || d.within.IsValid() {
		return d
	}
	if r := p.allowRule(addr, port, embedding.prefix); r != nil {
		return decision{source: AllowRule, addr: addr, rule: r, within: embedding.prefix, what: embedding.what}
	}
	for _, a := range inner[:n] {
		switch di := p.decideRange(a, port); {
		case !di.source.allows():
			return di
		case di.source == AllowRule:
			d = di
		}
	}
	return d
}

// decideRange decides about one address, without the deny rules.
func (p *Policy) decideRange(addr netip.Addr, port uint16) decision {
	if p.isOwn(addr) {
		return p.openedBy(decision{source: OwnAddress, addr: addr, what: ownAddress, within: single(addr)}, port)
	}
	d := decision{source: Public, addr: addr}
	if r := nonPublicRange(addr); r != nil {
		d = p.openedBy(decision{source: NonPublic, addr: addr, what: r.what, within: r.prefix}, port)
	} else if p.rules.Load().denyByDefault {
		d = p.openedBy(decision{source: NoRule, addr: addr}, port)
	}
	if !d.source.allows() || d.source == AllowRule && d.rule.Prefix == single(addr) {
		return d // the route would not change it
	}
	if what := p.route(addr); what != "" {
		return p.openedBy(decision{source: OwnAddress, addr: addr, what: what, within: single(addr)}, port)
	}
	return d
}

// single returns the range of one address.
func single(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

// openedBy returns the decision for a target that is denied without an allow rule, which must lie inside
// the range d.within if there is one.
func (p *Policy) openedBy(d decision, port uint16) decision {
	if r := p.allowRule(d.addr, port, d.within); r != nil {
		d.source, d.rule = AllowRule, r
	}
	return d
}

// deny decides about one address by what no allow rule overrides; Public means nothing of that applies.
func (p *Policy) deny(addr netip.Addr, port uint16) decision {
	if serves := p.gateways.Load(); serves != nil && (*serves)(netip.AddrPortFrom(addr, port)) {
		return decision{source: Gateway, addr: addr}
	}
	if r := p.denyRule(addr, port); r != nil {
		return decision{source: DenyRule, addr: addr, rule: r}
	}
	return decision{source: Public, addr: addr}
}

func (p *Policy) denyRule(addr netip.Addr, port uint16) *Rule {
	deny := p.rules.Load().deny
	for i := range deny {
		if deny[i].matches(addr, port) {
			return &deny[i]
		}
	}
	return nil
}

// allowRule returns the first allow rule that matches the target and lies inside a range, if it is valid.
func (p *Policy) allowRule(addr netip.Addr, port uint16, within netip.Prefix) *Rule {
	allow := p.rules.Load().allow
	for i := range allow {
		if allow[i].matches(addr, port) && (!within.IsValid() || allow[i].inside(within)) {
			return &allow[i]
		}
	}
	return nil
}

// ErrOwnUnknown means that the gateway's addresses could not be determined.
var ErrOwnUnknown = errors.New("cannot determine the gateway's own addresses")

// ownSet is immutable.
type ownSet map[netip.Addr]bool

// Refresh calls Config.Own again for the gateway's addresses, and looks up routes again that Wait has
// reported as changed. It is to be called periodically and after a change of the network, and reports
// whether decisions may have changed since the last call. An empty result of Own, which a host with a
// network never has, keeps the known addresses and gives ErrOwnUnknown.
func (p *Policy) Refresh() (changed bool, err error) {
	p.refreshing.Lock() // the result of an earlier query must not replace that of a later one
	defer p.refreshing.Unlock()
	changed = p.recheck()
	query := p.rules.Load().queryOwn
	if query == nil {
		return changed, nil
	}
	answer := query()
	if len(answer) == 0 {
		return changed, ErrOwnUnknown
	}
	set := make(ownSet, len(answer))
	for _, addr := range answer {
		addr = plain(addr)
		// Loopback has a range of its own.
		if addr.IsValid() && !addr.IsUnspecified() && !addr.IsLoopback() {
			set[addr] = true
		}
	}
	before := p.own.Swap(&set)
	return changed || before == nil || !maps.Equal(*before, set), nil
}

func (p *Policy) isOwn(addr netip.Addr) bool {
	set := p.own.Load()
	return set != nil && (*set)[addr]
}

// HostAddrs returns a function for Config.Own that returns the current addresses
// of all interfaces and the public ones given here, which no interface has behind
// NAT. It returns nothing if the interfaces cannot be read.
func HostAddrs(public ...netip.Addr) func() []netip.Addr {
	return func() []netip.Addr {
		found, err := net.InterfaceAddrs()
		if err != nil {
			return nil
		}
		list := make([]netip.Addr, 0, len(found)+len(public))
		for _, a := range found {
			if n, ok := a.(*net.IPNet); ok {
				if addr, ok := netip.AddrFromSlice(n.IP); ok {
					list = append(list, addr.Unmap())
				}
			}
		}
		if len(list) == 0 {
			return nil
		}
		return append(list, public...)
	}
}

// plain returns the address in its canonical form.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }
