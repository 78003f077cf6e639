package policy_test

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"lewes/router/policy"
)

// notPublic are the ranges denied by default, listed independently of the
// package's table.
var notPublic = prefixes(
	"0.0.0.0/32", "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "100.100.100.200/32", "127.0.0.0/8", "168.63.129.16/32",
	"169.254.0.0/16", "169.254.42.42/32", "169.254.169.0/24", "169.254.170.0/24", "172.16.0.0/12", "192.0.0.0/24", "192.0.0.192/32",
	"192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32",

	"::/128", "::1/128", "::/96", "100::/64", "100:0:0:1::/64", "2001:2::/48", "5f00::/16", "fc00::/7", "fd00::/8", "fd00:42::42/128",
	"fd00:c1::a9fe:a9fe/128", "fd00:ec2::/32", "fd20:ce::254/128", "fe80::/10", "fe80::a9fe:a9fe/128", "fec0::/10", "ff00::/8",
)

// notPublicFor maps addresses to the reason in the error.
var notPublicFor = map[string]string{
	"0.0.0.0":            "the unspecified",
	"0.0.0.1":            "this network",
	"10.1.2.3":           "private",
	"100.64.0.1":         "shared",
	"100.100.100.200":    "metadata",
	"127.0.0.1":          "loopback",
	"168.63.129.16":      "metadata",
	"169.254.1.1":        "link-local",
	"169.254.42.42":      "metadata",
	"169.254.169.123":    "metadata",
	"169.254.169.253":    "metadata",
	"169.254.169.254":    "metadata",
	"169.254.170.2":      "metadata",
	"169.254.170.23":     "metadata",
	"172.31.255.255":     "private",
	"192.0.0.1":          "protocols",
	"192.0.0.192":        "metadata",
	"192.168.1.1":        "private",
	"198.19.0.1":         "benchmarks",
	"224.0.0.1":          "multicast",
	"240.0.0.1":          "reserved",
	"255.255.255.255":    "broadcast",
	"::":                 "the unspecified",
	"::1":                "loopback",
	"::127.0.0.1":        "IPv4-compatible",
	"::8.8.8.8":          "IPv4-compatible",
	"100::1":             "leads nowhere",
	"2001:2::1":          "benchmarks",
	"5f00::1":            "segment",
	"fc00::1":            "private",
	"fd00::1":            "private",
	"fd00:42::42":        "metadata",
	"fd00:c1::a9fe:a9fe": "metadata",
	"fd00:ec2::253":      "metadata",
	"fd00:ec2::254":      "metadata",
	"fd20:ce::254":       "metadata",
	"fe80::1":            "link-local",
	"fe80::a9fe:a9fe":    "metadata",
	"fec0::1":            "site-local",
	"ff02::1":            "multicast",
}

func prefixes(texts ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, s := range texts {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}

var public = []string{
	"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0",
	"126.255.255.255", "128.0.0.0", "168.63.129.15", "168.63.129.17", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0",
	"191.255.255.255", "192.0.1.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0",
	"223.255.255.255", "2000::1", "2001:1::1", "2001:4860:4860::8888", "2606:4700::1111", "2a00::1", "3ffe::1",
	// Documentation, public for tests.
	"192.0.2.1", "198.51.100.7", "203.0.113.9", "2001:db8::1", "3fff::1",
}

func isNotPublic(a netip.Addr) bool {
	for _, r := range notPublic {
		if r.Contains(a) {
			return true
		}
	}
	return false
}

// addrs draws addresses of both families, about half of them in or next to a
// denied range.
func addrs() *rapid.Generator[netip.Addr] {
	return rapid.Custom(func(t *rapid.T) netip.Addr {
		if rapid.Bool().Draw(t, "ipv4") {
			return netip.AddrFrom4(draw4(t))
		}
		b := [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "ipv6"))
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			copy(b[:], near(t, true).AsSlice())
		case 1:
			list := embed(draw4(t))
			name := rapid.SampledFrom(slices.Sorted(maps.Keys(list))).Draw(t, "carrier")
			return list[name]
		}
		return netip.AddrFrom16(b)
	})
}

func draw4(t *rapid.T) [4]byte {
	if rapid.Bool().Draw(t, "near a range") {
		return near(t, false).As4()
	}
	return [4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "bytes"))
}

