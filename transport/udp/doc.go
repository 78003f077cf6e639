// Package udp moves datagrams between sockets and package transport's batches,
// many for each call to the system.
//
// Listen binds the gateway's port, in both address families and with a socket for
// each shard; Dial connects a socket to one peer, for a client or for an egress
// flow. Both give a *Conn, which is a transport.Conn:
//
//	l, err := udp.Listen(ctx, udp.Config{Port: 51264, Steer: udp.Steer{Secret: secret, Shards: 2}})
//	if err != nil {
//		return err // no address could be bound
//	}
//	for _, failed := range l.Failed {
//		log.Warn(failed.Error()) // one family is missing; the other serves
//	}
//	for shard := range l.Shards() {
//		for _, conn := range l.Shard(shard) {
//			go serve(shard, conn)
//		}
//	}
//
// # Speed
//
// On Linux ReadBatch is one recvmmsg with UDP_GRO: what the kernel joined comes as
// one transport.Packet with its Segment set. WriteBatch is sendmmsg, and packets that
// follow each other on one path with one length (the last may be shorter) become one
// message with UDP_SEGMENT, an iovec each, nothing copied. Neither allocates once it
// has run for a while. Both offloads are tried out over loopback before the first
// socket uses them (Probe), have switches (Options.NoGSO, Options.NoGRO), and
// where a device refuses segments later, the same packets go again one by one and
// the socket stays without it: said once through Options.Notify, visible in Stats.
//
// A listening socket's reader waits in the kernel and not with the sockets of package net:
// being woken by way of Go's scheduler costs several microseconds, and so does, for each
// train that the socket sends, net's interest in the room that it leaves behind.
//
// Options.Portable, and every system but Linux, goes through golang.org/x/net's
// ReadBatch and WriteBatch (Windows: one datagram a call) instead. It does the
// same, slower, and allocates addresses.
//
// # Many sockets
//
// A Poller (Linux) reads any number of sockets in one goroutine with one set of buffers,
// in place of a goroutine each. It watches them for reading alone, whereas package net
// watches for writing too: there each datagram that a socket sends wakes a thread for
// nothing, which costs as much as half the sending.
//
// # Where answers leave from
//
// A received packet's Path has the address and interface that it came to, and
// WriteBatch sends from there (IP_PKTINFO, IPV6_PKTINFO). Where the system refuses
// them, because the address went away, the packet goes again without: a
// receiver that knows how to roam still takes it. A caller that wants routing alone
// to choose the interface sets Path.IfIndex to 0, the address as well Path.Local to
// the zero Addr. Windows always lets the system choose on a wildcard socket.
//
// # Errors from the network
//
// A connected socket tells of ICMP errors, on reading or writing, whichever comes
// first: transport.ErrRefused, transport.ErrUnreachable, and transport.ErrTooLarge from
// a router. None of them ends it. An unconnected socket, whose peers are many,
// tells of none.
//
// # Sizes
//
// Datagrams leave with the don't-fragment bit (unless Options.Fragment), and path MTU
// messages from the network, which anyone can forge, do not change what may be
// sent: only a packet larger than the interface takes is refused, with
// transport.ErrTooLarge. A received datagram is whole or it is dropped and counted.
//
// # Who gets a datagram
//
// With Config.Steer the kernel picks the shard's socket by the receiver_idx of the
// packet (section 1 of PROTOCOL.md), by the function that Steer.Shard has in Go. It
// looks at the first packet of a train only, so any shard may see any packet.
package udp
