package udp

import (
	"fmt"
	"syscall"

	"lewes/transport"
)

// ErrorKind sorts what the system says about sending.
type ErrorKind uint8

const (
	TooLarge    ErrorKind = iota // EMSGSIZE
	Full                         // EAGAIN: the socket's send buffer is full
	NoBuffers                    // ENOBUFS, ENOMEM: the system is out of room
	Refused                      // ECONNREFUSED
	Unreachable                  // EHOSTUNREACH, ENETUNREACH and the like
	Denied                       // EPERM, EACCES
	Address                      // EINVAL, EADDRNOTAVAIL and the like, and paths without a usable peer
	Other
	numKinds
)

var kindNames = [numKinds]string{"too_large", "full", "no_buffers", "refused", "unreachable", "denied", "address", "other"}

// String returns a short name, fit for a metric's label.
func (k ErrorKind) String() string {
	if k < numKinds {
		return kindNames[k]
	}
	return fmt.Sprintf("kind_%d", uint8(k))
}

// Errors counts errors by kind: index it by ErrorKind.
type Errors [numKinds]uint64

// Total returns the sum over all kinds.
func (e Errors) Total() (n uint64) {
	for _, v := range e {
		n += v
	}
	return n
}

// Range calls yield for each kind with its count, zeros included.
func (e Errors) Range(yield func(ErrorKind, uint64) bool) {
	for k, n := range e {
		if !yield(ErrorKind(k), n) {
			return
		}
	}
}

// cause gives e its name from package transport.
func cause(e syscall.Errno) error {
	var named error
	switch kindOf(e) {
	case TooLarge:
		named = transport.ErrTooLarge
	case Full, NoBuffers:
		named = transport.ErrFull
	case Refused:
		named = transport.ErrRefused
	case Unreachable:
		named = transport.ErrUnreachable
	case Denied:
		named = transport.ErrDenied
	case Address:
		named = transport.ErrAddress
	default:
		return e
	}
	return fmt.Errorf("%w (%w)", named, e)
}
