package policy_test

import (
	"encoding"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"lewes/router/policy"
)

var (
	_ encoding.TextMarshaler   = policy.Rule{}
	_ encoding.TextUnmarshaler = (*policy.Rule)(nil)
)

func TestParseRule(t *testing.T) {
	rule := func(prefix string, first, last uint16) policy.Rule {
		r := policy.Rule{First: first, Last: last}
		if prefix != "*" {
			r.Prefix = netip.MustParsePrefix(prefix)
		}
		return r
	}
	for _, c := range []struct {
		text string
		want policy.Rule
		form string // the result of String, if different
	}{
		{"198.51.100.0/24", rule("198.51.100.0/24", 0, 0), ""},
		{"198.51.100.7", rule("198.51.100.7/32", 0, 0), ""},
		{"198.51.100.7/32", rule("198.51.100.7/32", 0, 0), "198.51.100.7"},
		{"198.51.100.7:53", rule("198.51.100.7/32", 53, 53), ""},
		{"198.51.100.0/24:1000-2000", rule("198.51.100.0/24", 1000, 2000), ""},
		{"198.51.100.0/24:1-65535", rule("198.51.100.0/24", 1, 65535), ""},
		{"198.51.100.0/24:53-53", rule("198.51.100.0/24", 53, 53), "198.51.100.0/24:53"},
		{"0.0.0.0/0", rule("0.0.0.0/0", 0, 0), ""},
		{"::/0", rule("::/0", 0, 0), ""},
		{"2001:db8::/32", rule("2001:db8::/32", 0, 0), ""},
		{"[2001:db8::/32]", rule("2001:db8::/32", 0, 0), "2001:db8::/32"},
		{"[2001:db8::/32]:53", rule("2001:db8::/32", 53, 53), ""},
		{"[2001:db8::1]:53", rule("2001:db8::1/128", 53, 53), ""},
		{"2001:DB8::1", rule("2001:db8::1/128", 0, 0), "2001:db8::1"},
		{"[198.51.100.7]:53", rule("198.51.100.7/32", 53, 53), "198.51.100.7:53"},
		{"*", rule("*", 0, 0), ""},
		{"*:443", rule("*", 443, 443), ""},
		{"*:1-1024", rule("*", 1, 1024), ""},
	} {
		got, err := policy.ParseRule(c.text)
		if err != nil || got != c.want {
			t.Errorf("%q: %v, %v, want %v", c.text, got, err, c.want)
		}
		form := c.form
		if form == "" {
			form = c.text
		}
		if got.String() != form {
			t.Errorf("%q is written %q, want %q", c.text, got, form)
		}
	}
}

func TestParseRuleRejectsInvalidText(t *testing.T) {
	for _, c := range []struct{ text, says string }{
		{"", "not an address"},
		{" ", "not an address"},
		{"example.com", "not names"},
		{"example.com:53", "not names"},
		{"198.51.100", "not an address"},
		{"198.51.100.256", "not an address"},
		{"198.51.100.07", "not an address"},
		{"198.51.100.0/33", "not a range"},
		{"198.51.100.0/", "not a range"},
		{"198.51.100.0/-1", "not a range"},
		{"198.51.100.7/24", "write 198.51.100.0/24 for the range, or 198.51.100.7 for the address"},
		{"2001:db8::1/32", "write 2001:db8::/32"},
		{"::ffff:10.0.0.0/104", "write 10.0.0.0/8"},
		{"::ffff:10.1.2.3", "write 10.1.2.3/32"},
		{"[::ffff:10.1.2.3]:53", "write 10.1.2.3/32"},
		{"fe80::1%eth0", "zone"},
		{"fe80::%eth0/64", "not a range"},
		{"198.51.100.7:", "not a port"},
		{"198.51.100.7:0", "not a port"},
		{"198.51.100.7:053", "not a port"},
		{"198.51.100.7:+53", "not a port"},
		{"198.51.100.7:5_3", "not a port"},
		{"198.51.100.7:65536", "not a port"},
		{"198.51.100.7:dns", "not a port"},
		{"198.51.100.7:1-", "not a port"},
		{"198.51.100.7:-1", "not a port"},
		{"198.51.100.7:1-2-3", "not a port"},
		{"198.51.100.7:0-10", "not a port"},
		{"198.51.100.7:20-10", "write 10-20"},
		{"2001:db8::1:53/", "not a range"},
		{"[2001:db8::1", "not an address"},
		{"[2001:db8::1]53", "not an address"},
		{"[2001:db8::1]:", "not a port"},
		{"[]:53", "not an address"},
		{"*:", "not a port"},
		{"**", "not an address"},
		{"*.example.com", "not an address"},
		{"198.51.100.0/24, 203.0.113.0/24", "not a range"},
		{strings.Repeat("1", 5000), "5000 characters"},
	} {
		_, err := policy.ParseRule(c.text)
		if !errors.Is(err, policy.ErrRule) {
			t.Errorf("%.40q: error %v, want ErrRule", c.text, err)
			continue
		}
		for _, says := range []string{c.says, c.text[:min(len(c.text), 40)], "198.51.100.0/24:1000-2000"} {
			if !strings.Contains(err.Error(), says) {
				t.Errorf("%.40q: %q lacks %q", c.text, err, says)
			}
		}
		before := policy.Rule{First: 7, Last: 9}
		r := before
		if err := r.UnmarshalText([]byte(c.text)); !errors.Is(err, policy.ErrRule) || r != before {
			t.Errorf("%.40q: UnmarshalText left %v and %v", c.text, r, err)
		}
	}
}

// rules draws valid rules.
func rules() *rapid.Generator[policy.Rule] {
	return rapid.Custom(func(t *rapid.T) policy.Rule {
		var r policy.Rule
		if rapid.IntRange(0, 7).Draw(t, "every address") > 0 {
			addr := addrs().Draw(t, "addr")
			r.Prefix = netip.PrefixFrom(addr, rapid.IntRange(0, addr.BitLen()).Draw(t, "bits")).Masked()
		}
		if r.Prefix.Addr().Is4In6() && r.Prefix.Bits() >= 96 {
			r.Prefix = netip.Prefix{}
		}
		if rapid.Bool().Draw(t, "ports") {
			r.First = rapid.Uint16Min(1).Draw(t, "first")
			r.Last = rapid.Uint16Min(r.First).Draw(t, "last")
		}
		return r
	})
}

func TestRuleRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := rules().Draw(t, "rule")
		back, err := policy.ParseRule(r.String())
		if err != nil || back != r {
			t.Fatalf("%v comes back as %v, %v", r, back, err)
		}
	})
}

func FuzzParseRule(f *testing.F) {
	for _, s := range []string{"198.51.100.0/24:1000-2000", "[2001:db8::/32]:53", "*:443", "::ffff:10.0.0.0/104", "fe80::1%eth0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := policy.ParseRule(s)
		if err != nil {
			if !errors.Is(err, policy.ErrRule) {
				t.Fatalf("error %v is not ErrRule", err)
			}
			return
		}
		if r.First > r.Last || (r.First == 0) != (r.Last == 0) {
			t.Fatalf("%q: ports %d to %d", s, r.First, r.Last)
		}
		if r.Prefix != r.Prefix.Masked() || r.Prefix.Addr().Zone() != "" {
			t.Fatalf("%q: prefix %v", s, r.Prefix)
		}
		if back, err := policy.ParseRule(r.String()); err != nil || back != r {
			t.Fatalf("%q is written %q, which comes back as %v, %v", s, r, back, err)
		}
	})
}
