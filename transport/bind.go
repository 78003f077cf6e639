package transport

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
)

// BindError says why an address could not be bound.
type BindError struct {
	Network string // "udp" or "tcp"
	Addr    netip.AddrPort
	Err     error // without what package net wraps it in, which repeats the address
}

// NewBindError returns a BindError of what package net said.
func NewBindError(network string, addr netip.AddrPort, err error) *BindError {
	return &BindError{network, addr, SystemError(err)}
}

func (e *BindError) Error() string {
	s := fmt.Sprintf("%s: bind %s: %v", e.Network, e.Addr, e.Err)
	switch {
	case errors.Is(e.Err, syscall.EADDRINUSE):
		s += ": another program has this port (another gateway?); stop it or choose another port"
	case errors.Is(e.Err, syscall.EACCES):
		s += ": choose a port from 1024 up, or allow this program to bind low ports"
	case errors.Is(e.Err, syscall.EADDRNOTAVAIL):
		s += ": this host does not have the address; name one that it has, or none to bind them all"
	case errors.Is(e.Err, syscall.EAFNOSUPPORT):
		s += ": this host does not speak that address family"
	}
	return s
}

func (e *BindError) Unwrap() error { return e.Err }

// PortTaken reports whether one of the errors is that the port is in use.
func PortTaken(failed []*BindError) bool {
	for _, f := range failed {
		if errors.Is(f, syscall.EADDRINUSE) {
			return true
		}
	}
	return false
}

// BindFailed joins the reasons why none of the addresses could be bound.
func BindFailed(failed []*BindError) error {
	var errs []error
	for _, f := range failed {
		errs = append(errs, f)
	}
	return errors.Join(errs...)
}

// BindAddrs returns the addresses to bind where a configuration asks for some, each
// with an address in it: none, or an entry without one, means every address of both
// families.
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

// SystemError takes net's wrapping, which repeats the address, off an error of the
// system's.
func SystemError(err error) error {
	var call *os.SyscallError
	if errors.As(err, &call) {
		return call
	}
	return err
}
