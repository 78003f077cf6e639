package link

import (
	"net/netip"
	"sync"
)

// firstPort and lastPort bound the ports of mappings.
const (
	firstPort = 20_000
	lastPort  = 60_000
)

// nat is a NAT with endpoint-independent mapping (RFC 4787): one mapping per inner address and
// port. It drops IPv4 protocols other than UDP and TCP, and passes IPv6 unchanged.
type nat struct {
	mu    sync.Mutex
	outer []netip.Addr
	next  int // index of the current outer address
	port  uint16
	out   map[mapped]netip.AddrPort // from inside
	in    map[mapped]netip.AddrPort // from outside
}

// mapped is an address and port on one side.
type mapped struct {
	protocol uint8
	at       netip.AddrPort
}

func newNAT(outer []netip.Addr) *nat {
	n := &nat{outer: outer, next: -1, port: firstPort}
	n.rebind()
	return n
}

// rebind drops all mappings. New ones use the next outer address and unused ports.
func (n *nat) rebind() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.next = (n.next + 1) % len(n.outer)
	n.out = make(map[mapped]netip.AddrPort)
	n.in = make(map[mapped]netip.AddrPort)
}

// translate rewrites a packet and reports whether it passes.
func (n *nat) translate(d Direction, h *header, b []byte) bool {
	switch {
	case h.version != 4:
		return true
	case !h.ports:
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if d == A {
		h.setEndpoint(b, source, n.outside(mapped{h.protocol, h.endpoint(b, source)}))
		return true
	}
	to, ok := n.in[mapped{h.protocol, h.endpoint(b, destination)}]
	if ok {
		h.setEndpoint(b, destination, to)
	}
	return ok
}

// outside returns the mapping of an inner address, and creates it if needed.
func (n *nat) outside(from mapped) netip.AddrPort {
	if at, ok := n.out[from]; ok {
		return at
	}
	at := netip.AddrPortFrom(n.outer[n.next], n.port)
	if n.port++; n.port == lastPort {
		n.port = firstPort
	}
	delete(n.out, mapped{from.protocol, n.in[mapped{from.protocol, at}]}) // the previous user of a reused port
	n.out[from] = at
	n.in[mapped{from.protocol, at}] = from.at
	return at
}
