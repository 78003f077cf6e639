// Package router decides who gets a packet and what is done with it: it is the
// gateway, but for its command line.
//
// A Gateway has a number of shards. The receiver index of a packet names its
// shard, the kernel steers most packets to the socket of the right one, and each
// session lives in one shard for its whole life. A shard is a monitor: a turn
// takes its lock once, works through a batch, sends what came of it, and lets go.
// Within a turn nothing blocks and, in steady state, nothing is allocated.
//
//	socket ── ReadBatch ──► turn: open, replay window, type
//	                          ├─ EncryptedData ─► flow ─► policy ─► target's socket
//	                          ├─ ForwardPacket ─► claim ─► next gateway's socket
//	                          └─ handshake, subsession, Ping, Close ─► package state
//	targets' sockets ── loop ──► seal with the session's Sender ─► shard's socket
//
// What comes back from a target or from another gateway takes no turn: the shard's loop
// seals it with the session's Sender, which is safe to share, and sends it. The loop
// is a udp.Poller of all these sockets; where there is none, each has a pump.
//
// What takes long is cut into stretches of a millisecond, so that datagrams pass in between:
// handshakes (backlog.go), and what is due, however much of it at once (due.go). A
// histogram of the turns' lengths shows it (Stats.Turns).
//
// The protocol's own state machines are in package state. This package adds
// flows, forwarding, the egress policy, and the sockets.
package router
