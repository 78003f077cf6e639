package rawudp

import (
	"net/netip"
	"time"
)

const (
	// DefaultBatch is how many messages one Receive takes at most.
	DefaultBatch = 64
	// DefaultBuffer is the size asked for each socket buffer, in bytes.
	DefaultBuffer = 4 << 20
	// MaxSegments is how many datagrams one train has at most.
	MaxSegments = 64
	// MaxTrain is how many bytes one train has at most.
	MaxTrain = 65000

	// wait is how long Receive waits when nothing comes.
	wait = 100 * time.Millisecond
	// trainBuffer holds the largest datagram or train.
	trainBuffer = 64 << 10
)

// Options are a socket's. The zero value is a plain one.
type Options struct {
	// Batch is how many messages one Receive takes at most. 0 means DefaultBatch.
	Batch int
	// Keep is how many bytes of each message are copied out of the kernel; 0 means all.
	// For who only counts, copying is most of the cost.
	Keep int
	// Join receives trains as they are (UDP_GRO). Without, each datagram comes by
	// itself.
	Join bool
	// Buffer is the size asked for the socket's buffers, in bytes. 0 means
	// DefaultBuffer.
	Buffer int
}

func (o *Options) batch() int {
	if o.Batch > 0 {
		return o.Batch
	}
	return DefaultBatch
}

func (o *Options) keep() int {
	if 0 < o.Keep && o.Keep < trainBuffer {
		return o.Keep
	}
	return trainBuffer
}

func (o *Options) buffer() int {
	if o.Buffer > 0 {
		return o.Buffer
	}
	return DefaultBuffer
}

// Arrival is one message that was received: a datagram, or a train of them.
type Arrival struct {
	Data    []byte // what was kept; good until the next Receive
	Size    int    // in bytes, whatever was kept
	Segment int    // of a train: the length of its datagrams but the last; else 0
	From    netip.AddrPort
}

// Count returns how many datagrams a is.
func (a *Arrival) Count() int {
	if a.Segment <= 0 || a.Segment >= a.Size {
		return 1
	}
	return (a.Size + a.Segment - 1) / a.Segment
}

// SegmentsIn returns how many datagrams of a size fit a train.
func SegmentsIn(size int) int {
	return max(1, min(MaxSegments, MaxTrain/max(size, 1)))
}
