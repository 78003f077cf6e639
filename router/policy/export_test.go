package policy

import (
	"fmt"
	"net/netip"
)

// Decision makes the reasons of allowed targets visible to tests, which Check
// does not return.
type Decision struct {
	Target    netip.AddrPort
	Allowed   bool
	Source    Source
	Rule, Why string // Rule is the rule or range that decided
}

func (d Decision) String() string {
	return fmt.Sprintf("%v: allowed %v by %v %q: %s", d.Target, d.Allowed, d.Source, d.Rule, d.Why)
}

// Explain decides as Check does.
func (p *Policy) Explain(target netip.AddrPort) Decision {
	d := p.decide(target)
	e := Decision{Target: target, Allowed: d.source.allows(), Source: d.source, Why: d.why(target)}
	switch {
	case d.rule != nil:
		e.Rule = d.rule.String()
	case d.within.IsValid():
		e.Rule = d.within.String()
	}
	return e
}

// MaxCachedRoutes is the bound of half of the cache.
const MaxCachedRoutes = maxCachedRoutes

// CachedRoutes returns the number of cached routes.
func (p *Policy) CachedRoutes() int { return len(p.cache.recent) + len(p.cache.old) }
