package policy

import (
	"errors"
	"fmt"
	"net/netip"
)

// ErrDenied is wrapped by every DeniedError.
var ErrDenied = errors.New("target denied by the egress policy")

// Source is the reason for a decision.
type Source uint8

const (
	NoTarget   Source = iota // no address, or port 0: denied
	Gateway                  // a gateway of the directory: denied
	DenyRule                 // a deny rule: denied
	AllowRule                // an allow rule: allowed
	OwnAddress               // an address of the gateway: denied
	NonPublic                // a non-public range: denied
	NoRule                   // public, denied by default: no allow rule matches
	Public                   // the public network: allowed
)

// decision is the result for a target.
type decision struct {
	source Source
	addr   netip.Addr   // the target's address, or one that it embeds
	rule   *Rule        // the rule that decided
	within netip.Prefix // the range that denies, or would without the rule
	what   string       // the description of that range
}

func (s Source) allows() bool { return s == AllowRule || s == Public }

// String returns a name such as "deny rule".
func (s Source) String() string {
	names := [...]string{"no target", "gateway of the directory", "deny rule", "allow rule", "own address", "non-public range", "default", "public network"}
	if int(s) >= len(names) {
		return fmt.Sprintf("source %d", uint8(s))
	}
	return names[s]
}

// DeniedError is the reason why a target was denied. It wraps ErrDenied.
type DeniedError struct {
	Target   netip.AddrPort
	decision decision
}

// Source returns the reason as a constant.
func (e *DeniedError) Source() Source { return e.decision.source }

// Rule returns the rule that decided, or the range, or the empty string.
func (e *DeniedError) Rule() string { return e.decision.ruleText() }

// Why returns the reason as text, such as "it is a private address (10.0.0.0/8)".
func (e *DeniedError) Why() string { return e.decision.why(e.Target) }

// Remedy returns the change of configuration that would allow the target.
func (e *DeniedError) Remedy() string { return e.decision.remedy(e.Target) }

func (e *DeniedError) Error() string {
	return fmt.Sprintf("%v: %v: %s; %s", ErrDenied, e.Target, e.Why(), e.Remedy())
}

// Unwrap returns ErrDenied.
func (e *DeniedError) Unwrap() error { return ErrDenied }

// Decision is the result for a target, allowed or not.
type Decision struct {
	Target  netip.AddrPort
	Allowed bool
	Source  Source
	Rule    string // the rule that decided, or the range
	Why     string // such as "it is a private address (10.0.0.0/8)"
	Remedy  string // the change of configuration that would allow the target; empty if it is allowed
}

// Explain decides as Check does, and returns the reason for allowed targets as well.
func (p *Policy) Explain(target netip.AddrPort) Decision {
	d := p.decide(target)
	e := Decision{Target: target, Allowed: d.source.allows(), Source: d.source, Why: d.why(target), Rule: d.ruleText()}
	if !e.Allowed {
		e.Remedy = d.remedy(target)
	}
	return e
}

// ruleText returns the rule that decided, or the range, or the empty string.
func (d *decision) ruleText() string {
	switch {
	case d.rule != nil:
		return d.rule.String()
	case d.within.IsValid():
		return d.within.String()
	}
	return ""
}

func (d Decision) String() string {
	return fmt.Sprintf("%v: allowed %v by %v %q: %s", d.Target, d.Allowed, d.Source, d.Rule, d.Why)
}

func (d *decision) why(target netip.AddrPort) string {
	subject := "it"
	if addr := plain(target.Addr()); d.addr != addr {
		subject = fmt.Sprintf("it is %s and leads to %v, which", embeddingOf(addr).what, d.addr)
	}
	switch d.source {
	case NoTarget:
		if target.Port() == 0 {
			return "it has no port"
		}
		return "it has no address"
	case Gateway:
		return subject + " is a gateway that this one forwards to"
	case DenyRule:
		return fmt.Sprintf("%s matches the deny rule %q", subject, d.rule)
	case AllowRule:
		if d.what == "" {
			return fmt.Sprintf("%s matches the allow rule %q", subject, d.rule)
		}
		return fmt.Sprintf("%s is %s and matches the allow rule %q", subject, d.what, d.rule)
	case OwnAddress:
		return fmt.Sprintf("%s is %s", subject, d.what)
	case NonPublic:
		return fmt.Sprintf("%s is %s (%v)", subject, d.what, d.within)
	case NoRule:
		return subject + " matches no allow rule, and targets are denied by default"
	default:
		return "it is public and matches no deny rule"
	}
}

func (d *decision) remedy(target netip.AddrPort) string {
	exact := Rule{First: target.Port(), Last: target.Port()}
	if d.addr.IsValid() {
		exact.Prefix = netip.PrefixFrom(d.addr, d.addr.BitLen())
	}
	switch d.source {
	case Gateway:
		return "no rule allows it: clients reach that gateway by --via with this one"
	case DenyRule:
		return fmt.Sprintf("to allow it, remove %q from deny in [egress] or narrow it", d.rule)
	case OwnAddress:
		return fmt.Sprintf("to allow it, add %q to allow in [egress]: a rule for just this address", exact)
	case NonPublic:
		if d.within.IsSingleIP() {
			return fmt.Sprintf("to allow it, add %q to allow in [egress]: a rule for just this address", exact)
		}
		return fmt.Sprintf("to allow it, add %q, or a wider rule inside %v, to allow in [egress]", exact, d.within)
	case NoRule:
		return fmt.Sprintf("to allow it, add %q or a wider rule to allow in [egress]", exact)
	default:
		return "give an address and a port from 1 to 65535"
	}
}
