package transport

import (
	"errors"
	"net"
	"strconv"
)

// Reasons why a packet was not sent, or errors about an earlier one.
var (
	// ErrTooLarge means the packet exceeds the path MTU known to this host.
	ErrTooLarge = errors.New("packet exceeds the path MTU")
	// ErrFull means a queue or send buffer is full.
	ErrFull = errors.New("send buffer full")
	// ErrRefused means the peer's host reported that the port is closed.
	ErrRefused = errors.New("refused by the peer: nothing listens on that port")
	// ErrUnreachable means there is no route to the peer, here or at a router.
	ErrUnreachable = errors.New("peer unreachable")
	// ErrDenied means this host blocks the packet, mostly by a firewall rule.
	ErrDenied = errors.New("not permitted by this host")
	// ErrAddress means the path has no peer, a peer of another address family, or a
	// local address that this host does not have.
	ErrAddress = errors.New("address not usable on this socket")
)

// SendError is the error of WriteBatch if packets were not sent.
type SendError struct {
	// Index is the first packet that was not sent.
	Index int
	// Failed is the number of packets that were not sent, including trains that were sent in part.
	Failed int
	// Err joins the first error of each kind.
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

// WriteEach implements WriteBatch for a Conn that sends packets one by one: it calls write for each
// and returns the number that succeeded. The SendError contains the first error. An error that
// wraps net.ErrClosed ends the batch and is returned unchanged. Only errors allocate.
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
