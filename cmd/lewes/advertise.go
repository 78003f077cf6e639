package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"

	"lewes/cmd/config"
	"lewes/crypto/identity"
	"lewes/router"
	"lewes/transport/uri"
)

// maxAdvertised bounds the URIs that a gateway prints.
const maxAdvertised = 8

// sharedCarrier is what carriers number their customers with: global unicast to
// netip, and reached from nowhere else (RFC 6598).
var sharedCarrier = netip.MustParsePrefix("100.64.0.0/10")

// advertised returns the URIs by which clients reach a gateway: by its public names
// where it has been given some, else by the global addresses of the machine that it
// listens on, else by the address that it listens on, or loopback for a wildcard: then
// unknown is true, since others surely reach it by another one.
//
// The public names come with port 0 where their port is the one that is listened on.
func advertised(id identity.PublicKey, public []uri.Gateway, listening []netip.AddrPort, machine []netip.Addr) (uris []uri.Gateway, unknown bool) {
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
	for _, at := range listening {
		if !at.Addr().IsUnspecified() {
			if isGlobal(at.Addr()) {
				add(at.Addr().String(), at.Port())
			}
			continue
		}
		for _, a := range machine {
			if isGlobal(a) && a.Is4() == at.Addr().Is4() {
				add(a.String(), at.Port())
			}
		}
	}
	if len(uris) > 0 {
		return uris, false
	}
	for _, at := range listening {
		switch addr := at.Addr(); addr {
		case netip.IPv4Unspecified():
			unknown = true
			add("127.0.0.1", at.Port())
		case netip.IPv6Unspecified():
			unknown = true
			add("::1", at.Port())
		default:
			add(addr.WithZone("").String(), at.Port())
		}
	}
	return uris, unknown
}

// isGlobal reports whether an address may be reached from anywhere.
func isGlobal(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.IsPrivate() && !sharedCarrier.Contains(a)
}

// machineAddrs returns the addresses of this machine's interfaces.
func machineAddrs() []netip.Addr {
	found, err := net.InterfaceAddrs()
	if err != nil {
		return nil // then the addresses listened on have to do
	}
	var addrs []netip.Addr
	for _, a := range found {
		if n, ok := a.(*net.IPNet); ok {
			if addr, ok := netip.AddrFromSlice(n.IP); ok {
				addrs = append(addrs, addr.Unmap())
			}
		}
	}
	return addrs
}

// advertisement is what a gateway says of itself when it is ready.
type advertisement struct {
	Identity identity.PublicKey `json:"identity"`
	URIs     []string           `json:"uris"`
	Listen   []string           `json:"listen"`
	// ListenTCP is empty where the gateway serves no TCP.
	ListenTCP []string `json:"listen_tcp,omitempty"`
	Access    string   `json:"access"`
	unknown   bool     // by which address clients reach it
}

func advertise(g *router.Gateway, c *config.Config) *advertisement {
	var public []uri.Gateway
	for _, h := range c.Public {
		public = append(public, uri.Gateway{Host: h.Name, Port: h.Port})
	}
	a := &advertisement{Identity: g.Identity(), Access: string(c.Access.Mode)}
	var uris []uri.Gateway
	uris, a.unknown = advertised(g.Identity(), public, g.Addrs(), machineAddrs())
	for _, at := range g.TCPAddrs() {
		a.ListenTCP = append(a.ListenTCP, at.String())
	}
	for _, u := range uris {
		if tcp := g.TCPAddrs(); len(tcp) > 0 && tcp[0].Port() != uri.DefaultTCPPort {
			u.TCPPort = tcp[0].Port()
		}
		a.URIs = append(a.URIs, u.String())
	}
	for _, at := range g.Addrs() {
		a.Listen = append(a.Listen, at.String())
	}
	return a
}

func (a *advertisement) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return writeJSONLine(w, a)
	}
	for _, u := range a.URIs {
		if _, err := fmt.Fprintln(w, u); err != nil {
			return err
		}
	}
	return nil
}