// near draws the first or last address of a range, or the one before or after.
func near(t *rapid.T, six bool) netip.Addr {
	var list []netip.Prefix
	for _, r := range notPublic {
		if r.Addr().Is6() == six {
			list = append(list, r)
		}
	}
	p := rapid.SampledFrom(list).Draw(t, "range")
	first, last := p.Addr(), last(p)
	a := rapid.SampledFrom([]netip.Addr{first, first.Prev(), last, last.Next()}).Draw(t, "end")
	if !a.IsValid() {
		return first
	}
	return a
}

// last returns the last address of a range.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// middle returns the first address of a range's second half.
func middle(p netip.Prefix) netip.Addr {
	if p.IsSingleIP() {
		return p.Addr()
	}
	b := p.Addr().AsSlice()
	b[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	a, _ := netip.AddrFromSlice(b)
	return a
}

func port53(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 53) }

func mustRules(texts ...string) []policy.Rule {
	var list []policy.Rule
	for _, s := range texts {
		r, err := policy.ParseRule(s)
		if err != nil {
			panic(err)
		}
		list = append(list, r)
	}
	return list
}

func ownIs(addrs ...string) func() []netip.Addr {
	var list []netip.Addr
	for _, s := range addrs {
		list = append(list, netip.MustParseAddr(s))
	}
	return func() []netip.Addr { return list }
}

// Shows R8.12.
func TestNonPublicAddressesAreDenied(t *testing.T) {
	p := policy.New(policy.Config{})
	for _, prefix := range notPublic {
		for _, a := range []netip.Addr{prefix.Addr(), middle(prefix), last(prefix)} {
			if !prefix.Contains(a) {
				t.Fatalf("%v is not in %v", a, prefix)
			}
			err := p.Check(port53(a))
			var denied *policy.DeniedError
			if !errors.Is(err, policy.ErrDenied) || !errors.As(err, &denied) {
				t.Errorf("%v in %v: error %v, want a DeniedError", a, prefix, err)
				continue
			}
			if denied.Source() != policy.NonPublic || denied.Target != port53(a) {
				t.Errorf("%v in %v: denied %v by %v", a, prefix, denied.Target, denied.Source())
			}
		}
	}
	for s, why := range notPublicFor {
		target := port53(netip.MustParseAddr(s))
		if err := p.Check(target); err == nil || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), target.String()) {
			t.Errorf("%v: error %v, want one with %q", target, err, why)
		}
	}
}

func TestPublicAddressesAreAllowed(t *testing.T) {
	p := policy.New(policy.Config{})
	for _, s := range public {
		target := port53(netip.MustParseAddr(s))
		if err := p.Check(target); err != nil {
			t.Error(err)
		}
		if d := p.Explain(target); !d.Allowed || d.Source != policy.Public || d.Rule != "" {
			t.Errorf("%v: %+v", target, d)
		}
	}
	if err := p.Check(netip.MustParseAddrPort("8.8.8.8:65535")); err != nil {
		t.Error(err)
	}
}

// Shows R8.12.
func TestBoundariesOfNonPublicRanges(t *testing.T) {
	p := policy.New(policy.Config{})
	rapid.Check(t, func(t *rapid.T) {
		a := netip.AddrFrom4(draw4(t))
		if got := p.Allowed(port53(a)); got == isNotPublic(a) {
			t.Fatalf("%v: allowed %v", a, got)
		}
		six := near(t, true)
		if got := p.Allowed(port53(six)); got == isNotPublic(six) {
			t.Fatalf("%v: allowed %v", six, got)
		}
	})
}

// Neither an IPv4-mapped form nor a zone changes the decision.
//
// Shows R8.12.
func TestMappedAndZonedAddresses(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := policy.New(policy.Config{
			Deny: rapid.SliceOfN(rules(), 0, 3).Draw(t, "deny"), Allow: rapid.SliceOfN(rules(), 0, 3).Draw(t, "allow"),
			DenyByDefault: rapid.Bool().Draw(t, "deny by default"),
			Own:           ownIs("198.51.100.7", "10.0.0.1"),
		})
		a := netip.AddrFrom4(draw4(t))
		mapped := netip.AddrFrom16(a.As16())
		if p.Allowed(port53(a)) != p.Allowed(port53(mapped)) {
			t.Fatalf("%v and %v give different decisions", a, mapped)
		}
		six := addrs().Draw(t, "addr")
		if zoned := six.WithZone("eth0"); p.Allowed(port53(six)) != p.Allowed(port53(zoned)) {
			t.Fatalf("%v and %v give different decisions", six, zoned)
		}
	})
}

