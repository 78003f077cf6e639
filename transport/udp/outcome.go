package udp

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"lewes/state/path"
	"lewes/transport"
)

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
