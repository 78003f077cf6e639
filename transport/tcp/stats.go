package tcp

import "sync/atomic"

// Stats is a copy of what a Listener has counted.
type Stats struct {
	// Open is how many connections there are now.
	Open uint64
	// Accepted counts connections that were let in; RefusedFull and RefusedSource
	// those that were closed at once because there were too many, in all or from
	// their source.
	Accepted, RefusedFull, RefusedSource uint64
	// AcceptErrors counts the times that the system gave no connection, for want of
	// descriptors mostly.
	AcceptErrors uint64

	// Why connections ended before their packet was whole: its length was that of
	// none, the time was up, the peer went away, or there was no memory for it.
	BadLength, ReceiveTimeouts, Aborted, RefusedMemory uint64
	// Unanswered counts connections whose packet drew no answer in time, HoldTimeouts
	// those on which one was waited for in vain.
	Unanswered, HoldTimeouts uint64
	// WriteTimeouts counts connections whose peer did not take its answers in
	// time, WriteErrors those that broke under them.
	WriteTimeouts, WriteErrors uint64

	// Packets received whole, and sent.
	Received, Sent Traffic
}

// Traffic is a number of packets and their bytes, without lengths.
type Traffic struct{ Packets, Bytes uint64 }

// counters are a Listener's. A connection is costly enough that sharing them among
// the shards does not show.
type counters struct {
	open                                               atomic.Int64
	accepted, refusedFull, refusedSource, acceptErrors atomic.Uint64
	badLength, receiveTimeouts, aborted, refusedMemory atomic.Uint64
	unanswered, holdTimeouts, writeTimeouts, writeErrors atomic.Uint64
	received, sent                                     traffic
}

type traffic struct{ packets, bytes atomic.Uint64 }

func (t *traffic) add(packets, bytes int) {
	t.packets.Add(uint64(packets))
	t.bytes.Add(uint64(bytes))
}

func (t *traffic) load() Traffic { return Traffic{t.packets.Load(), t.bytes.Load()} }

// Stats returns what was counted so far.
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
		HoldTimeouts:      c.holdTimeouts.Load(),
		WriteTimeouts:   c.writeTimeouts.Load(),
		WriteErrors:     c.writeErrors.Load(),
		Received:        c.received.load(),
		Sent:            c.sent.load(),
	}
}