// embed returns IPv6 addresses that embed a.
func embed(a [4]byte) map[string]netip.Addr {
	six := func(prefix string, set func(b []byte)) netip.Addr {
		b := netip.MustParseAddr(prefix).As16()
		set(b[:])
		return netip.AddrFrom16(b)
	}
	at := func(places ...int) func([]byte) {
		return func(b []byte) {
			for i, p := range places {
				b[p] = a[i]
			}
		}
	}
	return map[string]netip.Addr{
		"6to4":            six("2002::1", at(2, 3, 4, 5)),
		"Teredo server":   six("2001:0:0808:0808::f7f7:f7f7", at(4, 5, 6, 7)),
		"Teredo client":   six("2001:0:0808:0808::", func(b []byte) { copy(b[12:], []byte{^a[0], ^a[1], ^a[2], ^a[3]}) }),
		"NAT64":           six("64:ff9b::", at(12, 13, 14, 15)),
		"IPv4-translated": six("::ffff:0:0:0", at(12, 13, 14, 15)),
		"local NAT64/96":  six("64:ff9b:1::", at(12, 13, 14, 15)),
		"local NAT64/64":  six("64:ff9b:1:c0de::808:808", at(9, 10, 11, 12)),
		"local NAT64/56":  six("64:ff9b:1:8::808:808", at(7, 9, 10, 11)),
		"local NAT64/48":  six("64:ff9b:1::808:808", at(6, 7, 9, 10)),
	}
}

// Shows R8.12.
func TestPolicyAppliesToEmbeddedIPv4(t *testing.T) {
	p := policy.New(policy.Config{
		Deny: mustRules("203.0.113.0/24"),
		Own:  ownIs("198.51.100.7"),
	})
	rapid.Check(t, func(t *rapid.T) {
		a := draw4(t)
		if rapid.Bool().Draw(t, "by configuration") {
			a = rapid.SampledFrom([][4]byte{{203, 0, 113, 9}, {198, 51, 100, 7}}).Draw(t, "a")
		}
		inner := p.Allowed(port53(netip.AddrFrom4(a)))
		for name, addr := range embed(a) {
			other := strings.HasPrefix(name, "local NAT64/") && name != "local NAT64/96"
			if !inner && p.Allowed(port53(addr)) && (!other || a[0] != 0) {
				t.Fatalf("%s: %v leads to %v, which is denied", name, addr, a)
			}
			if inner && !p.Allowed(port53(addr)) && !other {
				t.Fatalf("%s: %v leads to %v, which is allowed: %v", name, addr, a, p.Check(port53(addr)))
			}
		}
	})

	nat64 := netip.MustParseAddrPort("[64:ff9b::10.1.2.3]:53")
	err := p.Check(nat64)
	if err == nil || !strings.Contains(err.Error(), "NAT64") || !strings.Contains(err.Error(), "leads to 10.1.2.3") {
		t.Errorf("%v does not contain the inner address", err)
	}
	opened := policy.New(policy.Config{Allow: mustRules("10.1.0.0/16")})
	if err := opened.Check(nat64); err != nil {
		t.Errorf("the inner address is allowed: %v", err)
	}
	opened = policy.New(policy.Config{Allow: mustRules("[64:ff9b:1::/48]:53"), Deny: mustRules("10.6.6.6")})
	for s, want := range map[string]bool{
		"[64:ff9b:1::10.1.2.3]:53": true, "[64:ff9b:1:a01:2:300::]:53": true, "[64:ff9b:1::10.1.2.3]:54": false,
		"[64:ff9b:1::10.6.6.6]:53": false, "[64:ff9b::10.1.2.3]:53": false,
	} {
		if got := opened.Explain(netip.MustParseAddrPort(s)); got.Allowed != want {
			t.Errorf("a network's own prefix allowed: %v", got)
		}
	}
}

