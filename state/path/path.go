package path

import (
	"net/netip"
	"strconv"
)

// Transport is what carries packets on a path.
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

// Path is the way between a peer and this host. Make one with NewUDP or NewTCP,
// which see to it that one way has one Path.
type Path struct {
	// Peer is the other end. An IPv4 address is never in its IPv4-mapped form.
	Peer netip.AddrPort
	// Local is the address that the peer's packet was sent to, and from which
	// the answer leaves; the zero Addr where it is not known. Never
	// IPv4-mapped.
	Local netip.Addr
	// IfIndex is the interface that the packet came in on, 0 where it is not
	// known.
	IfIndex uint32
	// Transport is UDP or TCP.
	Transport Transport
	// Conn is the number of the TCP connection, never used twice by a process;
	// 0 over UDP.
	Conn uint64
}

// NewUDP returns the path of a datagram from peer to local that came in on the
// interface ifIndex. local is the zero Addr, and ifIndex 0, where they are not
// known.
func NewUDP(peer netip.AddrPort, local netip.Addr, ifIndex uint32) Path {
	return Path{Peer: unmap(peer), Local: local.Unmap(), IfIndex: ifIndex, Transport: UDP}
}

// NewTCP returns the path of a packet that came in on connection number conn,
// between peer and local.
func NewTCP(peer netip.AddrPort, local netip.Addr, conn uint64) Path {
	return Path{Peer: unmap(peer), Local: local.Unmap(), Transport: TCP, Conn: conn}
}

func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// IsValid reports whether p has a peer.
func (p Path) IsValid() bool { return p.Peer.IsValid() }

// SamePeer reports whether p and q lead to the same address and port over the
// same transport, whatever the local end.
func (p Path) SamePeer(q Path) bool {
	return p.Transport == q.Transport && p.Peer == q.Peer
}

// SameSource reports whether packets of one handshake may come by p and q
// (section 5 of PROTOCOL.md): the same transport, and over UDP the same address
// and port, over TCP, where every packet has a connection of its own, the same
// address.
func (p Path) SameSource(q Path) bool {
	if p.Transport == TCP && q.Transport == TCP {
		return p.Peer.Addr() == q.Peer.Addr()
	}
	return p.SamePeer(q)
}
