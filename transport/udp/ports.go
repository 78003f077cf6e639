package udp

import "net/netip"

// portBinding binds a new socket to a port of Ports.
type portBinding struct {
	ports  Ports // nil: the system chooses the port
	target netip.AddrPort
	port   uint16 // 0: none is taken
}

// release returns the port, after no datagram was sent from it.
func (b *portBinding) release() {
	if b.port != 0 {
		b.ports.Release(b.port, b.target, false)
		b.port = 0
	}
}