// Shows R8.12.
func TestOwnAddressesAreDenied(t *testing.T) {
	p := policy.New(policy.Config{
		Allow: mustRules("10.0.0.0/8", "127.0.0.0/8", "203.0.113.0/24", "203.0.113.6:443", "*:8443"),
		Own:   ownIs("10.0.0.1", "203.0.113.5", "203.0.113.6", "2001:db8::5", "::ffff:198.51.100.5", "fe80::1%eth0", "127.0.0.1", "0.0.0.0"),
	})
	for s, want := range map[string]bool{
		"10.0.0.1:53":             false, // a rule for its network is wider
		"10.0.0.2:53":             true,
		"203.0.113.5:53":          false,
		"203.0.113.5:8443":        false,
		"203.0.113.6:53":          false,
		"203.0.113.6:443":         true, // a rule for exactly this address
		"203.0.113.7:53":          true,
		"[2001:db8::5]:53":        false,
		"[2001:db8::6]:53":        true,
		"198.51.100.5:53":         false,
		"[fe80::1]:53":            false,
		"127.0.0.1:53":            true, // loopback has a range of its own
		"[2002:cb00:7105::1]:53":  false,
		"[64:ff9b::cb00:7106]:53": false,
	} {
		if got := p.Explain(netip.MustParseAddrPort(s)); got.Allowed != want {
			t.Errorf("%v, want allowed %v", got, want)
		}
	}
	d := p.Explain(netip.MustParseAddrPort("203.0.113.5:53"))
	if err := p.Check(d.Target); d.Source != policy.OwnAddress || !strings.Contains(d.Why, "own") || !strings.Contains(err.Error(), `"203.0.113.5:53"`) {
		t.Errorf("%v, %v", d, err)
	}
}

func TestRulePrecedence(t *testing.T) {
	p := policy.New(policy.Config{
		Allow: mustRules("10.0.0.0/8", "169.254.0.0/16", "192.168.0.0/16:53", "198.51.100.7"),
		Deny:  mustRules("10.66.0.0/16", "198.51.100.0/24:25", "198.51.100.7", "*:19"),
	})
	for _, c := range []struct {
		target string
		source policy.Source
		rule   string
	}{
		{"10.1.1.1:53", policy.AllowRule, "10.0.0.0/8"},
		{"10.66.1.1:53", policy.DenyRule, "10.66.0.0/16"},
		{"192.168.1.1:53", policy.AllowRule, "192.168.0.0/16:53"},
		{"192.168.1.1:54", policy.NonPublic, "192.168.0.0/16"},
		{"198.51.100.8:25", policy.DenyRule, "198.51.100.0/24:25"},
		{"198.51.100.8:53", policy.Public, ""},
		{"198.51.100.7:53", policy.DenyRule, "198.51.100.7"},
		{"8.8.8.8:19", policy.DenyRule, "*:19"},
		{"10.1.1.1:19", policy.DenyRule, "*:19"},
		{"[2001:db8::1]:19", policy.DenyRule, "*:19"},
		{"169.254.1.1:80", policy.AllowRule, "169.254.0.0/16"},
		{"169.254.169.254:80", policy.NonPublic, "169.254.169.0/24"},
		{"172.16.0.1:53", policy.NonPublic, "172.16.0.0/12"},
		{"[::1]:53", policy.NonPublic, "::1/128"},
		{"8.8.8.8:0", policy.NoTarget, ""},
		{"10.1.1.1:0", policy.NoTarget, ""},
	} {
		d := p.Explain(netip.MustParseAddrPort(c.target))
		if d.Source != c.source || d.Rule != c.rule {
			t.Errorf("%v: by %v %q, want %v %q", d, d.Source, d.Rule, c.source, c.rule)
		}
	}
	if d := p.Explain(netip.AddrPort{}); d.Allowed || d.Source != policy.NoTarget {
		t.Errorf("zero target: %v", d)
	}
}

