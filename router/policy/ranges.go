package policy

import (
	"cmp"
	"net/netip"
	"slices"
)

// nonPublic is a range of addresses outside the public network.
type nonPublic struct {
	prefix netip.Prefix
	what   string // as in "it is …"
}

// Descriptions of several ranges.
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

// The ranges of the IANA special-purpose registries and of cloud metadata
// services. 168.63.129.16 (Azure) and 192.0.0.192 (Oracle) are reachable only from
// inside a cloud, like the other metadata services.
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
		{prefix("192.0.0.0/24"), "an address reserved for protocols (RFC 6890)"},
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

// narrowestFirst sorts ranges so that the first one that contains an address applies.
func narrowestFirst(list []nonPublic) []nonPublic {
	slices.SortStableFunc(list, func(a, b nonPublic) int { return cmp.Compare(b.prefix.Bits(), a.prefix.Bits()) })
	return list
}

// nonPublicRange returns the narrowest range that contains addr, which is unmapped
// and has no zone, or nil for a public address.
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

// embedding is a range of IPv6 addresses that embed IPv4 addresses, to which a
// translator or a tunnel forwards.
type embedding struct {
	prefix netip.Prefix
	what   string
	fields []field
	// ambiguous means that an address is in one unknown field, usually the last.
	ambiguous bool
}

// field is the position of an IPv4 address in an IPv6 address: four byte offsets,
// and a mask for the bytes.
type field struct {
	at  [4]int
	xor byte
}

const maxFields = 4 // of an embedding

// embeddings do not overlap. IPv4-mapped addresses are not among them, since they
// are unmapped first.
var embeddings = []embedding{
	{prefix: prefix("2002::/16"), what: "a 6to4 address", fields: []field{{at: [4]int{2, 3, 4, 5}}}},
	{prefix: prefix("2001::/32"), what: "a Teredo address", fields: []field{
		{at: [4]int{4, 5, 6, 7}},                // the server
		{at: [4]int{12, 13, 14, 15}, xor: 0xff}, // the client
	}},
	{prefix: prefix("64:ff9b::/96"), what: "a NAT64 address", fields: []field{{at: [4]int{12, 13, 14, 15}}}},
	{prefix: prefix("::ffff:0:0:0/96"), what: "an IPv4-translated address", fields: []field{{at: [4]int{12, 13, 14, 15}}}},
	// A network chooses a prefix of 48, 56, 64 or 96 bits in this block (RFC 8215),
	// and its length determines the position of the IPv4 address (RFC 6052). It is
	// nearly always 96; a network with another length needs an allow rule.
	{prefix: prefix("64:ff9b:1::/48"), what: "a local NAT64 address", ambiguous: true, fields: []field{
		{at: [4]int{6, 7, 9, 10}},
		{at: [4]int{7, 9, 10, 11}},
		{at: [4]int{9, 10, 11, 12}},
		{at: [4]int{12, 13, 14, 15}},
	}},
}

// embeddingOf returns the embedding that contains addr, or nil.
func embeddingOf(addr netip.Addr) *embedding {
	if !addr.Is6() {
		return nil
	}
	for i := range embeddings {
		if embeddings[i].prefix.Contains(addr) {
			return &embeddings[i]
		}
	}
	return nil
}

// addrs returns the n IPv4 addresses that addr may embed.
func (e *embedding) addrs(addr netip.Addr) (list [maxFields]netip.Addr, n int) {
	b := addr.As16()
	for i, p := range e.fields {
		v4 := [4]byte{b[p.at[0]] ^ p.xor, b[p.at[1]] ^ p.xor, b[p.at[2]] ^ p.xor, b[p.at[3]] ^ p.xor}
		if e.ambiguous && v4[0] == 0 && i < len(e.fields)-1 {
			continue // not a host's address, but the zeros before a later field
		}
		list[n] = netip.AddrFrom4(v4)
		n++
	}
	return list, n
}
