package udp

import (
	"math/bits"
	"sync/atomic"
)

// Histogram counts by powers of two. The upper bounds of its buckets are 1, 2, 4, up to
// 128, and none for the last.
type Histogram [buckets]uint64

const buckets = 9

// Bound returns the upper bound of bucket i, 0 for the last.
func (Histogram) Bound(i int) int {
	if i >= buckets-1 {
		return 0
	}
	return 1 << i
}

func bucket(n int) int {
	if n <= 1 {
		return 0
	}
	return min(bits.Len(uint(n-1)), buckets-1)
}

// Traffic counts one direction.
type Traffic struct {
	// Packets and Bytes count datagrams and their payload.
	Packets, Bytes uint64
	// Calls counts system calls, including those that moved nothing.
	Calls uint64
	// Batch counts messages per call, Segments datagrams per message.
	Batch, Segments Histogram
}

// Offload is the state of an offload, with the reason if it is off.
type Offload struct {
	On     bool
	Reason string
}

// Buffer is the size of a socket buffer in bytes. Requested is 0 if none was requested.
type Buffer struct {
	Requested, Granted int
}

// Stats is a snapshot of Counters and, from Conn.Stats, the state of one socket.
type Stats struct {
	Received, Sent Traffic

	// SendErrors counts datagrams that could not be sent.
	SendErrors Errors
	// AsyncErrors counts errors about datagrams sent earlier, mostly from ICMP.
	AsyncErrors Errors
	// Truncated counts messages dropped because they exceeded the buffer.
	Truncated uint64
	// UnexpectedSource counts datagrams of other peers that a connected socket received
	// before it was connected. They are dropped.
	UnexpectedSource uint64
	// KernelDrops counts datagrams that the kernel dropped because the receive buffer was
	// full. It is updated by later datagrams.
	KernelDrops uint64
	// GSOFallbacks counts sockets on which GSO was disabled after a failure, GSOResent
	// trains that were refused and sent again one by one.
	GSOFallbacks, GSOResent uint64
	// SourceDropped counts datagrams sent without Path.Local because the system refused it.
	SourceDropped uint64

	// From Conn.Stats only.
	ReceiveBuffer, SendBuffer Buffer
	GSO, GRO                  Offload
}

// Counters counts for one or more Conns, so that totals survive closed sockets. The zero
// value is ready to use.
type Counters struct {
	received trafficCounters
	_        [64]byte // reader and writers use different cache lines
	sent     trafficCounters
	_        [64]byte

	sendErrors, asyncErrors [numKinds]atomic.Uint64
	truncated, kernelDrops  atomic.Uint64
	unexpectedSource        atomic.Uint64
	gsoFallbacks, gsoResent atomic.Uint64
	sourceDropped           atomic.Uint64
}

// Stats returns the counters.
func (c *Counters) Stats() Stats {
	s := Stats{
		Received:         c.received.load(),
		Sent:             c.sent.load(),
		Truncated:        c.truncated.Load(),
		UnexpectedSource: c.unexpectedSource.Load(),
		KernelDrops:      c.kernelDrops.Load(),
		GSOFallbacks:     c.gsoFallbacks.Load(),
		GSOResent:        c.gsoResent.Load(),
		SourceDropped:    c.sourceDropped.Load(),
	}
	for k := range numKinds {
		s.SendErrors[k] = c.sendErrors[k].Load()
		s.AsyncErrors[k] = c.asyncErrors[k].Load()
	}
	return s
}

type trafficCounters struct {
	packets, bytes, calls atomic.Uint64
	batch, segments       [buckets]atomic.Uint64
}

func (t *trafficCounters) load() Traffic {
	v := Traffic{Packets: t.packets.Load(), Bytes: t.bytes.Load(), Calls: t.calls.Load()}
	for i := range buckets {
		v.Batch[i] = t.batch[i].Load()
		v.Segments[i] = t.segments[i].Load()
	}
	return v
}

// localCounters collects the counts of one call, so that the shared counters are
// updated once per call instead of once per packet.
type localCounters struct {
	packets, bytes, calls uint64
	batch, segments       [buckets]uint32
}

// message counts one message.
func (t *localCounters) message(datagrams, bytes int) {
	t.packets += uint64(datagrams)
	t.bytes += uint64(bytes)
	t.segments[bucket(datagrams)]++
}

// flush moves the counts to c.
func (t *localCounters) flush(c *trafficCounters) {
	c.packets.Add(t.packets)
	c.bytes.Add(t.bytes)
	c.calls.Add(t.calls)
	for i := range buckets {
		if n := t.batch[i]; n != 0 {
			c.batch[i].Add(uint64(n))
		}
		if n := t.segments[i]; n != 0 {
			c.segments[i].Add(uint64(n))
		}
	}
	*t = localCounters{}
}
