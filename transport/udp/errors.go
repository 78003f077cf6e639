package udp

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"lewes/state/path"
	"lewes/transport"
)

// ErrorKind classifies the errors of the system about sending.
type ErrorKind uint8

const (
	TooLarge    ErrorKind = iota // EMSGSIZE
	Full                         // EAGAIN: the socket's send buffer is full
	NoBuffers                    // ENOBUFS, ENOMEM
	Refused                      // ECONNREFUSED
	Unreachable                  // EHOSTUNREACH, ENETUNREACH and similar
	Denied                       // EPERM, EACCES
	Address                      // EINVAL, EADDRNOTAVAIL and similar, and paths without a usable peer
	Other
	numKinds
)

var kindNames = [numKinds]string{"too_large", "full", "no_buffers", "refused", "unreachable", "denied", "address", "other"}

// String returns a name for metric labels.
func (k ErrorKind) String() string {
	if k < numKinds {
		return kindNames[k]
	}
	return fmt.Sprintf("kind_%d", uint8(k))
}

// errorKind classifies e.
func errorKind(e syscall.Errno) ErrorKind {
	switch transport.PortableErrno(e) {
	case syscall.EMSGSIZE:
		return TooLarge
	case syscall.EAGAIN:
		return Full
	case syscall.ENOBUFS, syscall.ENOMEM:
		return NoBuffers
	case syscall.ECONNREFUSED, syscall.ECONNRESET:
		return Refused
	case syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.ENETDOWN,
		syscall.ENOPROTOOPT, syscall.EPROTO: // ENOPROTOOPT and EPROTO: other ICMP errors
		return Unreachable
	case syscall.EPERM, syscall.EACCES:
		return Denied
	case syscall.EINVAL, syscall.EADDRNOTAVAIL, syscall.EAFNOSUPPORT, syscall.EDESTADDRREQ, syscall.ENODEV, syscall.ENXIO:
		return Address
	}
	return Other
}

// kindErrors are the errors of package transport; nil leaves the system's error alone.
var kindErrors = [numKinds]error{transport.ErrTooLarge, transport.ErrFull, transport.ErrFull, transport.ErrRefused,
	transport.ErrUnreachable, transport.ErrDenied, transport.ErrAddress, nil}

// wrapErrno adds the error of package transport that e stands for.
func wrapErrno(e syscall.Errno) error {
	if known := kindErrors[errorKind(e)]; known != nil {
		return fmt.Errorf("%w (%w)", known, e)
	}
	return e
}

// Errors counts errors by ErrorKind.
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

// sendAttempt describes a message that the system refused.
type sendAttempt struct {
	connected bool // the socket is connected
	source    bool // the message carries a source address
	segments  int  // datagrams in the message
	retries   int  // because the error may belong to an earlier datagram
}

// sendAction is how to continue with a refused message.
type sendAction uint8

const (
	actionFail       sendAction = iota // count and report the failure
	actionRetry                        // unchanged: the error may belong to an earlier datagram
	actionWait                         // for room in the send buffer, up to Options.SendWait
	actionDropSource                   // let the system choose the source address
	actionDropGSO                      // send the datagrams one by one
)

// maxRetries bounds actionRetry. It is above 1 because datagrams of other goroutines may
// cause further errors in between.
const maxRetries = 3

// classifySendError decides how to continue with a message that was refused with e. The
// sequence of actions is finite: retries are bounded, waits are bounded by the caller,
// and the other actions remove their own precondition.
func classifySendError(e syscall.Errno, a *sendAttempt) sendAction {
	kind := errorKind(e)
	switch {
	case kind == Full:
		return actionWait
	case a.connected && (kind == Refused || kind == Unreachable) && a.retries < maxRetries,
		a.connected && kind == TooLarge && a.retries < 1:
		// A connected socket stores the last ICMP error and returns it from the next
		// call, before looking at that call's datagram.
		return actionRetry
	case a.source && (kind == Address || kind == Unreachable):
		return actionDropSource
	case a.segments > 1:
		return actionDropGSO
	}
	return actionFail
}

// maxMessages bounds the messages of one system call.
const maxMessages = 64

// writeResult collects the counts and errors of one WriteBatch.
type writeResult struct {
	localCounters
	sourceDropped uint64
	waitUntil     time.Time // set by the first wait for room

	failed      int // packets not sent
	first, last int // indexes of the first and the latest of them
	// The first error of each kind: of packets that were not sent, and of earlier datagrams.
	sendErrors, asyncErrors [numKinds]syscall.Errno
	anyAsync                bool
}

// flush adds the counts to c.
func (r *writeResult) flush(c *Counters) {
	r.localCounters.flush(&c.sent)
	if r.sourceDropped > 0 {
		c.sourceDropped.Add(r.sourceDropped)
	}
}

// waitLeft returns how long the call may still wait for room in the send buffer: limit,
// counted from its first wait.
func (r *writeResult) waitLeft(limit time.Duration, now time.Time) time.Duration {
	if limit <= 0 {
		return 0
	}
	if r.waitUntil.IsZero() {
		r.waitUntil = now.Add(limit)
	}
	return r.waitUntil.Sub(now)
}

// fail records that the packets first to last, with the given number of datagrams, were
// not sent. Calls are in packet order; a packet may be recorded more than once if
// several of its datagrams fail.
func (r *writeResult) fail(c *Counters, first, last, datagrams int, e syscall.Errno) {
	if r.failed == 0 {
		r.first, r.last = first, first-1
	}
	r.failed += last - max(first-1, r.last)
	r.last = last
	kind := errorKind(e)
	c.sendErrors[kind].Add(uint64(datagrams))
	if r.sendErrors[kind] == 0 {
		r.sendErrors[kind] = e
	}
}

// addAsync records an error that belongs to a datagram sent earlier.
func (r *writeResult) addAsync(c *Counters, e syscall.Errno) {
	kind := errorKind(e)
	c.asyncErrors[kind].Add(1)
	if r.asyncErrors[kind] == 0 {
		r.asyncErrors[kind] = e
		r.anyAsync = true
	}
}

// result returns the values of WriteBatch(p). peer is that of a connected socket.
func (r *writeResult) result(p []transport.Packet, peer *path.Path) (int, error) {
	if r.failed == 0 && !r.anyAsync {
		return len(p), nil
	}
	if r.failed == 0 {
		return len(p), fmt.Errorf("udp: earlier datagram to %s: %w", peer, joinErrnos(&r.asyncErrors))
	}
	if peer == nil {
		peer = &p[r.first].Path
	}
	err := fmt.Errorf("udp: send to %s: %w", peer, joinErrnos(&r.sendErrors))
	if r.anyAsync {
		err = fmt.Errorf("%w; earlier datagram: %w", err, joinErrnos(&r.asyncErrors))
	}
	return len(p) - r.failed, &transport.SendError{Index: r.first, Failed: r.failed, Err: err}
}

func joinErrnos(es *[numKinds]syscall.Errno) error {
	var all []error
	for _, e := range es {
		if e != 0 {
			all = append(all, wrapErrno(e))
		}
	}
	if len(all) == 1 {
		return all[0]
	}
	return errors.Join(all...)
}
