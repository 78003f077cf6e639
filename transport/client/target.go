package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"lewes/crypto/identity"
	"lewes/state/wire"
)

// NameAddr is the address of a target by its name, which the gateway resolves.
// It is comparable.
type NameAddr struct {
	Host string
	Port uint16
}

// Network returns "udp".
func (a NameAddr) Network() string { return "udp" }

// String returns host:port.
func (a NameAddr) String() string { return net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port))) }

// destination is where a flow leads: an address, a name, or another gateway.
type destination struct {
	addr    netip.AddrPort
	name    NameAddr
	gateway identity.PublicKey
}

// opening returns the bytes by which a packet opens a flow there.
func (d destination) opening() ([]byte, error) {
	if d.gateway != (identity.PublicKey{}) {
		return d.gateway[:], nil
	}
	t := wire.AddrTarget(d.addr)
	if d.name.Host != "" {
		t = wire.Target{Name: []byte(d.name.Host), Port: d.name.Port}
	}
	if err := t.Check(); err != nil {
		return nil, targetError(d.String(), err)
	}
	return t.Append(nil), nil
}

func (d destination) forward() bool { return d.gateway != (identity.PublicKey{}) }

// net returns d as users know it.
func (d destination) net() net.Addr {
	if d.forward() {
		return nil
	}
	if d.name.Host != "" {
		return d.name
	}
	return net.UDPAddrFromAddrPort(d.addr)
}

func (d destination) String() string {
	switch {
	case d.forward():
		return d.gateway.String()
	case d.name.Host != "":
		return d.name.String()
	}
	return d.addr.String()
}

func targetError(target string, err error) error {
	switch {
	case errors.Is(err, wire.ErrName):
		err = fmt.Errorf("%w: %q is neither an IP address nor a host name; write a name of another alphabet in its xn-- form", ErrTarget, target)
	case errors.Is(err, wire.ErrPort):
		err = fmt.Errorf("%w: %s has port 0", ErrTarget, target)
	default:
		err = fmt.Errorf("%w: %q: %w", ErrTarget, target, err)
	}
	return err
}

// parseDestination reads the address of a DialContext.
func parseDestination(ctx context.Context, network, address string) (destination, error) {
	switch network {
	case "udp", "udp4", "udp6":
	default:
		return destination{}, net.UnknownNetworkError(network)
	}
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return destination{}, err
	}
	if host == "" {
		return destination{}, fmt.Errorf("%w: %q names no host", ErrTarget, address)
	}
	port, err := parsePort(ctx, network, service)
	if err != nil {
		return destination{}, err
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return destination{name: NameAddr{host, port}}, nil
	}
	return addrDestination(network, netip.AddrPortFrom(addr, port))
}

// services knows the names of ports by what this machine has on file.
var services = net.Resolver{PreferGo: true}

func parsePort(ctx context.Context, network, service string) (uint16, error) {
	if n, err := strconv.ParseUint(service, 10, 16); err == nil {
		return uint16(n), nil
	}
	n, err := services.LookupPort(ctx, network, service)
	return uint16(n), err
}

// addrDestination checks an address for a network; "udp" takes both families.
func addrDestination(network string, a netip.AddrPort) (destination, error) {
	addr := a.Addr().Unmap()
	switch {
	case !addr.IsValid():
		return destination{}, fmt.Errorf("%w: an address is missing", ErrTarget)
	case addr.Zone() != "":
		return destination{}, fmt.Errorf("%w: %s has a zone, which means nothing at the gateway", ErrTarget, addr)
	case network == "udp4" && !addr.Is4(), network == "udp6" && !addr.Is6():
		return destination{}, fmt.Errorf("%w: %s is no address for %s", ErrTarget, addr, network)
	}
	return destination{addr: netip.AddrPortFrom(addr, a.Port())}, nil
}

// destinationOf reads the address of a WriteTo.
func destinationOf(a net.Addr) (destination, error) {
	switch a := a.(type) {
	case NameAddr:
		return destination{name: a}, nil
	case *NameAddr:
		if a != nil {
			return destination{name: *a}, nil
		}
	case *net.UDPAddr:
		if a != nil {
			return udpDestination(a)
		}
	case interface{ AddrPort() netip.AddrPort }:
		return addrDestination("udp", a.AddrPort())
	}
	return destination{}, fmt.Errorf("%w: an address of type %T; give a *net.UDPAddr, something with an AddrPort method, or a client.NameAddr", ErrTarget, a)
}

func udpDestination(a *net.UDPAddr) (destination, error) {
	return addrDestination("udp", a.AddrPort())
}
