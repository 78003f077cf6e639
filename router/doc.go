// Package router is the gateway without its command line: it routes packets to sessions, and
// datagrams to targets, other gateways and clients.
//
// A Gateway has a number of shards. The receiver index of a packet selects its shard, the kernel
// steers most packets to a socket of that shard, and each session stays in one shard. A shard
// processes packets in batches: it takes its lock once, handles every packet, sends the results,
// and unlocks. Within a batch nothing blocks and, in steady state, nothing is allocated.
//
//	client's socket ─ ReadBatch ─► header, session, replay window, open, type
//	                                 ├─ EncryptedData ─► flow ─► policy ─► target's socket
//	                                 ├─ ForwardPacket ─► index binding ─► upstream's socket
//	                                 └─ handshake, subsession, Ping, Close ─► package state
//	target's socket ── return loop ──► seal with the session's Sender ─► client's socket
//
// The return path does not take the shard's lock: it seals with the session's Sender, which is
// safe to share.
//
// The files, in the order of the datapath:
//
//   - gateway.go, config.go: a Gateway's configuration, start and end
//   - sockets.go: the sockets of the shards, their readers, packets of other shards
//   - shard.go: Shard and its lock, batches, timers
//   - receive.go: one packet, from its header to its handler
//   - scheduler.go: the share of time that handshakes get
//   - flow.go: flows to targets
//   - registration.go: Registers, and sessions without a registration
//   - metering.go: the bandwidth of registered clients
//   - forward.go: packets for other gateways
//   - shortage.go: sockets that the machine cannot open
//   - outbound.go: a batch's datagrams to targets and other gateways
//   - return.go: the way back to clients
//   - tcp_delivery.go: delivery to sessions on TCP
//   - stats.go, watchdog.go, directory.go, reload.go: counters, background work, live changes
//   - trace.go: the events of one session, for an operator
//   - observe.go: what an operator sees of sessions, refusals and the directory
//   - walk.go, shutdown.go: walks through all sessions or flows in slices, the end of a gateway
//   - handover_send.go, handover_receive.go, snapshot.go: the handover to a successor process
package router
