package udp

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sockaddr holds a socket address of either family.
type sockaddr unix.RawSockaddrInet6

// set writes a peer's address for a socket of the given family, and returns its
// length; 0 where the address is of the other family or names nobody. ifIndex is
// the zone of a link-local peer that names none.
func (s *sockaddr) set(peer netip.AddrPort, ifIndex uint32, v6 bool) (length uint32) {
	addr := peer.Addr().Unmap()
	switch {
	case !addr.IsValid() || peer.Port() == 0 || addr.Is6() != v6:
		return 0
	case v6:
		sa := (*unix.RawSockaddrInet6)(s)
		*sa = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: addr.As16()}
		if addr.Zone() != "" {
			sa.Scope_id = zoneIndex(addr.Zone())
		} else if addr.IsLinkLocalUnicast() {
			sa.Scope_id = ifIndex
		}
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:], peer.Port())
		return unix.SizeofSockaddrInet6
	default:
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(s))
		*sa = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: addr.As4()}
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:], peer.Port())
		return unix.SizeofSockaddrInet4
	}
}

// get reads the address that the kernel wrote; the zero AddrPort where it is of no
// family that this package knows.
func (s *sockaddr) get() netip.AddrPort {
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&s.Port))[:])
	switch s.Family {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(s)).Addr), port)
	case unix.AF_INET6:
		addr := netip.AddrFrom16(s.Addr).Unmap()
		if s.Scope_id != 0 {
			addr = addr.WithZone(zoneName(s.Scope_id))
		}
		return netip.AddrPortFrom(addr, port)
	}
	return netip.AddrPort{}
}