// Shows R8.33.
func TestDenyByDefault(t *testing.T) {
	p := policy.New(policy.Config{
		DenyByDefault: true,
		Allow:         mustRules("198.51.100.0/24:53", "*:443", "10.0.0.0/8", "203.0.113.7", "[64:ff9b::/96]:53"),
		Deny:          mustRules("198.51.100.66"),
		Own:           ownIs("198.51.100.5", "203.0.113.7"),
	})
	for s, want := range map[string]struct {
		source policy.Source
		why    string
	}{
		"198.51.100.7:53":         {policy.AllowRule, `it matches the allow rule "198.51.100.0/24:53"`},
		"198.51.100.7:54":         {policy.NoRule, "it matches no allow rule"},
		"8.8.8.8:53":              {policy.NoRule, "it matches no allow rule"},
		"8.8.8.8:443":             {policy.AllowRule, `it matches the allow rule "*:443"`},
		"[2001:db8::1]:443":       {policy.AllowRule, `it matches the allow rule "*:443"`},
		"[2001:db8::1]:53":        {policy.NoRule, "it matches no allow rule"},
		"10.1.2.3:99":             {policy.AllowRule, `it is a private address and matches the allow rule "10.0.0.0/8"`},
		"192.168.1.1:443":         {policy.NonPublic, "it is a private address"}, // a wide rule does not open it
		"127.0.0.1:443":           {policy.NonPublic, "it is a loopback address"},
		"198.51.100.66:53":        {policy.DenyRule, "198.51.100.66"},
		"198.51.100.5:53":         {policy.OwnAddress, "own addresses"}, // needs a rule of its own
		"203.0.113.7:53":          {policy.AllowRule, "own addresses and matches"},
		"[64:ff9b::808:808]:443":  {policy.AllowRule, `"*:443"`},
		"[64:ff9b::a01:203]:443":  {policy.AllowRule, "leads to 10.1.2.3"},
		"[64:ff9b::c0a8:101]:443": {policy.NonPublic, "leads to 192.168.1.1"},
		"[64:ff9b::808:808]:53":   {policy.AllowRule, "NAT64"},
		"[2002:808:808::1]:53":    {policy.NoRule, "it matches no allow rule"},
		"[64:ff9b::808:808]:99":   {policy.NoRule, "it matches no allow rule"},
	} {
		if d := p.Explain(netip.MustParseAddrPort(s)); d.Source != want.source || !strings.Contains(d.Why, want.why) || d.Allowed != (d.Remedy == "") {
			t.Errorf("%v, want by %v: %s", d, want.source, want.why)
		}
	}
	// The outer form alone does not allow the address that it leads to.
	p = policy.New(policy.Config{DenyByDefault: true, Allow: mustRules("::/0")})
	if d := p.Explain(netip.MustParseAddrPort("[64:ff9b::808:808]:53")); d.Source != policy.NoRule || !strings.Contains(d.Why, "leads to 8.8.8.8") {
		t.Error(d)
	}
}

// Following the remedy of every denial ends in an allowed target.
func TestRemedyAllowsTarget(t *testing.T) {
	own := ownIs("198.51.100.7")
	rapid.Check(t, func(t *rapid.T) {
		target := netip.AddrPortFrom(addrs().Draw(t, "addr"), rapid.Uint16Min(1).Draw(t, "port"))
		if rapid.IntRange(0, 9).Draw(t, "own") == 0 {
			target = netip.AddrPortFrom(own()[0], target.Port())
		}
		var allow []policy.Rule
		denyByDefault := rapid.Bool().Draw(t, "deny by default")
		for range 1 + 4 {
			p := policy.New(policy.Config{Allow: allow, Own: own, DenyByDefault: denyByDefault})
			err := p.Check(target)
			if err == nil {
				return
			}
			var denied *policy.DeniedError
			if !errors.As(err, &denied) {
				t.Fatal(err)
			}
			_, after, _ := strings.Cut(denied.Remedy(), `"`)
			text, _, _ := strings.Cut(after, `"`)
			rule, err := policy.ParseRule(text)
			if err != nil {
				t.Fatalf("%v contains no rule: %v", denied, err)
			}
			if err := policy.CheckAllow(rule); err != nil {
				t.Fatalf("%v: %v", denied, err)
			}
			allow = append(allow, rule)
		}
		t.Fatalf("%v is denied with %v", target, allow)
	})
}

