package tcp

import "sync/atomic"

// Stats is a snapshot of a Listener's counters.
type Stats struct {
	// Open is the number of open connections.
	Open uint64
	// Accepted counts admitted connections; RefusedFull and RefusedSource those reset
	// because of Config.MaxConnections or MaxPerSource.
	Accepted, RefusedFull, RefusedSource uint64
	// AcceptErrors counts failed accepts, mostly for lack of descriptors.
	AcceptErrors uint64

	// Connections that ended without a complete packet: because of an invalid length, a
	// timeout, the peer, or Config.MaxReceiving.
	BadLength, ReceiveTimeouts, Aborted, RefusedMemory uint64
	// Unanswered counts connections without an answer in time, HoldTimeouts those that
	// expired while held.
	Unanswered, HoldTimeouts uint64
	// WriteTimeouts counts connections whose peer did not read its answers in time,
	// WriteErrors other write failures.
	WriteTimeouts, WriteErrors uint64

	// Complete packets received, and packets queued for sending.
	Received, Sent Traffic
}

// DialStats is a snapshot of a Conn's counters.
type DialStats struct {
	// Connections counts established connections, Failed those that could not be
	// established or broke.
	Connections, Failed uint64
	// Dropped counts packets that waited too long or were displaced by newer ones.
	Dropped uint64

	Received, Sent Traffic
}

// Traffic counts packets and their bytes, without length prefixes.
type Traffic struct{ Packets, Bytes uint64 }

// counters are shared by the shards: next to the cost of a connection, contention does
// not matter.
type counters struct {
	open                                               atomic.Int64
	accepted, refusedFull, refusedSource, acceptErrors atomic.Uint64
	badLength, receiveTimeouts, aborted, refusedMemory atomic.Uint64
	unanswered, holdTimeouts                           atomic.Uint64
	writeTimeouts, writeErrors                         atomic.Uint64
	received, sent                                     traffic
}

type dialCounters struct {
	connections, failed, dropped atomic.Uint64
	received, sent               traffic
}

type traffic struct{ packets, bytes atomic.Uint64 }

func (t *traffic) add(packets, bytes int) {
	t.packets.Add(uint64(packets))
	t.bytes.Add(uint64(bytes))
}

func (t *traffic) load() Traffic { return Traffic{t.packets.Load(), t.bytes.Load()} }

// Stats returns the counters.
func (l *Listener) Stats() Stats {
	c := &l.counters
	return Stats{
		Open:            uint64(max(0, c.open.Load())),
		Accepted:        c.accepted.Load(),
		RefusedFull:     c.refusedFull.Load(),
		RefusedSource:   c.refusedSource.Load(),
		AcceptErrors:    c.acceptErrors.Load(),
		BadLength:       c.badLength.Load(),
		ReceiveTimeouts: c.receiveTimeouts.Load(),
		Aborted:         c.aborted.Load(),
		RefusedMemory:   c.refusedMemory.Load(),
		Unanswered:      c.unanswered.Load(),
		HoldTimeouts:    c.holdTimeouts.Load(),
		WriteTimeouts:   c.writeTimeouts.Load(),
		WriteErrors:     c.writeErrors.Load(),
		Received:        c.received.load(),
		Sent:            c.sent.load(),
	}
}

// Stats returns the counters.
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
