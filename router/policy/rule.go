package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

var (
	// ErrRule means that a text is not a rule.
	ErrRule = errors.New("not a rule")

	// ErrOpensNothing is wrapped by the errors of CheckAllow.
	ErrOpensNothing = errors.New("opens nothing")
)

// ruleForms is the end of every error about a rule's text.
const ruleForms = `a rule is an address, a range of addresses, or * for all, with or without a port or a range of ports: "198.51.100.0/24", "198.51.100.7:53", "198.51.100.0/24:1000-2000", "[2001:db8::/32]:53", "*:443"`

const maxRuleText = 100 // longer than any rule

// Rule matches the targets with an address in Prefix and a port from First to
// Last. The zero Rule matches every target.
//
// Its text has one form, with or without ports:
//
//	198.51.100.7           one address
//	198.51.100.0/24:53     a range and a port
//	198.51.100.0/24:1-99   a range and ports, inclusive
//	2001:db8::/32          IPv6 without ports needs no brackets
//	[2001:db8::/32]:53
//	*                      every address of both families
//	*:443
type Rule struct {
	Prefix      netip.Prefix // masked; the zero Prefix is every address of both families
	First, Last uint16       // both 0 is every port
}

// ParseRule parses a rule's text. The error wraps ErrRule.
func ParseRule(s string) (Rule, error) {
	if len(s) > maxRuleText {
		return Rule{}, fmt.Errorf("%q… is %d characters long: %w; %s", s[:maxRuleText], len(s), ErrRule, ruleForms)
	}
	address, ports := cutPorts(s)
	prefix, err := parsePrefix(address)
	if err != nil {
		return Rule{}, fmt.Errorf("%q: %w: %w; %s", s, ErrRule, err, ruleForms)
	}
	r := Rule{Prefix: prefix}
	if ports != nil {
		r.First, r.Last, err = parsePorts(*ports)
		if err != nil {
			return Rule{}, fmt.Errorf("%q: %w: %w; %s", s, ErrRule, err, ruleForms)
		}
	}
	return r, nil
}

// cutPorts splits a rule's text. ports is nil if it has none.
func cutPorts(s string) (address string, ports *string) {
	if inner, ok := strings.CutPrefix(s, "["); ok {
		address, after, closed := strings.Cut(inner, "]")
		switch {
		case closed && after == "":
			return address, nil
		case closed && after[0] == ':':
			after = after[1:]
			return address, &after
		default:
			return s, nil // not an address either, so parsePrefix fails
		}
	}
	// With more than one colon it is an IPv6 address, whose ports need brackets.
	if address, after, found := strings.Cut(s, ":"); found && !strings.Contains(after, ":") {
		return address, &after
	}
	return s, nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if s == "*" {
		return netip.Prefix{}, nil
	}
	var prefix netip.Prefix
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("%q is not a range of addresses", s)
		}
		prefix = p
	} else {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("%q is not an address (rules match resolved addresses, not names)", s)
		}
		if a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("the address %q has a zone", s)
		}
		prefix = netip.PrefixFrom(a, a.BitLen())
	}
	if prefix.Addr().Is4In6() && prefix.Bits() >= 96 {
		return netip.Prefix{}, fmt.Errorf("%q is IPv4 written as IPv6: write %s", s, netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96))
	}
	if masked := prefix.Masked(); masked != prefix {
		return netip.Prefix{}, fmt.Errorf("%q has bits set beyond its length: write %s for the range, or %s for the address", s, masked, prefix.Addr())
	}
	return prefix, nil
}

func parsePorts(s string) (first, last uint16, err error) {
	from, to, isRange := strings.Cut(s, "-")
	if first, err = parsePort(from); err != nil {
		return 0, 0, err
	}
	if !isRange {
		return first, first, nil
	}
	if last, err = parsePort(to); err != nil {
		return 0, 0, err
	}
	if first > last {
		return 0, 0, fmt.Errorf("the ports %q are reversed: write %d-%d", s, last, first)
	}
	return first, last, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '0' {
		return 0, fmt.Errorf("%q is not a port from 1 to 65535", s)
	}
	return uint16(n), nil
}

// String returns the rule's text.
func (r Rule) String() string {
	address := "*"
	if r.Prefix.IsValid() {
		address = r.Prefix.String()
		if r.Prefix.IsSingleIP() {
			address = r.Prefix.Addr().String()
		}
	}
	if r.everyPort() {
		return address
	}
	ports := strconv.Itoa(int(r.First))
	if r.Last != r.First {
		ports += "-" + strconv.Itoa(int(r.Last))
	}
	if r.Prefix.Addr().Is6() {
		address = "[" + address + "]"
	}
	return address + ":" + ports
}

// MarshalText returns the rule's text.
func (r Rule) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is ParseRule. An error leaves r unchanged.
func (r *Rule) UnmarshalText(text []byte) error {
	parsed, err := ParseRule(string(text))
	if err != nil {
		return err
	}
	*r = parsed
	return nil
}

func (r *Rule) everyPort() bool { return r.First == 0 && r.Last == 0 }

// matches reports whether the rule matches a target. addr is unmapped and has no zone.
func (r *Rule) matches(addr netip.Addr, port uint16) bool {
	return (r.everyPort() || r.First <= port && port <= r.Last) &&
		(!r.Prefix.IsValid() || r.Prefix.Contains(addr))
}

// inside reports whether all of the rule's addresses are in a range.
func (r *Rule) inside(within netip.Prefix) bool {
	return r.Prefix.IsValid() && r.Prefix.Bits() >= within.Bits() && within.Contains(r.Prefix.Addr())
}

// CheckAllow returns an error that wraps ErrOpensNothing for a rule without effect
// as an allow rule: its addresses are public, or it is wider than the ranges that
// it overlaps. Such a rule is usually meant to deny all other targets. With
// Config.DenyByDefault every allow rule has an effect.
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
	for i := range embeddings {
		if r.inside(embeddings[i].prefix) {
			return nil
		}
	}
	return fmt.Errorf("%q %w: public targets are allowed without a rule, and a range that is denied by default is opened only by a rule that lies inside it, such as \"10.0.0.0/8\"; to deny certain targets, name them in deny, and to allow certain targets only, set default to \"deny\"", r, ErrOpensNothing)
}
