package udp

import (
	"math/bits"
	"sync/atomic"

	"lewes/transport"
)

// Histogram counts by powers of two: the first bucket holds ones, the next twos, then
// up to 4, 8, 16, 32, 64, 128, and more than that.
type Histogram [buckets]uint64

const buckets = 9

// Bound returns the largest number that bucket i counts, 0 for the last, which has
// no bound.
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

// Traffic is one direction's traffic.
type Traffic struct {
	// Packets and Bytes count datagrams and their payload.
	Packets, Bytes uint64
	// Calls counts calls to the system, those that found nothing included.
	Calls uint64
	// Batch is how many messages a call moved, Segments how many datagrams a message
	// held.
	Batch, Segments Histogram
}

// Offload says whether an offload is in use, and why not.
type Offload struct {
	On     bool
	Reason string
}

// Buffer is a socket buffer's size in bytes: what was asked for (0: nothing) and
// what the system granted.
type Buffer struct {
	Requested, Granted int
}

// Stats is a copy of what was counted.
type Stats struct {
	Received, Sent Traffic

	// SendErrors counts datagrams that could not be sent.
	SendErrors Errors
	// AsyncErrors counts errors that the system reported, on reading or writing, about
	// datagrams sent before: a peer that refuses them, mostly.
	AsyncErrors Errors
	// Truncated counts messages dropped because they did not fit the buffer.
	Truncated uint64
	// UnexpectedSource counts messages dropped because they came from another than the peer that the
	// socket is connected to: before it was.
	UnexpectedSource uint64
	// KernelDrops counts datagrams that the kernel dropped because the receive
	// buffer was full, as far as the packets that came after told.
	KernelDrops uint64
	// GSOFallbacks counts sockets on which segmentation offload failed, GSOResent
	// trains that were refused and sent again one by one, for any reason.
	GSOFallbacks, GSOResent uint64
	// SourceDropped counts datagrams that could not leave from Path.Local and went
	// without it.
	SourceDropped uint64

	// What follows is of one socket: zero in the Stats of Counters.

	ReceiveBuffer, SendBuffer Buffer
	GSO, GRO                  Offload
}

// Counters counts what one or several Conns do. The zero value is ready. Its use is
// to sum over sockets that come and go.
type Counters struct {
	received trafficCounters
	_        [64]byte // reader and writers on cache lines of their own
	sent     trafficCounters
	_        [64]byte

	sendErrors, reported    [numKinds]atomic.Uint64
	truncated, kernelDrops  atomic.Uint64
	strays                  atomic.Uint64
	gsoFallbacks, gsoResent atomic.Uint64
	sourceDropped           atomic.Uint64
}

// Stats returns what was counted so far.
func (c *Counters) Stats() Stats {
	s := Stats{
		Received:      c.received.load(),
		Sent:          c.sent.load(),
		Truncated:     c.truncated.Load(),
		UnexpectedSource:        c.strays.Load(),
		KernelDrops:   c.kernelDrops.Load(),
		GSOFallbacks:  c.gsoFallbacks.Load(),
		GSOResent:     c.gsoResent.Load(),
		SourceDropped: c.sourceDropped.Load(),
	}
	for k := range numKinds {
		s.SendErrors[k] = c.sendErrors[k].Load()
		s.AsyncErrors[k] = c.reported[k].Load()
	}
	return s
}

type trafficCounters struct {
	packets, bytes, calls atomic.Uint64
	batch, segments       [buckets]atomic.Uint64
}

func (l *trafficCounters) load() Traffic {
	v := Traffic{Packets: l.packets.Load(), Bytes: l.bytes.Load(), Calls: l.calls.Load()}
	for i := range buckets {
		v.Batch[i] = l.batch[i].Load()
		v.Segments[i] = l.segments[i].Load()
	}
	return v
}

// tally gathers what one call did, so that the shared counters are touched once a
// call and not once a packet.
type tally struct {
	packets, bytes, calls uint64
	batch, segments       [buckets]uint32
}

// message counts one message of so many datagrams.
func (t *tally) message(datagrams, bytes int) {
	t.packets += uint64(datagrams)
	t.bytes += uint64(bytes)
	t.segments[bucket(datagrams)]++
}

// flush adds t to l and empties it.
func (t *tally) flush(l *trafficCounters) {
	l.packets.Add(t.packets)
	l.bytes.Add(t.bytes)
	l.calls.Add(t.calls)
	for i := range buckets {
		if n := t.batch[i]; n != 0 {
			l.batch[i].Add(uint64(n))
		}
		if n := t.segments[i]; n != 0 {
			l.segments[i].Add(uint64(n))
		}
	}
	*t = tally{}
}

// Handler takes what a Poller receives, in the goroutine that runs it.
type Handler interface {
	// Received is given what came on the socket that user stands for. Data is good, for
	// reading and writing, until it returns.
	Received(user any, batch []transport.Packet)
	// Failed is told of what the system reported on the socket, such as a peer that
	// refuses what was sent to it (transport.ErrRefused). The socket goes on.
	Failed(user any, err error)
	// Done is called when everything that was ready has been taken, before the Poller
	// waits again.
	Done()
}

// Support says what this host's kernel can do: nil, or why not.
type Support struct {
	GSO, GRO error
}