// The model covers the whole policy for plain IPv4 targets.
func TestPolicyAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		allow := rapid.SliceOfN(rules(), 0, 4).Draw(t, "allow")
		deny := rapid.SliceOfN(rules(), 0, 4).Draw(t, "deny")
		own := netip.AddrFrom4(draw4(t))
		denyByDefault := rapid.Bool().Draw(t, "deny by default")
		p := policy.New(policy.Config{Allow: allow, Deny: deny, DenyByDefault: denyByDefault, Own: func() []netip.Addr { return []netip.Addr{own} }})
		addr := netip.AddrFrom4(draw4(t))
		if rapid.IntRange(0, 4).Draw(t, "own") == 0 {
			addr = own
		}
		target := netip.AddrPortFrom(addr, rapid.Uint16().Draw(t, "port"))

		names := func(r policy.Rule) bool {
			if r.First != 0 && (target.Port() < r.First || r.Last < target.Port()) {
				return false
			}
			return r.Prefix == netip.Prefix{} || r.Prefix.Contains(addr)
		}
		want := target.Port() != 0
		for _, r := range deny {
			want = want && !names(r)
		}
		narrowest := -1
		for _, r := range notPublic {
			if r.Contains(addr) {
				narrowest = max(narrowest, r.Bits())
			}
		}
		if addr == own && !addr.IsLoopback() && !addr.IsUnspecified() {
			narrowest = 32
		}
		if narrowest >= 0 || denyByDefault {
			opened := false
			for _, r := range allow {
				opened = opened || names(r) && (narrowest < 0 || r.Prefix.IsValid() && r.Prefix.Bits() >= narrowest)
			}
			want = want && opened
		}
		if got := p.Allowed(target); got != want {
			t.Fatalf("%v, want allowed %v", p.Explain(target), want)
		}
	})
}

func TestCheckAndAllowedAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := policy.New(policy.Config{
			Allow: rapid.SliceOfN(rules(), 0, 3).Draw(t, "allow"), Deny: rapid.SliceOfN(rules(), 0, 3).Draw(t, "deny"),
			Own: ownIs("10.0.0.1"),
		})
		target := netip.AddrPortFrom(addrs().Draw(t, "addr"), rapid.Uint16().Draw(t, "port"))
		err, d := p.Check(target), p.Explain(target)
		if (err == nil) != d.Allowed || p.Allowed(target) != d.Allowed {
			t.Fatalf("Check %v, Allowed %v, Explain %v", err, p.Allowed(target), d)
		}
		var denied *policy.DeniedError
		if errors.As(err, &denied) && (denied.Source() != d.Source || denied.Why() != d.Why || denied.Remedy() == "") {
			t.Fatalf("%v and %v", denied, d)
		}
	})
}

func TestConfigIsCopied(t *testing.T) {
	deny := mustRules("198.51.100.0/24")
	p := policy.New(policy.Config{Deny: deny})
	deny[0] = mustRules("203.0.113.0/24")[0]
	if p.Allowed(netip.MustParseAddrPort("198.51.100.1:53")) {
		t.Error("a change after New changed the policy")
	}
}

