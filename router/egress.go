package router

import (
	"net/netip"
	"os"

	"lewes/transport"
	"lewes/transport/udp"
)

// UDPEgress opens connected UDP sockets. They hold no buffer while they are idle.
type UDPEgress struct{ Options udp.Options }

// Inherit goes on with a socket that another process has dialled, and closes the
// file.
func (e *UDPEgress) Inherit(file *os.File) (transport.Conn, error) {
	return udp.InheritConn(file, e.options())
}

// Dial opens a socket to target.
func (e *UDPEgress) Dial(target netip.AddrPort) (transport.Conn, error) {
	return udp.Dial(target, e.options())
}

func (e *UDPEgress) options() udp.Options {
	o := e.Options
	o.Pooled = true
	o.Fragment = true // a target knows nothing of what fits the way to it
	return o
}
