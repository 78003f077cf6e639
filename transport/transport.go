package transport

import (
	"iter"
	"net"
	"time"

	"lewes/state/path"
)

// Packet is what a Conn reads or writes: one datagram, or a train of datagrams of
// one path laid end to end in one buffer.
type Packet struct {
	// Data is the datagram, which may be empty, or the train.
	Data []byte
	// Segment is 0 for a datagram. A train has the length of its datagrams here:
	// Data holds one after the other, the last of which may be shorter. A Segment
	// of len(Data) or more means one datagram as well.
	Segment int
	// Path is the way that the packet came, or that it is to go. A Conn that is
	// connected to one peer sets it on what it reads and ignores it on what it
	// writes.
	Path path.Path
}

// Count returns how many datagrams p holds, at least 1.
func (p *Packet) Count() int {
	if p.Segment <= 0 || p.Segment >= len(p.Data) {
		return 1
	}
	return (len(p.Data) + p.Segment - 1) / p.Segment
}

// Segments yields the datagrams in p in the order in which they came, at least one.
// They alias Data, each with no room behind it, so that an append to one never
// writes into the next.
func (p *Packet) Segments() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		rest, size := p.Data, p.Segment
		if size > 0 {
			for len(rest) > size {
				if !yield(rest[:size:size]) {
					return
				}
				rest = rest[size:]
			}
		}
		yield(rest[:len(rest):len(rest)])
	}
}

// Conn sends and receives packets in batches.
type Conn interface {
	// ReadBatch waits until at least one packet is there, fills p from its start
	// and returns how many it filled: at most len(p). Data points into buffers that
	// the Conn owns; they are good, for reading and writing, until the next
	// ReadBatch. One goroutine at a time reads.
	//
	// The error wraps net.ErrClosed after Close, and os.ErrDeadlineExceeded past the
	// read deadline. Any other error tells of something that happened to the Conn,
	// such as a peer that refuses what was sent to it (ErrRefused): n is 0, and the
	// next ReadBatch goes on as if nothing had been. Where such errors follow each
	// other without a packet between them, the caller waits a little before it reads
	// again.
	ReadBatch(p []Packet) (n int, err error)

	// WriteBatch sends the packets in p and returns how many of them were taken.
	// It keeps no Data and changes none. Any number of goroutines may call it.
	//
	// A packet that could not be sent is counted, does not keep those behind it
	// from being sent, and is told of by a *SendError. With n == len(p) an error
	// means that the system reported on a packet sent before these, such as a peer
	// that refuses them (ErrRefused). The error wraps net.ErrClosed after Close.
	WriteBatch(p []Packet) (n int, err error)

	// SetReadDeadline ends a ReadBatch that waits, and every later one, with
	// os.ErrDeadlineExceeded at t; a time that has passed ends it at once, the zero
	// Time takes the deadline away.
	SetReadDeadline(t time.Time) error

	// LocalAddr returns the address that the Conn is bound to.
	LocalAddr() net.Addr

	// Close ends every call that waits. What ReadBatch last returned stays good.
	Close() error
}
