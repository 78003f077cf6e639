// Package path identifies network paths: the peer's address and port, the local
// address and interface, the transport, and over TCP the connection.
//
// A Path is a small comparable value, usable as a map key. Printing one never
// shows a whole client address.
package path

import (
	"fmt"
	"io"
	"net/netip"
	"strconv"
)

// Transport is the transport protocol of a path.
type Transport uint8

// The transports of section 10 of PROTOCOL.md.
const (
	UDP Transport = 0
	TCP Transport = 1
)

func (t Transport) String() string {
	switch t {
	case UDP:
		return "udp"
	case TCP:
		return "tcp"
	}
	return "transport " + strconv.Itoa(int(t))
}

// Path is a path between a peer and this host. NewUDP and NewTCP make one in its canonical form.
type Path struct {
	// Peer is the remote end, never IPv4-mapped.
	Peer netip.AddrPort
	// Local is the destination of the peer's packets and the source of the
	// answers, never IPv4-mapped; the zero Addr if unknown.
	Local netip.Addr
	// IfIndex is the interface that received the packet, 0 if unknown.
	IfIndex uint32
	// Transport is UDP or TCP.
	Transport Transport
	// Conn is the number of the TCP connection, unique within a process; 0 over UDP.
	Conn uint64
}

// NewUDP returns the path of a datagram from peer to local, received on the
// interface ifIndex. local may be the zero Addr and ifIndex 0 if unknown.
func NewUDP(peer netip.AddrPort, local netip.Addr, ifIndex uint32) Path {
	return Path{Peer: unmap(peer), Local: local.Unmap(), IfIndex: ifIndex, Transport: UDP}
}

// NewTCP returns the path of a packet on connection number conn between peer and local.
func NewTCP(peer netip.AddrPort, local netip.Addr, conn uint64) Path {
	return Path{Peer: unmap(peer), Local: local.Unmap(), Transport: TCP, Conn: conn}
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// IsValid reports whether p has a peer.
func (p Path) IsValid() bool { return p.Peer.IsValid() }

// SamePeer reports whether p and q have the same remote address and port over the same transport.
func (p Path) SamePeer(q Path) bool {
	return p.Transport == q.Transport && p.Peer == q.Peer
}

// SameSource reports whether p and q count as one source in a handshake (section 5
// of PROTOCOL.md): the same transport, and over UDP the same address and port,
// over TCP, where every packet has its own connection, the same address.
func (p Path) SameSource(q Path) bool {
	if p.Transport == TCP && q.Transport == TCP {
		return p.Peer.Addr() == q.Peer.Addr()
	}
	return p.SamePeer(q)
}

// The number of address bits in a log line.
const (
	maskIPv4 = 24
	maskIPv6 = 48
)

// MaskAddr returns the printable part of a client's address: the first 24 bits of an IPv4 address
// as in "198.51.100.x", the first 48 of an IPv6 address as in "2001:db8:1::x", without a zone.
func MaskAddr(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	bits := maskIPv6
	switch {
	case !a.IsValid():
		return "unknown"
	case a.Is4():
		bits = maskIPv4
	}
	prefix, _ := a.Prefix(bits) // fails only for more bits than the address has
	s := prefix.Addr().String()
	if a.Is4() {
		s = s[:len(s)-len("0")] // the masked last byte
	}
	return s + "x" // an IPv6 prefix ends in "::"
}

// MaskAddrPort returns MaskAddr and the port: "198.51.100.x:51820", "[2001:db8:1::x]:51820".
func MaskAddrPort(a netip.AddrPort) string {
	addr := MaskAddr(a.Addr())
	if a.Addr().Unmap().Is6() {
		addr = "[" + addr + "]"
	}
	return addr + ":" + strconv.Itoa(int(a.Port()))
}

// String returns the transport and the masked peer: "udp 198.51.100.x:51820".
func (p Path) String() string { return p.Transport.String() + " " + MaskAddrPort(p.Peer) }

// Format prints String for every verb and flag.
func (p Path) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, p.String()) }

// MarshalText returns String, so that encoders mask the address too.
func (p Path) MarshalText() ([]byte, error) { return []byte(p.String()), nil }
