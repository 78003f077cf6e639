package transport

import (
	"iter"
	"net"
	"time"

	"lewes/state/path"
)

// Packet is a datagram, or a train: several datagrams of one path in one buffer, as
// produced by GRO and accepted by GSO.
type Packet struct {
	// Data is the datagram, which may be empty, or the train.
	Data []byte
	// Segment is the length of the datagrams of a train, the last of which may be
	// shorter. 0, or len(Data) and more, means Data is a single datagram.
	Segment int
	// Path is where the packet came from or goes to. A connected Conn sets it when
	// reading and ignores it when writing.
	Path path.Path
}

// Count returns the number of datagrams in p, at least 1.
func (p *Packet) Count() int {
	if p.Segment <= 0 || p.Segment >= len(p.Data) {
		return 1
	}
	return (len(p.Data) + p.Segment - 1) / p.Segment
}

// Segments yields the datagrams in p in order, at least one. They alias Data with their
// capacity limited, so that appending to one does not overwrite the next.
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
	// ReadBatch blocks until at least one packet is available, and fills p[:n]. The data is valid,
	// for reading and writing, until the next ReadBatch. Only one goroutine may read at a time.
	//
	// The error wraps net.ErrClosed after Close, and os.ErrDeadlineExceeded past the
	// read deadline. Any other error is an event on the Conn, such as a peer that
	// refuses packets (ErrRefused): n is 0, and the Conn remains usable. Callers should
	// back off if such errors repeat without a packet in between.
	ReadBatch(p []Packet) (n int, err error)

	// WriteBatch sends the packets in p and returns the number accepted. It neither
	// retains nor modifies Data, and is safe for concurrent use.
	//
	// A packet that cannot be sent does not prevent later ones; the error is a
	// *SendError then. An error with n == len(p) is about an earlier packet, such as
	// ErrRefused. The error wraps net.ErrClosed after Close.
	WriteBatch(p []Packet) (n int, err error)

	// SetReadDeadline makes current and later calls of ReadBatch fail with
	// os.ErrDeadlineExceeded at t. The zero Time removes the deadline.
	SetReadDeadline(t time.Time) error

	// LocalAddr returns the bound address.
	LocalAddr() net.Addr

	// Close unblocks all calls. The data of the last ReadBatch remains valid.
	Close() error
}
