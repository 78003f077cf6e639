package policy

import (
	"cmp"
	"net/netip"
	"slices"
)

// nonPublic is a range of addresses that are not of the public network.
type nonPublic struct {
	prefix netip.Prefix
	what   string // what an address in it is, as in "it is …"
}

// What several ranges are.
const (
	unspecified = "the unspecified address"
	loopback    = "a loopback address"
	private     = "a private address"
	linkLocal   = "a link-local address"
	multicast   = "a multicast address"
	metadata    = "an address of a cloud provider's metadata or host service"
	benchmark   = "an address for benchmarks of networks"
	ownAddress  = "one of the gateway's own addresses"
)

// The ranges after the IANA special-purpose registries and what clouds have.
// 168.63.129.16 (Azure) and 192.0.0.192 (Oracle) are reached only from inside a
// cloud, like the rest of the metadata services.
var (
	nonPublic4 = narrowestFirst([]nonPublic{
		{prefix("0.0.0.0/32"), unspecified},
		{prefix("0.0.0.0/8"), "an address of this network (RFC 1122)"},
		{prefix("10.0.0.0/8"), private},
		{prefix("100.64.0.0/10"), "a shared address of a carrier's network (RFC 6598)"},
		{prefix("100.100.100.200/32"), metadata},
		{prefix("127.0.0.0/8"), loopback},
		{prefix("168.63.129.16/32"), metadata},
		{prefix("169.254.0.0/16"), linkLocal},
		{prefix("169.254.42.42/32"), metadata},
		{prefix("169.254.169.0/24"), metadata},
		{prefix("169.254.170.0/24"), metadata},
		{prefix("172.16.0.0/12"), private},
		{prefix("192.0.0.0/24"), "an address kept for protocols (RFC 6890)"},
		{prefix("192.0.0.192/32"), metadata},
		{prefix("192.168.0.0/16"), private},
		{prefix("198.18.0.0/15"), benchmark},
		{prefix("224.0.0.0/4"), multicast},
		{prefix("240.0.0.0/4"), "a reserved address (RFC 1112)"},
		{prefix("255.255.255.255/32"), "the broadcast address"},
	})
	nonPublic6 = narrowestFirst([]nonPublic{
		{prefix("::/128"), unspecified},
		{prefix("::1/128"), loopback},
		{prefix("::/96"), "an IPv4-compatible address (deprecated by RFC 4291)"},
		{prefix("100::/63"), "an address that leads nowhere (RFC 6666, RFC 9780)"},
		{prefix("2001:2::/48"), benchmark},
		{prefix("5f00::/16"), "a segment identifier of a routed network (RFC 9602)"},
		{prefix("fc00::/7"), private},
		{prefix("fd00:42::42/128"), metadata},
		{prefix("fd00:c1::a9fe:a9fe/128"), metadata},
		{prefix("fd00:ec2::/32"), metadata},
		{prefix("fd20:ce::254/128"), metadata},
		{prefix("fe80::/10"), linkLocal},
		{prefix("fe80::a9fe:a9fe/128"), metadata},
		{prefix("fec0::/10"), "a site-local address (deprecated by RFC 3879)"},
		{prefix("ff00::/8"), multicast},
	})
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// narrowestFirst sorts ranges so that the first that contains an address is the
// one that counts.
func narrowestFirst(list []nonPublic) []nonPublic {
	slices.SortStableFunc(list, func(a, b nonPublic) int { return cmp.Compare(b.prefix.Bits(), a.prefix.Bits()) })
	return list
}

// nonPublicRange returns the narrowest range that contains addr, which is
// unmapped and has no zone; nil for a public address.
func nonPublicRange(addr netip.Addr) *nonPublic {
	list := nonPublic6
	if addr.Is4() {
		list = nonPublic4
	}
	for i := range list {
		if list[i].prefix.Contains(addr) {
			return &list[i]
		}
	}
	return nil
}
