package link

import (
	"net/netip"
	"sync"
)

// firstPort is the first port that a NAT gives away, and lastPort the last before it begins
// again.
const (
	firstPort = 20_000
	lastPort  = 60_000
)

// nat is an endpoint-independent NAT (RFC 4787): one mapping for each address and
// port inside, whoever is spoken to. It is for IPv4; other IPv4 protocols than
// UDP and TCP do not pass.
type nat struct {
	mu    sync.Mutex
	outer []netip.Addr
	turn  int
	port  uint16
	out   map[mapped]netip.AddrPort // from inside
	in    map[mapped]netip.AddrPort // from outside
}

// mapped is an address and port on one of the sides.
type mapped struct {
	protocol uint8
	at       netip.AddrPort
}

func newNAT(outer []netip.Addr) *nat {
	n := &nat{outer: outer, turn: -1, port: firstPort}
	n.rebind()
	return n
}

// rebind forgets all mappings; new ones are on the next of the addresses, and on ports
// that were not used before.
func (n *nat) rebind() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.turn = (n.turn + 1) % len(n.outer)
	n.out = make(map[mapped]netip.AddrPort)
	n.in = make(map[mapped]netip.AddrPort)
}

// translate translates a packet that goes in a direction. It reports whether the packet may
// go on.
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

// outside returns the mapping of an address inside, and makes it where there is none.
func (n *nat) outside(from mapped) netip.AddrPort {
	if at, ok := n.out[from]; ok {
		return at
	}
	at := netip.AddrPortFrom(n.outer[n.turn], n.port)
	if n.port++; n.port == lastPort {
		n.port = firstPort
	}
	delete(n.out, mapped{from.protocol, n.in[mapped{from.protocol, at}]}) // whose port comes round again
	n.out[from] = at
	n.in[mapped{from.protocol, at}] = from.at
	return at
}
