package udp

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"lewes/state/path"
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

// attempt is what was tried so far with a message that the system refused.
type attempt struct {
	connected bool // the socket is
	source    bool // the message names the address to leave from
	segments  int  // datagrams in the message
	repeats   int  // how often it was sent again because the error may have been an earlier one's
}

// verdict is what to do with the message.
type verdict uint8

const (
	lost          verdict = iota // count it, tell of it, go on with the next
	again                        // the error may belong to an earlier datagram: the same once more
	wait                         // for room in the send buffer, as long as SendWait allows
	withoutSource                // let the system choose the address to leave from
	unsegmented                  // each datagram by itself
)

// maxRepeats bounds how often a message is sent again for errors that may be
// another's: other goroutines' datagrams may be refused in between.
const maxRepeats = 3

// judge says what to do about a message that was refused with e. No verdict comes
// up without end: again is bounded by repeats, wait by the caller's time, the other
// two take away what they are about.
func judge(e syscall.Errno, a *attempt) verdict {
	kind := kindOf(e)
	switch {
	case kind == Full:
		return wait
	case a.connected && (kind == Refused || kind == Unreachable) && a.repeats < maxRepeats,
		a.connected && kind == TooLarge && a.repeats < 1:
		// A connected socket keeps the last ICMP error and gives it to the next
		// call, whose own datagram has not been looked at.
		return again
	case a.source && (kind == Address || kind == Unreachable):
		return withoutSource
	case a.segments > 1:
		return unsegmented
	}
	return lost
}

// maxMessages bounds what one call sends at most.
const maxMessages = 64

// report is what one WriteBatch did.
type report struct {
	outcome
	tally
	sourceDropped uint64
	waitUntil     time.Time // zero until the first wait for room
}

// flush adds r's counts to c.
func (r *report) flush(c *Counters) {
	r.tally.flush(&c.sent)
	if r.sourceDropped > 0 {
		c.sourceDropped.Add(r.sourceDropped)
	}
}

// waitLeft returns how long the call may still wait for room in the send buffer: atMost
// from the first time that it had to.
func (r *report) waitLeft(atMost time.Duration, now time.Time) time.Duration {
	if atMost <= 0 {
		return 0
	}
	if r.waitUntil.IsZero() {
		r.waitUntil = now.Add(atMost)
	}
	return r.waitUntil.Sub(now)
}

// outcome gathers what became of the packets.
type outcome struct {
	failed      int // packets not sent
	first, last int // indexes of the first and the latest of them
	// The first error of each kind: of packets not sent, and of reports about
	// earlier ones.
	lost, reported [numKinds]syscall.Errno
	anyReported    bool
}

// fail notes that the packets from first to last, and in them so many datagrams,
// were not sent. Calls come in the order of the packets; a packet may come twice,
// where several of its datagrams fail.
func (o *outcome) fail(c *Counters, first, last, datagrams int, e syscall.Errno) {
	if o.failed == 0 {
		o.first, o.last = first, first-1
	}
	o.failed += last - max(first-1, o.last)
	o.last = last
	kind := kindOf(e)
	c.sendErrors[kind].Add(uint64(datagrams))
	if o.lost[kind] == 0 {
		o.lost[kind] = e
	}
}

// note notes an error that belongs to a datagram sent earlier.
func (o *outcome) note(c *Counters, e syscall.Errno) {
	kind := kindOf(e)
	c.reported[kind].Add(1)
	if o.reported[kind] == 0 {
		o.reported[kind] = e
		o.anyReported = true
	}
}

// result is what WriteBatch returns for p. to is the peer of a connected socket.
func (o *outcome) result(p []transport.Packet, to *path.Path) (int, error) {
	if o.failed == 0 && !o.anyReported {
		return len(p), nil
	}
	if o.failed == 0 {
		return len(p), fmt.Errorf("udp: earlier datagram to %s: %w", to, causes(&o.reported))
	}
	if to == nil {
		to = &p[o.first].Path
	}
	err := fmt.Errorf("udp: send to %s: %w", to, causes(&o.lost))
	if o.anyReported {
		err = fmt.Errorf("%w; reported meanwhile: %w", err, causes(&o.reported))
	}
	return len(p) - o.failed, &transport.SendError{Index: o.first, Failed: o.failed, Err: err}
}

func causes(es *[numKinds]syscall.Errno) error {
	var all []error
	for _, e := range es {
		if e != 0 {
			all = append(all, cause(e))
		}
	}
	if len(all) == 1 {
		return all[0]
	}
	return errors.Join(all...)
}
