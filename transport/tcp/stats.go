package tcp

import "sync/atomic"

// Stats is a snapshot of a Listener's counters.
type Stats struct {
	Open            uint64 `metric:"tcp_connections" kind:"gauge" help:"Open TCP connections."`
	Accepted        uint64 `metric:"tcp_accepted_connections_total" help:"Accepted TCP connections."`
	RefusedFull     uint64 `metric:"tcp_refused_connections_total" label:"bound=max_connections" help:"TCP connections closed at once because every other one was authenticated, by the bound that was reached."`
	RefusedSource   uint64 `metric:"tcp_refused_connections_total" label:"bound=max_per_source"`
	EvictedFull     uint64 `metric:"tcp_evicted_connections_total" label:"bound=max_connections" help:"TCP connections closed to make room for new ones, by the bound that was reached: unauthenticated ones, or of the same account."`
	EvictedSource   uint64 `metric:"tcp_evicted_connections_total" label:"bound=max_per_source"`
	EvictedAccount  uint64 `metric:"tcp_evicted_connections_total" label:"bound=account"`
	AcceptErrors    uint64 `metric:"tcp_accept_errors_total" help:"Failed accepts, mostly for lack of descriptors."`
	BadLength       uint64 `metric:"tcp_failed_connections_total" label:"reason=bad_length" help:"TCP connections that ended before their answers were sent, by reason."`
	ReceiveTimeouts uint64 `metric:"tcp_failed_connections_total" label:"reason=receive_timeout"`
	Aborted         uint64 `metric:"tcp_failed_connections_total" label:"reason=aborted"`
	RefusedMemory   uint64 `metric:"tcp_failed_connections_total" label:"reason=max_receiving"`
	Unanswered      uint64 `metric:"tcp_failed_connections_total" label:"reason=unanswered"`
	WriteTimeouts   uint64 `metric:"tcp_failed_connections_total" label:"reason=write_timeout"`
	WriteErrors     uint64 `metric:"tcp_failed_connections_total" label:"reason=write_error"`
	EvictedUnread   uint64 `metric:"tcp_failed_connections_total" label:"reason=max_unread"`
	HoldTimeouts    uint64 `metric:"polls_timed_out_total" help:"Polls that ended without a packet."`

	Received Traffic `label:"direction=receive"` // complete packets
	Sent     Traffic `label:"direction=send"`
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

// Traffic counts packets and their bytes, without length fields.
type Traffic struct {
	Packets uint64 `metric:"tcp_packets_total" help:"Packets over TCP."`
	Bytes   uint64 `metric:"tcp_bytes_total" help:"Bytes of packets over TCP."`
}

// counters are shared by the shards: next to the cost of a connection, contention does not matter.
type counters struct {
	accepted, refusedFull, refusedSource, acceptErrors        atomic.Uint64
	evictedFull, evictedSource, evictedAccount, evictedUnread atomic.Uint64
	badLength, receiveTimeouts, aborted, refusedMemory        atomic.Uint64
	unanswered, holdTimeouts                                  atomic.Uint64
	writeTimeouts, writeErrors                                atomic.Uint64
	received, sent                                            traffic
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

// refused returns the counter of the connections that had no place.
func (n *counters) refused(reason error) *atomic.Uint64 {
	if reason == errSourceFull {
		return &n.refusedSource
	}
	return &n.refusedFull
}

// evicted returns the counter of the connections that lost their place.
func (n *counters) evicted(reason error) *atomic.Uint64 {
	if reason == errSourceFull {
		return &n.evictedSource
	}
	return &n.evictedFull
}

// Stats returns the counters.
func (l *Listener) Stats() Stats {
	c := &l.counters
	return Stats{
		Open:            uint64(l.places.len()),
		Accepted:        c.accepted.Load(),
		RefusedFull:     c.refusedFull.Load(),
		RefusedSource:   c.refusedSource.Load(),
		EvictedFull:     c.evictedFull.Load(),
		EvictedSource:   c.evictedSource.Load(),
		EvictedAccount:  c.evictedAccount.Load(),
		AcceptErrors:    c.acceptErrors.Load(),
		BadLength:       c.badLength.Load(),
		ReceiveTimeouts: c.receiveTimeouts.Load(),
		Aborted:         c.aborted.Load(),
		RefusedMemory:   c.refusedMemory.Load(),
		Unanswered:      c.unanswered.Load(),
		EvictedUnread:   c.evictedUnread.Load(),
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
