// Package policy decides which targets a gateway sends datagrams to (section 8 of
// PROTOCOL.md). Without configuration it keeps clients out of every network that
// is not the public one: an open relay into private networks is the classic fault
// of such gateways.
//
//	p := policy.New(policy.Config{
//		Allow: allow, // from [egress] of the configuration
//		Deny:  deny,
//		Own:   policy.HostAddrs(public...),
//	})
//	if err := p.Check(target); err != nil { … } // a *DeniedError
//
// A target is judged in this order:
//
//  1. A deny rule that names it denies it.
//  2. An address of a range that is not public is denied: private, loopback,
//     link-local, multicast, cloud metadata and so on, and the gateway's own
//     addresses, which are a range of one address each. Where ranges lie inside
//     each other the narrowest counts.
//  3. Unless an allow rule that lies inside that range names the target. A wider
//     one opens nothing: allowing 10.0.0.0/8 allows a private network but not the
//     gateway's own address in it, and neither 0.0.0.0/0 nor * opens loopback by
//     accident.
//  4. All else, the public network, is allowed.
//
// An IPv6 address that carries an IPv4 address, for a translator or a tunnel to
// send to, is judged as both.
//
// The ranges that are kept for documentation (192.0.2.0/24, 198.51.100.0/24,
// 203.0.113.0/24, 2001:db8::/32, 3fff::/20) are not denied. Nobody has them, so
// nothing is gained; and tests use them as the public addresses that they look
// like.
//
// A name is resolved first, and the address that is then sent to is what Check is
// asked about: judging any other answer of the resolver would be none.
package policy
