package gatewayd

import (
	"net"
	"net/netip"
	"slices"

	"lewes/cmd/lewes/internal/config"
	"lewes/crypto/identity"
	"lewes/router"
	"lewes/transport/uri"
)

// maxAdvertised bounds the number of URIs of a gateway.
const maxAdvertised = 8

// sharedAddressSpace is the carrier-grade NAT range (RFC 6598): global unicast for netip, but not
// reachable from elsewhere.
var sharedAddressSpace = netip.MustParsePrefix("100.64.0.0/10")

// Advertisement describes a gateway that is ready.
type Advertisement struct {
	Identity  identity.PublicKey `json:"identity"`
	URIs      []string           `json:"uris"`
	Listen    []string           `json:"listen"`
	ListenTCP []string           `json:"listen_tcp,omitempty"` // empty if TCP is off
	Access    string             `json:"access"`

	loopbackOnly bool // no address is known that other machines can reach
}

func advertise(g *router.Gateway, c *config.Config) *Advertisement {
	var public []uri.Gateway
	for _, h := range c.Public {
		public = append(public, uri.Gateway{Host: h.Name, Port: h.Port})
	}
	a := &Advertisement{Identity: g.Identity(), Access: string(c.Access.Mode)}
	var uris []uri.Gateway
	uris, a.loopbackOnly = advertised(g.Identity(), public, g.Addrs(), machineAddrs())
	tcp := g.TCPAddrs()
	for _, u := range uris {
		if len(tcp) > 0 && tcp[0].Port() != uri.DefaultTCPPort {
			u.TCPPort = tcp[0].Port()
		}
		open := c.Access.Mode == config.AccessOpen // else only listed clients may pay, by the listed identity
		u.Tickets = open && c.Registration.Access == config.RegistrationTickets
		u.Open = open && !u.Tickets
		a.URIs = append(a.URIs, u.String())
	}
	for _, addr := range g.Addrs() {
		a.Listen = append(a.Listen, addr.String())
	}
	for _, addr := range tcp {
		a.ListenTCP = append(a.ListenTCP, addr.String())
	}
	return a
}

// advertised returns a gateway's URIs. In order of preference they use the configured public names, the
// global addresses among those listened on, or the addresses listened on, with loopback for a wildcard;
// loopbackOnly reports the last case. A public name with port 0 gets the port listened on.
func advertised(id identity.PublicKey, public []uri.Gateway, listening []netip.AddrPort, machine []netip.Addr) (uris []uri.Gateway, loopbackOnly bool) {
	add := func(host string, port uint16) {
		if g := (uri.Gateway{Identity: id, Host: host, Port: port}); !slices.Contains(uris, g) && len(uris) < maxAdvertised {
			uris = append(uris, g)
		}
	}
	for _, g := range public {
		port := g.Port
		if port == 0 && len(listening) > 0 {
			port = listening[0].Port()
		}
		add(g.Host, port)
	}
	if len(uris) > 0 {
		return uris, false
	}
	for _, l := range listening {
		if !l.Addr().IsUnspecified() {
			if isGlobal(l.Addr()) {
				add(l.Addr().String(), l.Port())
			}
			continue
		}
		for _, a := range machine {
			if isGlobal(a) && a.Is4() == l.Addr().Is4() {
				add(a.String(), l.Port())
			}
		}
	}
	if len(uris) > 0 {
		return uris, false
	}
	for _, l := range listening {
		switch addr := l.Addr(); addr {
		case netip.IPv4Unspecified():
			loopbackOnly = true
			add("127.0.0.1", l.Port())
		case netip.IPv6Unspecified():
			loopbackOnly = true
			add("::1", l.Port())
		default:
			add(addr.WithZone("").String(), l.Port())
		}
	}
	return uris, loopbackOnly
}

// isGlobal reports whether an address may be reachable from the whole Internet.
func isGlobal(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.IsPrivate() && !sharedAddressSpace.Contains(a)
}

// machineAddrs returns the addresses of this machine's interfaces, or none if they cannot be read.
func machineAddrs() (addrs []netip.Addr) {
	found, _ := net.InterfaceAddrs()
	for _, a := range found {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				addrs = append(addrs, addr.Unmap())
			}
		}
	}
	return addrs
}