func TestCheckAllow(t *testing.T) {
	for _, s := range []string{
		"10.0.0.0/8", "10.1.0.0/16:53", "127.0.0.0/8", "0.0.0.0/8", "169.254.0.0/16", "fc00::/7", "fd00:1::/32", "::/96", "64:ff9b:1::/48", "2002:a00::/24",
		"198.51.100.7", "198.51.100.7:53",
	} {
		if err := policy.CheckAllow(mustRules(s)[0]); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{"*", "*:443", "0.0.0.0/0", "::/0", "198.51.100.0/24", "10.0.0.0/7", "fc00::/6", "2001:db8::/32"} {
		err := policy.CheckAllow(mustRules(s)[0])
		if !errors.Is(err, policy.ErrOpensNothing) || !strings.Contains(err.Error(), fmt.Sprintf("%q", s)) {
			t.Errorf("%s: %v", s, err)
		}
	}
}

func TestCheckDoesNotAllocate(t *testing.T) {
	p := policy.New(policy.Config{Allow: mustRules("10.0.0.0/8", "fd00::/8"), Deny: mustRules("203.0.113.0/24"), Own: ownIs("198.51.100.7")})
	for _, s := range []string{"8.8.8.8:53", "10.1.1.1:53", "[2001:db8::1]:53", "[64:ff9b::808:808]:53", "[::ffff:8.8.8.8]:53", "[2a00::1%eth0]:53"} {
		target := netip.MustParseAddrPort(s)
		if n := testing.AllocsPerRun(100, func() {
			if p.Check(target) != nil {
				t.Fatalf("%v is denied", target)
			}
		}); n != 0 {
			t.Errorf("Check(%v) allocates %v times", target, n)
		}
	}
	for _, s := range []string{"127.0.0.1:53", "203.0.113.1:53", "198.51.100.7:53", "[64:ff9b:1::7f00:1]:53"} {
		target := netip.MustParseAddrPort(s)
		if n := testing.AllocsPerRun(100, func() {
			if p.Allowed(target) {
				t.Fatalf("%v is allowed", target)
			}
		}); n != 0 {
			t.Errorf("Allowed(%v) allocates %v times", target, n)
		}
	}
}

func TestRefresh(t *testing.T) {
	var answer []netip.Addr
	p := policy.New(policy.Config{Own: func() []netip.Addr { return answer }})
	a, b := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")
	if !p.Allowed(port53(a)) {
		t.Fatal("denied before Own returned it")
	}
	for _, step := range []struct {
		answer  []netip.Addr
		changed bool
		err     error
		denied  netip.Addr
		free    netip.Addr
	}{
		{[]netip.Addr{a}, true, nil, a, b},
		{[]netip.Addr{a}, false, nil, a, b},
		{nil, false, policy.ErrOwnUnknown, a, b}, // the known address is kept
		{[]netip.Addr{b}, true, nil, b, a},
	} {
		answer = step.answer
		if changed, err := p.Refresh(); changed != step.changed || !errors.Is(err, step.err) {
			t.Errorf("Refresh with %v: changed %v, %v, want %v, %v", answer, changed, err, step.changed, step.err)
		}
		if p.Allowed(port53(step.denied)) || !p.Allowed(port53(step.free)) {
			t.Errorf("after %v: %v, %v", answer, p.Explain(port53(step.denied)), p.Explain(port53(step.free)))
		}
	}
	if changed, err := policy.New(policy.Config{}).Refresh(); changed || err != nil {
		t.Errorf("without Own: changed %v, %v", changed, err)
	}
}

func TestHostAddrs(t *testing.T) {
	outside := netip.MustParseAddr("203.0.113.77")
	list := policy.HostAddrs(outside)()
	found := map[netip.Addr]bool{}
	for _, a := range list {
		if !a.IsValid() || a.Is4In6() {
			t.Errorf("address %v", a)
		}
		found[a] = true
	}
	if !found[outside] || !found[netip.MustParseAddr("127.0.0.1")] {
		t.Errorf("%v lacks loopback or the public address", list)
	}
}

func TestConcurrentUse(t *testing.T) {
	list := [2][]netip.Addr{{netip.MustParseAddr("198.51.100.1")}, {netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")}}
	var mu sync.Mutex
	n := 0
	p := policy.New(policy.Config{Own: func() []netip.Addr {
		mu.Lock()
		defer mu.Unlock()
		n++
		return list[n%2]
	}})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				if p.Allowed(netip.MustParseAddrPort("198.51.100.1:53")) {
					t.Error("allowed while the addresses change")
				}
				_ = p.Explain(netip.MustParseAddrPort("198.51.100.2:53"))
				if _, err := p.Refresh(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestSourceNames(t *testing.T) {
	seen := map[string]policy.Source{}
	for s := policy.NoTarget; s <= policy.Public+1; s++ {
		if other, twice := seen[s.String()]; twice || s.String() == "" {
			t.Errorf("%d and %d are both %q", s, other, s)
		}
		seen[s.String()] = s
	}
}

func BenchmarkCheck(b *testing.B) {
	p := policy.New(policy.Config{
		Allow: mustRules("10.0.0.0/8", "192.168.1.0/24:53", "fd00:1::/32"),
		Deny:  mustRules("*:25", "203.0.113.0/24", "[2001:db8:bad::/48]:53"),
		Own:   ownIs("198.51.100.7", "10.0.0.1", "2001:db8::7"),
	})
	for name, s := range map[string]string{"ipv4": "8.8.8.8:53", "ipv6": "[2a00:1450::1]:53", "nat64": "[64:ff9b::808:808]:53", "opened": "10.1.1.1:53"} {
		target := netip.MustParseAddrPort(s)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := p.Check(target); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
