package policy

import (
	"errors"
	"fmt"
	"net/netip"
)

var (
	// ErrDenied is what every DeniedError wraps.
	ErrDenied = errors.New("target denied by the egress policy")

	// ErrOpensNothing is what CheckAllow's errors wrap.
	ErrOpensNothing = errors.New("opens nothing")
)

// Source is what decided about a target.
type Source uint8

// The sources, in the order in which they are asked.
const (
	NoTarget   Source = iota // no address, or port 0: denied
	DenyRule                 // a deny rule: denied
	AllowRule                // an allow rule inside a range that is denied otherwise: allowed
	OwnAddress               // the address is the gateway's: denied
	NonPublic                // the address is of a range that is not public: denied
	Public                   // nothing of the above: allowed
)

func (s Source) allows() bool { return s == AllowRule || s == Public }

// String returns a name such as "deny rule".
func (s Source) String() string {
	switch s {
	case NoTarget:
		return "no target"
	case DenyRule:
		return "deny rule"
	case AllowRule:
		return "allow rule"
	case OwnAddress:
		return "own address"
	case NonPublic:
		return "non-public range"
	case Public:
		return "public network"
	default:
		return fmt.Sprintf("source %d", uint8(s))
	}
}

// DeniedError says why a target was denied. It wraps ErrDenied.
type DeniedError struct {
	Target  netip.AddrPort
	verdict verdict
}

// Source returns what denied it, for a metric.
func (e *DeniedError) Source() Source { return e.verdict.source }

// Why returns the reason in plain words, as in "it is a private address
// (10.0.0.0/8)".
func (e *DeniedError) Why() string { return e.verdict.why(e.Target) }

// Remedy returns what in the configuration would allow the target.
func (e *DeniedError) Remedy() string { return e.verdict.remedy(e.Target) }

func (e *DeniedError) Error() string {
	return fmt.Sprintf("%v: %v: %s; %s", ErrDenied, e.Target, e.Why(), e.Remedy())
}

// Unwrap returns ErrDenied.
func (e *DeniedError) Unwrap() error { return ErrDenied }

// Decision is what the policy says about a target, and why.
type Decision struct {
	Target  netip.AddrPort
	Allowed bool
	Source  Source
	// Rule is the text of the rule or range that decided, empty where there is none.
	Rule string
	// Why is the reason, as in "it is a private address (10.0.0.0/8)".
	Why string
	// Remedy is what in the configuration would change a denial.
	Remedy string
}

// String returns the decision as a sentence or two.
func (d Decision) String() string {
	if d.Allowed {
		return fmt.Sprintf("%v is allowed: %s", d.Target, d.Why)
	}
	return fmt.Sprintf("%v is denied: %s; %s", d.Target, d.Why, d.Remedy)
}

// Explain decides as Check does and says by what.
func (p *Policy) Explain(target netip.AddrPort) Decision {
	v := p.judge(target)
	d := Decision{Target: target, Allowed: v.source.allows(), Source: v.source, Why: v.why(target)}
	switch {
	case v.rule != nil:
		d.Rule = v.rule.String()
	case v.within.IsValid():
		d.Rule = v.within.String()
	}
	if d.Allowed {
		return d
	}
	d.Remedy = v.remedy(target)
	if v.within.IsValid() {
		allow := p.rules.Load().allow
		for i := range allow {
			if r := &allow[i]; r.names(v.judged, target.Port()) {
				d.Why += fmt.Sprintf(", and the allow rule %q is wider than that, so it does not open it", r)
				break
			}
		}
	}
	return d
}

func (v *verdict) why(target netip.AddrPort) string {
	subject := "it"
	if addr := plain(target.Addr()); v.judged != addr {
		subject = fmt.Sprintf("it is %s and leads to %v, which", carrierOf(addr).what, v.judged)
	}
	switch v.source {
	case NoTarget:
		if target.Port() == 0 {
			return "it has no port"
		}
		return "it has no address"
	case DenyRule:
		return fmt.Sprintf("%s is named by the deny rule %q", subject, v.rule)
	case AllowRule:
		return fmt.Sprintf("%s is %s and named by the allow rule %q", subject, v.what, v.rule)
	case OwnAddress:
		return fmt.Sprintf("%s is %s", subject, v.what)
	case NonPublic:
		return fmt.Sprintf("%s is %s (%v)", subject, v.what, v.within)
	default:
		return "it is public and no deny rule names it"
	}
}

func (v *verdict) remedy(target netip.AddrPort) string {
	exact := Rule{First: target.Port(), Last: target.Port()}
	if v.judged.IsValid() {
		exact.Prefix = netip.PrefixFrom(v.judged, v.judged.BitLen())
	}
	switch v.source {
	case DenyRule:
		return fmt.Sprintf("to allow it, take %q out of deny in [egress] or make it narrower", v.rule)
	case OwnAddress:
		return fmt.Sprintf("to allow it, add %q to allow in [egress]: a rule for just this address", exact)
	case NonPublic:
		if v.within.IsSingleIP() {
			return fmt.Sprintf("to allow it, add %q to allow in [egress]: a rule for just this address", exact)
		}
		return fmt.Sprintf("to allow it, add %q, or a wider rule inside %v, to allow in [egress]", exact, v.within)
	default:
		return "name an address and a port from 1 to 65535"
	}
}
