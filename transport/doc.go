// Package transport defines how packets are sent and received: a Conn moves batches of
// Packets, each a datagram or a train of datagrams with its path.
//
// The implementations are in the packages below: udp, with many datagrams per system call, and tcp,
// with one connection per packet. Gateway and client use the interface, so that tests can
// substitute a simulated network. A Conn knows nothing of sessions and does not parse packets.
//
// # Reading
//
// One goroutine reads a Conn, with a slice of Packets that it reuses:
//
//	batch := make([]transport.Packet, 32)
//	for {
//		n, err := conn.ReadBatch(batch)
//		switch {
//		case errors.Is(err, net.ErrClosed):
//			return
//		case err != nil: // an ICMP error, a deadline, …: count it and continue
//			continue
//		}
//		for i := range batch[:n] {
//			for datagram := range batch[i].Segments() {
//				handle(datagram, batch[i].Path)
//			}
//		}
//	}
//
// The data belongs to the Conn. It may be modified, as by decryption in place, and is valid
// until the next ReadBatch.
//
// # Writing
//
// Any number of goroutines may write. Adjacent packets of the same path and length (the last may be
// shorter) can be sent as one GSO train, so writers should keep such packets adjacent.
//
// # Errors
//
// A datagram that cannot be sent is lost, as on the network: it prevents no other from
// being sent, and the Conn remains usable. WriteBatch returns the number of accepted
// packets and the reasons for the others in a *SendError.
package transport
