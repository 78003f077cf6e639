// Package tcp moves packets over TCP where datagrams do not pass, a connection for
// each (section 10 of PROTOCOL.md): a length and a packet from the client, then any
// number of the same from the gateway, then its close.
//
// Listen binds the gateway's port. A Listener has an ShardListener for each shard, which is
// a transport.Conn: ReadBatch gives the packets that Config.Steer sends to the shard,
// each with the number of its connection in its Path, and WriteBatch answers on that
// connection, whichever ShardListener is asked:
//
//	l, err := tcp.Listen(ctx, tcp.Config{Port: 41264, Shards: 2, Steer: owner})
//	if err != nil {
//		return err // no address could be bound
//	}
//	n, err := l.Shards[shard].ReadBatch(batch)
//	...
//	l.Shards[shard].WriteBatch(answers) // to batch[i].Path
//	l.Shards[shard].End(batch[i].Path)  // that was all: closed once it is out
//
// # How long a connection lives
//
// A connection is closed Config.ReceiveTimeout after it was accepted, whatever it has
// sent until then: nothing, a packet that never becomes whole, or one that nobody
// answers. So a stranger learns nothing from the time. End closes it as soon as the
// answers are out; Hold lets it live for as long as it says, for an answer that is
// waited for. The times are absolute: bytes that trickle in prolong nothing.
//
// A length of no packet closes the connection at once (R10.6), and so does the peer's
// end of stream before its packet is whole. A peer that ends its stream behind its
// packet still gets its answers.
//
// # What a connection costs
//
// A goroutine, the descriptor, and an entry in two tables, 3 KiB in all: no buffer and
// no timer of its own before the length has arrived. An event loop would save the
// stacks, of 10,000 connections some 20 MiB, and would have to do by hand what the
// runtime's poller does on every system. Buffers are pooled by size and grow
// with what has come, so that a length alone, however huge, costs the smallest;
// what all of them hold at once is bounded as well.
//
// Writing never waits: WriteBatch copies into the connection's queue, which is bounded,
// and the connection's goroutine sends it. A reader that does not take it within
// Config.WriteTimeout is cut off.
//
// # The client's end
//
// Dial returns a Conn to one gateway, a transport.Conn as well: each packet that is
// written waits in a bounded queue for a connection of its own, of which there is a
// bounded number at a time, and what comes back on any of them is read in the order
// in which it came. WriteBatch never waits; packets give way to newer ones, and those
// that have waited for Options.QueueTime are dropped, because a queue that stalls is
// worse than loss. Send is for packets whose connection means something to the
// sender, such as a Poll: it says when the connection is over.
//
// Nagle's delay is off, as Go has it, and where the kernel knows how (Linux) the packet
// travels with the connection's first segment. It is the gateway who closes, so that
// no port of the client's is held by connections that are over.
package tcp
