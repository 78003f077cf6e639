package policy

import "net/netip"

// carrier is a range of IPv6 addresses that carry IPv4 addresses, to which a
// translator or a tunnel sends what is sent to them.
type carrier struct {
	prefix netip.Prefix
	what   string
	places []place
	// unsure means that only one of the places holds an address, which one is not
	// known, and the last is the usual one.
	unsure bool
}

// place is where in an IPv6 address an IPv4 address stands: which of its bytes,
// and what they are combined with.
type place struct {
	at  [4]int
	xor byte
}

// maxPlaces is the most that a carrier has.
const maxPlaces = 4

// carriers do not overlap. IPv4-mapped addresses are not among them: they are
// unmapped before anything else.
var carriers = []carrier{
	{prefix: prefix("2002::/16"), what: "a 6to4 address", places: []place{{at: [4]int{2, 3, 4, 5}}}},
	{prefix: prefix("2001::/32"), what: "a Teredo address", places: []place{
		{at: [4]int{4, 5, 6, 7}},                // the server
		{at: [4]int{12, 13, 14, 15}, xor: 0xff}, // the client
	}},
	{prefix: prefix("64:ff9b::/96"), what: "a NAT64 address", places: []place{{at: [4]int{12, 13, 14, 15}}}},
	{prefix: prefix("::ffff:0:0:0/96"), what: "an IPv4-translated address", places: []place{{at: [4]int{12, 13, 14, 15}}}},
	// A network takes from this block the prefix that it likes, of 48, 56, 64 or 96
	// bits (RFC 8215), and the length decides where the IPv4 address is (RFC 6052).
	// It is nearly always 96: a network where it is not needs an allow rule.
	{prefix: prefix("64:ff9b:1::/48"), what: "a local NAT64 address", unsure: true, places: []place{
		{at: [4]int{6, 7, 9, 10}},
		{at: [4]int{7, 9, 10, 11}},
		{at: [4]int{9, 10, 11, 12}},
		{at: [4]int{12, 13, 14, 15}},
	}},
}

// carrierOf returns the carrier that addr is in, or nil.
func carrierOf(addr netip.Addr) *carrier {
	if !addr.Is6() {
		return nil
	}
	for i := range carriers {
		if carriers[i].prefix.Contains(addr) {
			return &carriers[i]
		}
	}
	return nil
}

// embedded returns the n IPv4 addresses that addr, one of the carrier's, may lead
// to.
func (c *carrier) embedded(addr netip.Addr) (list [maxPlaces]netip.Addr, n int) {
	b := addr.As16()
	for i, p := range c.places {
		v4 := [4]byte{b[p.at[0]] ^ p.xor, b[p.at[1]] ^ p.xor, b[p.at[2]] ^ p.xor, b[p.at[3]] ^ p.xor}
		if c.unsure && v4[0] == 0 && i < len(c.places)-1 {
			continue // no host's address: the zeros before one that stands further on
		}
		list[n] = netip.AddrFrom4(v4)
		n++
	}
	return list, n
}
