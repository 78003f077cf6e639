package policy

import (
	"errors"
	"net"
	"net/netip"
)

// ErrOwnUnknown means that nobody could say which addresses the gateway has.
var ErrOwnUnknown = errors.New("the gateway's own addresses could not be found out")

// ownSet is never changed once others see it.
type ownSet map[netip.Addr]struct{}

// Refresh asks Config.Own again which addresses the gateway has. Its owner calls
// it on a schedule, and when the network has changed. An empty answer, which no
// host with a network gives, leaves what was known and is reported as
// ErrOwnUnknown.
func (p *Policy) Refresh() error {
	ask := p.rules.Load().ask
	if ask == nil {
		return nil
	}
	answer := ask()
	if len(answer) == 0 {
		return ErrOwnUnknown
	}
	set := make(ownSet, len(answer))
	for _, addr := range answer {
		addr = plain(addr)
		// Loopback is denied as such, and opened as such.
		if addr.IsValid() && !addr.IsUnspecified() && !addr.IsLoopback() {
			set[addr] = struct{}{}
		}
	}
	p.own.Store(&set)
	return nil
}

func (p *Policy) isOwn(addr netip.Addr) bool {
	set := p.own.Load()
	if set == nil {
		return false
	}
	_, found := (*set)[addr]
	return found
}

// HostAddrs returns a function for Config.Own: it gives the addresses of all
// interfaces as they are when it is called, and those named here, which others
// know this host by and no interface has (behind NAT). Where the interfaces cannot
// be read it gives nothing, and Refresh says so.
func HostAddrs(public ...netip.Addr) func() []netip.Addr {
	return func() []netip.Addr {
		found, err := net.InterfaceAddrs()
		if err != nil {
			return nil
		}
		list := make([]netip.Addr, 0, len(found)+len(public))
		for _, a := range found {
			if n, ok := a.(*net.IPNet); ok {
				if addr, ok := netip.AddrFromSlice(n.IP); ok {
					list = append(list, addr.Unmap())
				}
			}
		}
		if len(list) == 0 {
			return nil
		}
		return append(list, public...)
	}
}

// plain returns the address in the one form that is judged.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }
