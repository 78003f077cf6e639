package client

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"lewes/state/wire"
	"lewes/transport"
)

// openingTime is how long a flow names its target in every datagram, unless an
// answer comes first (section 8 of PROTOCOL.md).
const openingTime = 3 * time.Second

// flow is one target, or one next gateway, of a session. It belongs to the
// session and outlives its links: on each it has to be opened anew.
type flow struct {
	s       *Session
	to      destination
	addr    net.Addr    // the same, as users know it
	opening []byte      // what a packet bears that opens the flow
	inbox   *inbox      // where what comes goes
	owner   *packetConn // whose inbox it is; nil: the flow has its own
	number  uint16      // the first id, by which the user knows the flow

	id       atomic.Uint32
	lastUse  atomic.Int64 // when the last datagram went either way, as Session.at has it
	closed   atomic.Bool
	answered atomic.Pointer[link] // on which something has come: the id is enough

	mu      sync.Mutex
	opened  *link     // on which the target was sent; nil: it has to be sent
	since   time.Time // when it was sent first
	refusal error     // why nothing more is sent
}

// overhead is what a packet of the flow bears beside the payload, at most: a limit
// that changed with the packet would be of no use to anybody.
func (f *flow) overhead() int {
	return wire.Overhead + wire.FlowHeaderSize + len(f.opening)
}

// limit returns the size of the largest payload that fits.
func (f *flow) limit() int { return max(f.s.maxPacket()-f.overhead(), 0) }

// send sends one payload. What is lost on the way, or before it because the
// session is being made anew, is lost as any datagram may be: errors are about
// what would fail again.
func (f *flow) send(payload []byte) error {
	if f.closed.Load() {
		return net.ErrClosed
	}
	if limit := f.limit(); len(payload) > limit {
		return &SizeError{Size: len(payload), Limit: limit}
	}
	l := f.s.link.Load()
	id, opening, err := f.address(l)
	if err != nil {
		return err
	}
	t := wire.TypeEncryptedData
	if f.to.forward() {
		t = wire.TypeForwardPacket
	}
	p := flowPacket(t, id, opening, payload)
	err = l.write(p)
	p.free()
	switch {
	case err == nil:
		f.s.count.sent.Add(1)
		f.s.count.sentBytes.Add(uint64(len(payload)))
	case errors.Is(err, transport.ErrTooLarge):
		return fmt.Errorf("this machine's interface takes no packet with a datagram of %d bytes: lower Config.MaxPacket: %w: %w", len(payload), err, syscall.EMSGSIZE)
	default:
		f.s.count.unsent.Add(1)
	}
	return nil
}

// address returns the id under which a datagram goes on link l, and what opens
// the flow where the datagram has to.
func (f *flow) address(l *link) (id uint16, opening []byte, err error) {
	now := time.Now()
	f.lastUse.Store(int64(f.s.at(now)))
	if f.answered.Load() == l {
		return uint16(f.id.Load()), nil, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.refusal != nil:
		return 0, nil, f.refusal
	case f.opened != l:
		f.opened, f.since = l, now
	case now.Sub(f.since) >= openingTime:
		return uint16(f.id.Load()), nil, nil
	}
	return uint16(f.id.Load()), f.opening, nil
}

// receive takes a payload that came for the flow on link l.
func (f *flow) receive(l *link, now time.Time, payload []byte) {
	if f.answered.Load() != l {
		f.answered.Store(l)
	}
	f.lastUse.Store(int64(f.s.at(now)))
	f.s.count.received.Add(1)
	f.s.count.receivedBytes.Add(uint64(len(payload)))
	if lost := f.inbox.put(f, payload); lost > 0 {
		f.s.count.overflowed.Add(uint64(lost))
	}
}

// reopen makes the next datagram name the target again.
func (f *flow) reopen() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened = nil
	f.answered.Store(nil)
}

// refuse keeps every further datagram from being sent.
func (f *flow) refuse(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refusal = err
	f.answered.Store(nil)
}

// isOpen reports whether the gateway may know the flow on link l.
func (f *flow) isOpen(l *link) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.opened == l && f.refusal == nil
}

// close gives the flow's id back and tells the gateway that it is not needed any
// more.
func (f *flow) close() {
	if !f.closed.CompareAndSwap(false, true) {
		return
	}
	// First, so that the gateway has room before another flow takes the place.
	if l := f.s.link.Load(); f.isOpen(l) {
		l.sendFlowClosed(uint16(f.id.Load()))
	}
	f.s.flows.remove(f)
}

// gatewayClosed follows what the gateway says about the flow.
func (f *flow) gatewayClosed(m *wire.FlowClosed) {
	refused := &FlowError{
		Gateway: f.s.gateway.Identity,
		Target:  f.to.String(),
		Reason:  m.Reason,
		Detail:  m.Detail.String(),
		forward: f.to.forward(),
		name:    f.to.name.Host,
	}
	switch m.Reason {
	case wire.FlowIdle, wire.FlowSessionClosing:
		f.reopen()
	case wire.FlowOtherTarget:
		// The gateway still has a flow of that id from before; another one will do.
		if err := f.s.flows.renumber(f, f.s.at(time.Now())); err != nil {
			f.fail(err)
			return
		}
		f.reopen()
	case wire.FlowIndexCollision:
		if f.to.forward() {
			f.inbox.tell(refused)
		}
	case wire.FlowUnreachable:
		f.reopen()
		if f.owner == nil {
			f.inbox.tell(refused)
		}
	default:
		f.fail(refused)
	}
}

// fail ends the flow for its user: with Read where it has an inbox of its own,
// with the next Write in any case.
func (f *flow) fail(err error) {
	f.refuse(err)
	if f.owner == nil {
		f.inbox.end(err)
	}
}
