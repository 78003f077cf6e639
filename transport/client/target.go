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

// NameAddr is the address of a target whose name the gateway resolves. It is comparable.
type NameAddr struct {
	Host string
	Port uint16
}

// Network returns "udp".
func (a NameAddr) Network() string { return "udp" }

// String returns host:port.
func (a NameAddr) String() string { return net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port))) }

// destination is the target of a flow: an address, a name, or a gateway.
type destination struct {
	addr    netip.AddrPort
	name    NameAddr
	gateway identity.PublicKey
}

// opening returns the bytes of a packet that open a flow to d.
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

// net returns d as a net.Addr.
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
		err = fmt.Errorf("%w: %q is neither an IP address nor a host name (internationalized names need the xn-- form)", ErrTarget, target)
	case errors.Is(err, wire.ErrPort):
		err = fmt.Errorf("%w: %s has port 0", ErrTarget, target)
	default:
		err = fmt.Errorf("%w: %q: %w", ErrTarget, target, err)
	}
	return err
}

// parseDestination parses the address of a DialContext.
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
		return destination{}, fmt.Errorf("%w: no host in %q", ErrTarget, address)
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

// services resolves port names from this machine's files.
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
		return destination{}, fmt.Errorf("%w: no address", ErrTarget)
	case addr.Zone() != "":
		return destination{}, fmt.Errorf("%w: zone in %s", ErrTarget, addr)
	case network == "udp4" && !addr.Is4(), network == "udp6" && !addr.Is6():
		return destination{}, fmt.Errorf("%w: %s is not an address for %s", ErrTarget, addr, network)
	}
	return destination{addr: netip.AddrPortFrom(addr, a.Port())}, nil
}

// destinationOf parses the address of a WriteTo.
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
			return addrDestination("udp", a.AddrPort())
		}
	case interface{ AddrPort() netip.AddrPort }:
		return addrDestination("udp", a.AddrPort())
	}
	return destination{}, fmt.Errorf("%w: address of type %T: use a *net.UDPAddr, a type with an AddrPort method, or a NameAddr", ErrTarget, a)
}
