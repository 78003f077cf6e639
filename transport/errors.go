package transport

import (
	"errors"
	"net"
	"strconv"
)

// Why a packet could not be sent, or what the system reported about one sent
// before.
var (
	// ErrTooLarge: the packet is larger than the way to the peer takes, as far as
	// this host knows it. A smaller one may pass.
	ErrTooLarge = errors.New("packet larger than the path takes")
	// ErrFull: the system had no room for the packet.
	ErrFull = errors.New("send buffer full")
	// ErrRefused: the peer's host said that nothing listens on that port.
	ErrRefused = errors.New("refused by the peer: nothing listens on that port")
	// ErrUnreachable: there is no route to the peer, or a router said so.
	ErrUnreachable = errors.New("peer unreachable")
	// ErrDenied: this host does not let the packet out (a firewall rule, mostly).
	ErrDenied = errors.New("not permitted by this host")
	// ErrAddress: the path's addresses cannot be used here: no peer, a peer of the
	// other family, a local address that this host does not have.
	ErrAddress = errors.New("address of no use on this socket")
)

// SendError is what WriteBatch returns where packets were not sent.
type SendError struct {
	// Index is the first packet of the batch that was not sent.
	Index int
	// Failed is how many were not sent. Of a train (Packet.Segment) that counts
	// here, some datagrams may have been.
	Failed int
	// Err is why: the first reason of each kind that occurred, joined where there
	// are several. errors.Is finds each of them.
	Err error
}

func (e *SendError) Error() string {
	s := "packet " + strconv.Itoa(e.Index) + " of the batch"
	if e.Failed > 1 {
		s += " and " + strconv.Itoa(e.Failed-1) + " more"
	}
	return s + " not sent: " + e.Err.Error()
}

func (e *SendError) Unwrap() error { return e.Err }

// WriteEach is the WriteBatch of a Conn that sends its packets one by one: it calls
// write for each and returns how many were taken. The SendError has the first reason.
// An error that wraps net.ErrClosed ends the batch and is returned as it is. Nothing is
// allocated but for an error.
func WriteEach(p []Packet, write func(*Packet) error) (int, error) {
	var failed *SendError
	taken := 0
	for i := range p {
		err := write(&p[i])
		switch {
		case err == nil:
			taken++
			continue
		case errors.Is(err, net.ErrClosed):
			return taken, err
		case failed == nil:
			failed = &SendError{Index: i, Err: err}
		}
		failed.Failed++
	}
	if failed != nil {
		return taken, failed
	}
	return taken, nil
}
