package router

import (
	"net/netip"

	"lewes/state/path"
	"lewes/transport"
	"lewes/transport/udp"
)

// sockets are a shard's own, by what they are bound to.
type sockets struct {
	v4, v6 transport.Conn // bound to every address of the family
	bound  map[netip.Addr]transport.Conn
}

// For returns the socket on which the peer's packets come, nil when there is
// none of its kind.
func (o *sockets) For(p path.Path) transport.Conn {
	if len(o.bound) > 0 {
		if c := o.bound[p.Local]; c != nil {
			return c
		}
	}
	if p.Peer.Addr().Is4() {
		return o.v4
	}
	return o.v6
}

// socketsOf sorts a shard's sockets.
func socketsOf(l *udp.Listener, shard int) (*sockets, []transport.Conn) {
	o := &sockets{bound: make(map[netip.Addr]transport.Conn)}
	var mine []transport.Conn
	for _, g := range l.Groups {
		// Where the system gave one socket for all shards, the first shard reads it
		// and all write to it.
		conn := g.Conns[min(shard, len(g.Conns)-1)]
		if shard < len(g.Conns) {
			mine = append(mine, conn)
		}
		switch addr := g.Addr.Addr(); {
		case addr == netip.IPv4Unspecified():
			o.v4 = conn
		case addr == netip.IPv6Unspecified():
			o.v6 = conn
		default:
			o.bound[addr] = conn
		}
	}
	return o, mine
}

// writeRuns sends packets to clients, each run of them by the socket of its path, and
// returns how many were not taken.
func writeRuns(out outlets, packets []transport.Packet) (failed uint64) {
	for rest := packets; len(rest) > 0; {
		conn, n := out.For(rest[0].Path), 1
		for n < len(rest) && (rest[n].Path == rest[0].Path || out.For(rest[n].Path) == conn) {
			n++
		}
		if conn != nil {
			if sent, err := conn.WriteBatch(rest[:n]); err != nil {
				failed += uint64(n - sent)
			}
		}
		rest = rest[n:]
	}
	return failed
}
