// Package tcp moves packets over TCP where UDP is blocked, with one connection per packet
// (section 10 of PROTOCOL.md): the client sends a length and a packet, the gateway sends
// any number of the same and closes.
//
// # Gateway
//
// Listen binds the gateway's port. A Listener has one ShardListener per shard, which is a
// transport.Conn: ReadBatch returns the packets that Config.Steer assigns to the shard,
// each with the number of its connection in its Path, and WriteBatch answers on that
// connection, whichever ShardListener is used:
//
//	l, err := tcp.Listen(ctx, tcp.Config{Port: 41264, Shards: 2, Steer: owner})
//	if err != nil {
//		return err // no address could be bound
//	}
//	n, err := l.Shards[shard].ReadBatch(batch)
//	...
//	l.Shards[shard].WriteBatch(answers) // to batch[i].Path
//	l.Shards[shard].End(batch[i].Path)  // close after the last answer
//
// A connection is closed Config.ReceiveTimeout after it was accepted, whether it sent
// nothing, an incomplete packet, or a packet without an answer, so that timing reveals
// nothing to a stranger. End closes it as soon as the answers are sent; Hold extends its
// life for a delayed answer. The times are absolute: received bytes do not extend them.
//
// An invalid length closes the connection at once (R10.6), and so does an end of stream
// within the packet. A peer that half-closes after its packet still gets its answers.
//
// At a bound of connections, a new one takes the place of the oldest without an authentic
// packet (R12.10): ShardListener.Authenticated marks the others.
//
// A connection costs a goroutine, a descriptor and two table entries, about 3 KiB: no
// buffer and no timer before its length arrives. An event loop would save 20 MiB of
// stacks per 10,000 connections, but duplicate the runtime's poller. Buffers are pooled
// by size, grow with the received data, and are bounded in total.
//
// WriteBatch copies into the connection's bounded queue and never blocks; the
// connection's goroutine sends. Config.WriteTimeout bounds the time for that.
//
// # Client
//
// Dial returns a Conn to one gateway, also a transport.Conn. Each written packet waits in
// a bounded queue for a connection of its own; the number of connections is bounded.
// ReadBatch returns the answers of all connections in the order of arrival. When the
// queue is full, the oldest packet is dropped, and so are packets older than
// Options.QueueTime: loss is better than delay. Send is for packets whose connection
// matters to the sender, such as a Poll: its callback reports the end of the connection.
//
// Nagle's algorithm is off, and with TCP Fast Open (Linux) the packet travels in the SYN.
// The gateway closes first, so that closed connections hold no port of the client.
package tcp
