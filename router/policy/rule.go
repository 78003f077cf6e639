package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// ErrRule means that a text is no rule.
var ErrRule = errors.New("not a rule")

// ruleForms ends every error about a rule's text.
const ruleForms = `a rule is an address, a range of addresses, or * for all, with or without a port or a range of ports: "198.51.100.0/24", "198.51.100.7:53", "198.51.100.0/24:1000-2000", "[2001:db8::/32]:53", "*:443"`

// maxRuleText is longer than the text of any rule.
const maxRuleText = 100

// Rule names targets: those whose address is in Prefix and whose port is from
// First to Last. It is comparable. The zero Rule names every target.
//
// Its text has one form only, with or without the parts about ports:
//
//	198.51.100.7           one address
//	198.51.100.0/24:53     a range and a port
//	198.51.100.0/24:1-99   a range and ports, both ends included
//	2001:db8::/32          IPv6 without ports may go without brackets
//	[2001:db8::/32]:53
//	*                      every address of both families
//	*:443
type Rule struct {
	Prefix      netip.Prefix // masked; the zero Prefix is every address of both families
	First, Last uint16       // both 0 is every port
}

// ParseRule reads a rule's text. The error wraps ErrRule, and says which text it
// was and what a rule looks like.
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

// cutPorts takes a rule's text apart. ports is nil where there is no part about
// ports.
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
			return s, nil // no address either, which is then said
		}
	}
	// More than one colon is an IPv6 address, whose ports need brackets.
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
			return netip.Prefix{}, fmt.Errorf("%q is no range of addresses", s)
		}
		prefix = p
	} else {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("%q is no address (a name is not either: it is the address that it resolves to that counts)", s)
		}
		if a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("the address %q has a zone, which a rule cannot have", s)
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
		return 0, 0, fmt.Errorf("the ports %q end before they begin: write %d-%d", s, last, first)
	}
	return first, last, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '0' {
		return 0, fmt.Errorf("%q is no port: one is a number from 1 to 65535", s)
	}
	return uint16(n), nil
}

// String returns the text that ParseRule reads.
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

// MarshalText is String.
func (r Rule) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is ParseRule. On an error r stays as it was.
func (r *Rule) UnmarshalText(text []byte) error {
	parsed, err := ParseRule(string(text))
	if err != nil {
		return err
	}
	*r = parsed
	return nil
}

func (r *Rule) everyPort() bool { return r.First == 0 && r.Last == 0 }

// names tells whether a target is one of the rule's. addr is unmapped and has no
// zone.
func (r *Rule) names(addr netip.Addr, port uint16) bool {
	return (r.everyPort() || r.First <= port && port <= r.Last) &&
		(!r.Prefix.IsValid() || r.Prefix.Contains(addr))
}

// inside tells whether all of the rule's addresses are in a range.
func (r *Rule) inside(within netip.Prefix) bool {
	return r.Prefix.IsValid() && r.Prefix.Bits() >= within.Bits() && within.Contains(r.Prefix.Addr())
}
