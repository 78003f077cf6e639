package main

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"lewes/state/wire"
	"lewes/transport/client/portforward"
)

const mappingForm = "write LOCAL=TARGET, such as 5353=9.9.9.9:53 or 127.0.0.1:5353=dns.example:53"

// parseMapping parses LOCAL=TARGET.
func parseMapping(s string) (portforward.Mapping, error) {
	local, target, found := strings.Cut(s, "=")
	if !found {
		return portforward.Mapping{}, fmt.Errorf("%q has no =: %s", s, mappingForm)
	}
	var m portforward.Mapping
	var err error
	if m.Local, err = parseLocal(local); err != nil {
		return portforward.Mapping{}, fmt.Errorf("%q: %w; %s", s, err, mappingForm)
	}
	if m.Target, err = parseTarget(target); err != nil {
		return portforward.Mapping{}, fmt.Errorf("%q: %w; %s", s, err, mappingForm)
	}
	return m, nil
}

// parseLocal reads a port, or an address and a port. Where no address is named it
// is 127.0.0.1: nobody but this machine is served without being asked for.
func parseLocal(s string) (netip.AddrPort, error) {
	host, port := "", s
	if strings.Contains(s, ":") {
		var err error
		if host, port, err = net.SplitHostPort(s); err != nil {
			return netip.AddrPort{}, fmt.Errorf("the local side %q is neither a port nor address:port", s)
		}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("the local port %q is no number from 0 to 65535", port)
	}
	addr := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if host != "" && host != "localhost" {
		if addr, err = netip.ParseAddr(host); err != nil {
			return netip.AddrPort{}, fmt.Errorf("the local address %q is no IP address", host)
		}
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), nil
}

// parseTarget checks a host:port; the host may be a name, which the gateway
// resolves.
func parseTarget(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", fmt.Errorf("the target %q is not host:port", s)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", fmt.Errorf("the target's port %q is no number from 1 to 65535", port)
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() != "" {
			return "", fmt.Errorf("the target's address %q has a zone, which means nothing at the gateway", host)
		}
		return netip.AddrPortFrom(addr.Unmap(), uint16(n)).String(), nil
	}
	if _, err := wire.NameTarget(host, uint16(n)); err != nil {
		return "", fmt.Errorf("the target's host %q is neither an IP address nor a host name; write a name of another alphabet in its xn-- form", host)
	}
	return net.JoinHostPort(host, strconv.FormatUint(n, 10)), nil
}
