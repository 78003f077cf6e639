package router

import (
	"net/netip"

	"lewes/transport"
	"lewes/transport/udp"
)

// UDPEgress opens connected UDP sockets. They hold no buffer while they are idle.
type UDPEgress struct{ Options udp.Options }

// Dial opens a socket to target.
func (e *UDPEgress) Dial(target netip.AddrPort) (transport.Conn, error) {
	o := e.Options
	o.Pooled = true
	o.Fragment = true // a target knows nothing of what fits the way to it
	return udp.Dial(target, o)
}
