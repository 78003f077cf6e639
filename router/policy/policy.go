package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
)

// Config is what a Policy is made from. The zero Config allows the public network
// and nothing else, the gateway's own public addresses included.
type Config struct {
	Allow, Deny []Rule
	// Own gives the gateway's addresses: those of all interfaces, and those that it
	// is known by outside. HostAddrs makes one. nil is none.
	Own func() []netip.Addr
}

// Policy says which targets clients may send to. Its methods may be called by any
// number of goroutines at once.
type Policy struct {
	rules atomic.Pointer[rules]
	own   atomic.Pointer[ownSet]
}

// rules is never changed once it is stored.
type rules struct {
	allow, deny []Rule
	ask         func() []netip.Addr
}

// New makes a Policy, and asks Config.Own for the first time. An owner that wants
// to know how that went calls Refresh.
func New(c Config) *Policy {
	p := new(Policy)
	_ = p.Replace(c) // nothing is known before, so there is nothing to keep or to report
	return p
}

// Replace makes the policy that of another Config from now on. Its error is that of
// Refresh: the gateway's addresses that were known are denied then.
func (p *Policy) Replace(c Config) error {
	p.rules.Store(&rules{allow: slices.Clone(c.Allow), deny: slices.Clone(c.Deny), ask: c.Own})
	return p.Refresh()
}

// Allowed tells whether clients may send to target. It allocates nothing.
func (p *Policy) Allowed(target netip.AddrPort) bool {
	return p.judge(target).source.allows()
}

// Check returns nil if clients may send to target, otherwise a *DeniedError, which
// wraps ErrDenied. It allocates nothing but that error.
func (p *Policy) Check(target netip.AddrPort) error {
	if v := p.judge(target); !v.source.allows() {
		return &DeniedError{Target: target, verdict: v}
	}
	return nil
}

// verdict is a decision before anybody has asked for it in words.
type verdict struct {
	source Source
	judged netip.Addr   // the target's address, or one that it carries
	rule   *Rule        // that decided
	within netip.Prefix // the range that denies, or would but for the rule
	what   string       // what an address of that range is
}

func (p *Policy) judge(target netip.AddrPort) verdict {
	addr, port := plain(target.Addr()), target.Port()
	if !addr.IsValid() || port == 0 {
		return verdict{source: NoTarget, judged: addr}
	}
	carrier := carrierOf(addr)
	var inner [maxPlaces]netip.Addr
	var n int
	if carrier != nil {
		inner, n = carrier.embedded(addr)
	}

	if r := p.denyRule(addr, port); r != nil {
		return verdict{source: DenyRule, judged: addr, rule: r}
	}
	for _, a := range inner[:n] {
		if r := p.denyRule(a, port); r != nil {
			return verdict{source: DenyRule, judged: a, rule: r}
		}
	}

	v := p.judgeRange(addr, port)
	if carrier == nil || !v.source.allows() || v.source == AllowRule {
		return v
	}
	if r := p.allowRule(addr, port, carrier.prefix); r != nil {
		return verdict{source: AllowRule, judged: addr, rule: r, within: carrier.prefix, what: carrier.what}
	}
	for _, a := range inner[:n] {
		switch vi := p.judgeRange(a, port); {
		case !vi.source.allows():
			return vi
		case vi.source == AllowRule:
			v = vi
		}
	}
	return v
}

// judgeRange judges an address by itself, deny rules aside.
func (p *Policy) judgeRange(addr netip.Addr, port uint16) verdict {
	v := verdict{source: Public, judged: addr}
	if p.isOwn(addr) {
		v.source, v.within, v.what = OwnAddress, netip.PrefixFrom(addr, addr.BitLen()), ownAddress
	} else if r := nonPublicRange(addr); r != nil {
		v.source, v.within, v.what = NonPublic, r.prefix, r.what
	} else {
		return v
	}
	if r := p.allowRule(addr, port, v.within); r != nil {
		v.source, v.rule = AllowRule, r
	}
	return v
}

func (p *Policy) denyRule(addr netip.Addr, port uint16) *Rule {
	deny := p.rules.Load().deny
	for i := range deny {
		if deny[i].names(addr, port) {
			return &deny[i]
		}
	}
	return nil
}

// allowRule returns the first allow rule that names the target and lies inside a
// range.
func (p *Policy) allowRule(addr netip.Addr, port uint16, within netip.Prefix) *Rule {
	allow := p.rules.Load().allow
	for i := range allow {
		if allow[i].names(addr, port) && allow[i].inside(within) {
			return &allow[i]
		}
	}
	return nil
}

// CheckAllow returns an error, which wraps ErrOpensNothing, for a rule that does
// nothing as an allow rule: its addresses are public, or it is wider than the
// ranges that it meets. Whoever wrote it means something else by it, the usual
// guess being that all other targets are then denied.
func CheckAllow(r Rule) error {
	if r.Prefix.IsSingleIP() {
		return nil // it may be the gateway's own
	}
	for _, list := range [][]nonPublic{nonPublic4, nonPublic6} {
		for i := range list {
			if r.inside(list[i].prefix) {
				return nil
			}
		}
	}
	for i := range carriers {
		if r.inside(carriers[i].prefix) {
			return nil
		}
	}
	return fmt.Errorf("%q %w: public targets are allowed without a rule, and a range that is denied by default is opened only by a rule that lies inside it, such as \"10.0.0.0/8\"; to keep clients from targets, name those in deny", r, ErrOpensNothing)
}
