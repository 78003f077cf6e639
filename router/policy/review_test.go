package policy_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"lewes/router/policy"
)

func TestReview(t *testing.T) {
	for _, row := range []struct {
		allow, deny   string
		denyByDefault bool
		want          []string // "list index: part of the reason"
	}{
		{"10.0.0.0/8 192.168.0.0/16:53", "*:25 198.51.100.0/24", false, nil},
		{"10.0.0.0/8", "10.66.0.0/16", false, nil}, // an exception
		{"10.66.0.0/16", "10.0.0.0/8", false, []string{`allow 0: contradicts the deny rule "10.0.0.0/8"`}},
		{"10.66.0.0/16:53", "10.0.0.0/8:54", false, []string{`deny 0: no allow rule allows a target in it`}},
		{"10.0.0.0/8", "*", false, []string{`allow 0: set default to "deny"`}},
		{"10.0.0.0/8:53 10.0.0.0/8 10.0.0.0/8", "", false, []string{`allow 0: "10.0.0.0/8" allows the same`, `allow 2: redundant`}},
		{"10.0.0.0/8 10.1.0.0/16:1-99", "", false, []string{`allow 1: "10.0.0.0/8" allows the same`}},
		{"10.0.0.0/8 10.0.0.1", "", false, nil}, // may be the gateway's own
		{"10.0.0.1 10.0.0.1:53", "", false, []string{`allow 1: "10.0.0.1" allows the same`}},
		{"169.254.0.0/16 169.254.169.0/24", "", false, nil}, // the metadata services need their own rule
		{"", "198.51.100.0/24 198.51.100.0/25:53", false, []string{`deny 1: "198.51.100.0/24" denies the same`}},
		{"", "* 8.8.8.8", false, []string{`deny 1: "*" denies the same`}},
		{"", "10.1.0.0/16", false, []string{"deny 0: denied by default"}},
		{"64:ff9b:1::/48", "10.1.0.0/16", false, nil}, // leads there
		{"198.51.100.0/24 *:443", "198.51.100.66 203.0.113.0/24:53 203.0.113.0/24:443", true, []string{"deny 1: denied by default"}},
		{"*:443 198.51.100.0/24:443 10.0.0.0/8:443", "", true, []string{`allow 1: "*:443" allows the same`}},
		{"198.51.100.0/24", "*", true, []string{`allow 0: contradicts`}},
	} {
		c := policy.Config{Allow: mustRules(strings.Fields(row.allow)...), Deny: mustRules(strings.Fields(row.deny)...), DenyByDefault: row.denyByDefault}
		var got []string
		for _, f := range policy.Review(&c) {
			list := map[bool]string{true: "allow ", false: "deny "}[f.Allow]
			got = append(got, list+string(rune('0'+f.Index))+": "+f.Reason)
		}
		if !slices.EqualFunc(got, row.want, func(g, w string) bool {
			place, part, _ := strings.Cut(w, ": ")
			return strings.HasPrefix(g, place+": ") && strings.Contains(g, part)
		}) {
			t.Errorf("allow %q, deny %q, deny by default %v: found %q, want %q", row.allow, row.deny, row.denyByDefault, got, row.want)
		}
	}
}

// A rule that Review finds can be removed without a change of any decision.
func TestReviewFindsRulesWithoutEffect(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rules(), 1, 4).Draw(t, "rules")
		similar := rapid.Custom(func(t *rapid.T) policy.Rule {
			r := rapid.SampledFrom(all).Draw(t, "rule")
			if n := r.Prefix.Bits(); n > 0 {
				bits := rapid.SampledFrom([]int{n, n, max(0, n-2), r.Prefix.Addr().BitLen()}).Draw(t, "bits")
				r.Prefix = netip.PrefixFrom(r.Prefix.Addr(), bits).Masked()
			}
			if rapid.Bool().Draw(t, "every port") {
				r.First, r.Last = 0, 0
			}
			return r
		})
		own := rapid.SampledFrom(all).Draw(t, "own").Prefix.Addr()
		c := policy.Config{
			Allow: rapid.SliceOfN(similar, 0, 3).Draw(t, "allow"), Deny: rapid.SliceOfN(similar, 0, 3).Draw(t, "deny"),
			DenyByDefault: rapid.Bool().Draw(t, "deny by default"), Own: func() []netip.Addr { return []netip.Addr{own} },
		}
		found := policy.Review(&c)
		if len(found) == 0 {
			return
		}
		f := rapid.SampledFrom(found).Draw(t, "finding")
		without := c
		if f.Allow {
			without.Allow = slices.Delete(slices.Clone(c.Allow), f.Index, f.Index+1)
		} else {
			without.Deny = slices.Delete(slices.Clone(c.Deny), f.Index, f.Index+1)
		}
		p, q := policy.New(c), policy.New(without)
		for range 20 {
			a := addrs().Draw(t, "addr")
			both := append(slices.Clone(c.Allow), c.Deny...)
			if r := rapid.SampledFrom(both).Draw(t, "near"); r.Prefix.IsValid() && rapid.Bool().Draw(t, "inside") {
				a = rapid.SampledFrom([]netip.Addr{r.Prefix.Addr(), middle(r.Prefix), last(r.Prefix)}).Draw(t, "of the rule")
			}
			target := netip.AddrPortFrom(a, rapid.SampledFrom([]uint16{1, 25, 53, 443, 65535}).Draw(t, "port"))
			if p.Allowed(target) != q.Allowed(target) {
				t.Fatalf("%s: but %v, and without it %v", f.Reason, p.Explain(target), q.Explain(target))
			}
		}
	})
}
