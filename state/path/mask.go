package path

import (
	"fmt"
	"io"
	"net/netip"
	"strconv"
)

// How much of an address a log line shows.
const (
	maskIPv4 = 24
	maskIPv6 = 48
)

// MaskAddr returns what may be shown of a client's address: the first 24 bits
// of an IPv4 address as in "198.51.100.x", the first 48 of an IPv6 address as in
// "2001:db8:1::x". A zone is left out.
func MaskAddr(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	bits, tail := maskIPv6, "x"
	switch {
	case !a.IsValid():
		return "unknown"
	case a.Is4():
		bits = maskIPv4
	}
	prefix, _ := a.Prefix(bits) // fails for more bits than the address has
	s := prefix.Addr().String()
	if a.Is4() {
		return s[:len(s)-len("0")] + tail // the last byte is masked: "….0"
	}
	return s + tail // the last five groups are masked: "…::"
}

// MaskAddrPort returns MaskAddr and the port: "198.51.100.x:51820",
// "[2001:db8:1::x]:51820".
func MaskAddrPort(a netip.AddrPort) string {
	addr := MaskAddr(a.Addr())
	if a.Addr().Unmap().Is6() {
		addr = "[" + addr + "]"
	}
	return addr + ":" + strconv.Itoa(int(a.Port()))
}

// String returns the transport and the peer, its address masked: "udp
// 198.51.100.x:51820". The local end is left out.
func (p Path) String() string {
	return p.Transport.String() + " " + MaskAddrPort(p.Peer)
}

// Format prints String for every verb and flag: none shows more of an address.
func (p Path) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, p.String()) }

// MarshalText is String, so that encoders show no more of an address either.
func (p Path) MarshalText() ([]byte, error) { return []byte(p.String()), nil }
