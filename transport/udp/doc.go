// Package udp sends and receives UDP datagrams in batches, with many datagrams per system call.
//
// Listen binds the gateway's port, in both address families and with one socket per
// shard; Dial connects a socket to one peer, for a client or an egress flow. Both return
// *Conn, a transport.Conn:
//
//	l, err := udp.Listen(ctx, udp.Config{Port: 51264, Steer: udp.Steer{Secret: secret, Shards: 2}})
//	if err != nil {
//		return err // no address could be bound
//	}
//	for _, failed := range l.Failed {
//		log.Warn(failed.Error()) // one family is missing
//	}
//	for shard := range l.Shards() {
//		for _, conn := range l.Shard(shard) {
//			go serve(shard, conn)
//		}
//	}
//
// # Performance
//
// On Linux ReadBatch is one recvmmsg with UDP_GRO; coalesced datagrams are returned as one
// transport.Packet with Segment set. WriteBatch is one sendmmsg, in which adjacent packets
// of the same path and length (the last may be shorter) form a GSO train: one message with
// UDP_SEGMENT and an iovec per packet, without copying. Neither allocates in steady state.
// Both offloads are tested over loopback before first use (Probe) and can be disabled
// (Options.NoGSO, Options.NoGRO). If a device refuses a train later, its datagrams are
// sent one by one and GSO is disabled on the socket, which Options.Notify and Stats report.
//
// The reader of a listening socket blocks in the kernel instead of in Go's network poller, which
// would cost several microseconds per wakeup. A Poller (Linux) reads any number of sockets with one
// goroutine and one set of buffers. It registers them for reading only: package net registers
// sockets for writing too, and then each sent datagram wakes a thread, at half the cost of sending.
//
// With Options.Portable and on other systems, the ReadBatch and WriteBatch of golang.org/x/net are
// used, or single datagrams on Windows. They are slower and allocate addresses.
//
// # Source addresses
//
// The Path of a received packet contains its destination address and interface, and
// WriteBatch sends from there (IP_PKTINFO, IPV6_PKTINFO). If the system refuses the
// address, because it was removed, the packet is sent without it; a receiver that supports
// migration accepts it. With Path.IfIndex 0 the system chooses the interface, with the zero
// Path.Local also the address. Windows always chooses the address on a wildcard socket.
//
// # Errors
//
// A connected socket reports ICMP errors from ReadBatch or WriteBatch, whichever is called
// first: transport.ErrRefused, ErrUnreachable, and ErrTooLarge from a router. The socket
// remains usable. An unconnected socket, which has many peers, reports none.
//
// # Sizes
//
// Datagrams have the don't-fragment bit set (unless Options.Fragment), and path MTU
// messages from the network, which can be forged, do not limit what is sent: only a
// packet larger than the interface MTU fails, with transport.ErrTooLarge. Received
// datagrams are complete, or dropped and counted.
//
// # Steering
//
// With Config.Steer the kernel chooses the socket by the receiver_idx of the packet
// (section 1 of PROTOCOL.md), with the same function as Steer.Shard. It looks at the first
// datagram of a train only, so any shard may receive any packet.
package udp
