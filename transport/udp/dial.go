package udp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"lewes/state/path"
)

// ErrInvalidTarget: the address to connect to names no host or no port.
var ErrInvalidTarget = errors.New("udp: target needs an address and a port")

// Dial returns a socket connected to target: it receives from there only, and the
// system reports on it when the target refuses what is sent (transport.ErrRefused). The
// local port is a new one of the system's choice.
func Dial(target netip.AddrPort, o Options) (*Conn, error) {
	return DialFrom(netip.AddrPort{}, target, o)
}

// DialFrom is Dial with the local address, the port, or both chosen by the caller; the
// zero Addr and port 0 leave them to the system.
func DialFrom(local, target netip.AddrPort, o Options) (*Conn, error) {
	target = netip.AddrPortFrom(target.Addr().Unmap(), target.Port())
	if !target.IsValid() || target.Port() == 0 || target.Addr().IsUnspecified() {
		return nil, fmt.Errorf("%w, got %s", ErrInvalidTarget, target)
	}
	network := "udp4"
	if target.Addr().Is6() {
		network = "udp6"
	}
	if zone := target.Addr().Zone(); zone != "" {
		target = netip.AddrPortFrom(target.Addr().WithZone(zoneName(zoneIndex(zone))), target.Port())
	}
	var s setup
	dialer := net.Dialer{Control: func(network, _ string, raw syscall.RawConn) (err error) {
		s, err = prepare(network, raw, &o, true)
		return err
	}}
	chosen := local.Addr().IsValid() || local.Port() != 0
	if chosen && !local.Addr().IsValid() {
		local = netip.AddrPortFrom(wildcard(network), local.Port())
	}
	var u *net.UDPConn
	var err error
	if chosen {
		u, err = dialer.DialUDP(context.Background(), network, local, target)
	} else {
		var c net.Conn
		if c, err = dialer.Dial(network, target.String()); err == nil {
			u = c.(*net.UDPConn)
		}
	}
	if err != nil {
		var errno syscall.Errno
		if errors.As(err, &errno) { // net's own text has the whole address
			err = cause(errno)
		}
		return nil, fmt.Errorf("udp: connect to %s: %w", path.MaskAddrPort(target), err)
	}
	c, err := newConn(u, target, &o, s)
	if err != nil {
		_ = u.Close()
		return nil, fmt.Errorf("udp: connect to %s: %w", path.MaskAddrPort(target), err)
	}
	// Between bind and connect the socket takes datagrams from anyone.
	c.checkPeer = chosen
	return c, nil
}

func wildcard(network string) netip.Addr {
	if network == "udp6" {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}
