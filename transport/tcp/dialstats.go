package tcp

import "sync/atomic"

// DialStats is a copy of what a Conn has counted.
type DialStats struct {
	// Connections counts those that were made, Failed the packets whose connection
	// could not be made or broke off.
	Connections, Failed uint64
	// Dropped counts packets that waited too long for a connection, or gave way to
	// newer ones.
	Dropped uint64
	// Packets received, and sent.
	Received, Sent Traffic
}

type dialCounters struct {
	connections, failed, dropped atomic.Uint64
	received, sent               traffic
}

// Stats returns what was counted so far.
func (c *Conn) Stats() DialStats {
	n := &c.counters
	return DialStats{
		Connections: n.connections.Load(),
		Failed:      n.failed.Load(),
		Dropped:     n.dropped.Load(),
		Received:    n.received.load(),
		Sent:        n.sent.load(),
	}
}
