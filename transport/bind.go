package transport

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
)

// BindError is the failure to bind an address.
type BindError struct {
	Network string // "udp" or "tcp"
	Addr    netip.AddrPort
	Err     error // without the wrapping of package net, which repeats the address
}

// NewBindError returns a BindError for an error of package net.
func NewBindError(network string, addr netip.AddrPort, err error) *BindError {
	return &BindError{network, addr, SystemError(err)}
}

func (e *BindError) Error() string {
	s := fmt.Sprintf("%s: bind %s: %v", e.Network, e.Addr, e.Err)
	switch {
	case errors.Is(e.Err, syscall.EADDRINUSE):
		s += ": the port is in use (by another gateway?); stop that program or choose another port"
	case errors.Is(e.Err, syscall.EACCES):
		s += ": choose a port from 1024 up, or allow this program to bind low ports"
	case errors.Is(e.Err, syscall.EADDRNOTAVAIL):
		s += ": this host does not have the address; use one that it has, or none to bind all"
	case errors.Is(e.Err, syscall.EAFNOSUPPORT):
		s += ": this host does not support the address family"
	}
	return s
}

func (e *BindError) Unwrap() error { return e.Err }

// PortTaken reports whether one of the addresses is in use.
func PortTaken(failed []*BindError) bool {
	for _, f := range failed {
		if errors.Is(f, syscall.EADDRINUSE) {
			return true
		}
	}
	return false
}

// BindFailed joins the errors of all addresses.
func BindFailed(failed []*BindError) error {
	var errs []error
	for _, f := range failed {
		errs = append(errs, f)
	}
	return errors.Join(errs...)
}

// BindAddrs expands the configured addresses: no entry, or an entry without an address,
// means the wildcard addresses of both families.
func BindAddrs(asked []netip.AddrPort) (addrs []netip.AddrPort) {
	if len(asked) == 0 {
		asked = []netip.AddrPort{{}}
	}
	for _, a := range asked {
		if !a.Addr().IsValid() {
			addrs = append(addrs,
				netip.AddrPortFrom(netip.IPv4Unspecified(), a.Port()),
				netip.AddrPortFrom(netip.IPv6Unspecified(), a.Port()))
			continue
		}
		addrs = append(addrs, netip.AddrPortFrom(a.Addr().Unmap(), a.Port()))
	}
	return addrs
}

// SystemError unwraps a system error from package net, whose text repeats the address.
func SystemError(err error) error {
	var call *os.SyscallError
	if errors.As(err, &call) {
		return call
	}
	return err
}
