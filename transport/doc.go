// Package transport says how packets come and go: a Conn takes and gives them in
// batches, a Packet is one or a train of them with the way that they took.
//
// The packages below it bring the ways: udp speaks datagrams in batches, tcp a
// connection a packet. What stands above them, gateway and client alike, is
// written against Conn, so that a test may put a simulated network in its place.
// A Conn knows nothing of sessions and looks into no packet.
//
// # Reading
//
// One goroutine reads a Conn. It hands ReadBatch a slice of Packets that it keeps,
// works through what came, and comes back:
//
//	batch := make([]transport.Packet, 32)
//	for {
//		n, err := conn.ReadBatch(batch)
//		switch {
//		case errors.Is(err, net.ErrClosed):
//			return
//		case err != nil: // the peer refused something sent before, a deadline, …: count it, go on
//			continue
//		}
//		for i := range batch[:n] {
//			for datagram := range batch[i].Segments() {
//				handle(datagram, batch[i].Path)
//			}
//		}
//	}
//
// The bytes belong to the Conn: they may be changed in place (packets are opened
// so) and are good until the next ReadBatch.
//
// # Writing
//
// Any number of goroutines write. Packets that follow each other, go the same way
// and are equally long (the last may be shorter) may be given to the system as one
// piece, so a writer leaves such packets beside each other.
//
// # Errors
//
// A datagram that could not be sent is lost, as it might be on the network; it never
// keeps another from being sent and never ends the Conn. WriteBatch says how
// many were taken and, in a *SendError, why the rest were not.
package transport
