package router

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"go.uber.org/zap"

	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/udp"
)

// batchSize is the number of packets or GSO trains that a reader reads at once.
const batchSize = 32

// clientSockets finds the socket that leads to a client.
type clientSockets interface {
	For(path.Path) transport.Conn
}

// sockets are a shard's sockets towards clients, by the address they are bound to.
type sockets struct {
	v4, v6 transport.Conn // bound to every address of the family
	bound  map[netip.Addr]transport.Conn
}

// For returns the socket that receives the path's packets, or nil.
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

// socketsOf returns the sockets that a shard sends by, and those that it reads.
func socketsOf(l *udp.Listener, shard int) (*sockets, []transport.Conn) {
	o := &sockets{bound: make(map[netip.Addr]transport.Conn)}
	var reads []transport.Conn
	for _, g := range l.Groups {
		// Where the system has one socket for all shards, the first shard reads it and all
		// send by it.
		conn := g.Conns[min(shard, len(g.Conns)-1)]
		if shard < len(g.Conns) {
			reads = append(reads, conn)
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
	return o, reads
}

// writeRuns sends packets to clients, each run of them by the socket of its path. It returns the
// number of packets not sent.
func writeRuns(out clientSockets, packets []transport.Packet) (failed uint64) {
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

// input is a socket whose packets a shard receives.
type input struct {
	shard *Shard
	conn  transport.Conn
}

func (g *Gateway) startReaders() {
	for _, in := range g.inputs {
		g.readers.Go(func() { g.read(in.shard, in.conn) })
	}
}

// read passes a socket's packets to its shard until the socket is closed or the gateway pauses;
// then they stay in the socket.
func (g *Gateway) read(s *Shard, conn transport.Conn) {
	if g.config.Pin {
		if err := pin(s.id); err != nil {
			g.log.Warn("cannot pin a shard to a processor", zap.Int("shard", s.id), zap.Error(err))
		}
	}
	batch := make([]transport.Packet, batchSize)
	var misrouted []transport.Packet
	for {
		n, err := conn.ReadBatch(batch)
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		misrouted = s.Receive(g.config.Clock(), batch[:n], misrouted[:0])
		if len(misrouted) > 0 {
			g.forwardToShards(misrouted)
		}
	}
}

// forwardToShards passes packets to the shards that own them: by reference, in batches, in the
// goroutine that read them, which holds no lock.
func (g *Gateway) forwardToShards(packets []transport.Packet) {
	for _, s := range g.shards {
		var batch [2 * batchSize]transport.Packet
		own := batch[:0]
		for _, p := range packets {
			index, _ := wire.ReceiverIdx(p.Data)
			if s.steer.Shard(index) != s.id {
				continue
			}
			if own = append(own, p); len(own) == cap(own) {
				s.receiveMisrouted(g.config.Clock(), own)
				own = own[:0]
			}
		}
		if len(own) > 0 {
			s.receiveMisrouted(g.config.Clock(), own)
		}
	}
}
