// Package policy decides which targets a gateway sends datagrams to (section 8 of
// PROTOCOL.md). By default it denies every network other than the public one,
// since an open relay into private networks is the usual fault of such gateways.
//
//	p := policy.New(policy.Config{
//		Allow: allow, // from [egress] of the configuration
//		Deny:  deny,
//		Own:   policy.HostAddrs(public...),
//		Routes: routes, // from OpenRoutes
//	})
//	if err := p.Check(target); err != nil { … } // a *DeniedError
//
// The first of these that applies decides:
//
//  1. A gateway of the directory is denied, see Policy.DenyGateways, and a target that
//     matches a deny rule.
//  2. A non-public address is denied: private, loopback, link-local, multicast,
//     cloud metadata and so on, and the gateway's own addresses, each a range of
//     one address. Of nested ranges the narrowest applies. The gateway's own are those
//     of Config.Own and those that the system routes to itself, as broadcast or as
//     multicast (Config.Routes).
//  3. Exception to 2: an allow rule inside that range that matches the target
//     allows it. A wider rule does not: 10.0.0.0/8 allows a private network but not
//     the gateway's own address in it, and neither 0.0.0.0/0 nor * allows loopback
//     by accident.
//  4. Everything else, the public network, is allowed, or with Config.DenyByDefault
//     only the targets that an allow rule matches, however wide it is.
//
// An IPv6 address that embeds an IPv4 address, for a translator or a tunnel, must
// be allowed as both.
//
// The documentation ranges (192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24, 2001:db8::/32,
// 3fff::/20) are not denied: they have no hosts, and tests use them as public addresses.
//
// A name is resolved first, and Check is called with the address that is used.
package policy
