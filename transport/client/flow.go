package client

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"lewes/crypto/identity"
	"lewes/state/wire"
	"lewes/transport"
)

// openingTime is how long each datagram of a new flow names the target, unless an answer
// arrives first (section 8 of PROTOCOL.md).
const openingTime = 3 * time.Second

// flow is one target, or one next gateway, of a session. It outlives the session's
// sessionConns: it opens anew on each.
type flow struct {
	// Immutable.
	s       *Session
	to      destination
	addr    net.Addr    // of the target
	opening []byte      // the bytes of a packet that open the flow
	owner   *packetConn // that the inbox belongs to; nil: the flow has its own
	number  uint16      // the first id, for LocalAddr

	// Atomic.
	inbox    atomic.Pointer[inbox] // for received payloads
	beside   atomic.Pointer[inbox] // of a handshake beside the session of a forwardConn; nil: none
	id       atomic.Uint32
	lastUse  atomic.Int64 // the last datagram in either direction, as Session.at
	closed   atomic.Bool
	answered atomic.Pointer[sessionConn] // on which a datagram has arrived: the id suffices

	mu       sync.Mutex   // guards the fields below
	openedOn *sessionConn // that the target was sent on; nil: it has to be sent
	since    time.Time    // when it was sent first
	refusal  error        // the reason why no more is sent
}

// overhead is the size of a packet of the flow beside the payload. It includes the opening
// in every packet, so that the limit is constant.
func (f *flow) overhead() int {
	return wire.Overhead + wire.FlowHeaderSize + len(f.opening)
}

// limit returns the size of the largest payload.
func (f *flow) limit() int { return max(f.s.maxPacket()-f.overhead(), 0) }

// send sends a payload. Losses, also those of a reconnect, are no errors; an error is
// about the next payload too.
func (f *flow) send(payload []byte) error {
	if f.closed.Load() {
		return net.ErrClosed
	}
	if limit := f.limit(); len(payload) > limit {
		return &SizeError{Target: f.to.String(), Size: len(payload), Limit: limit}
	}
	c := f.s.conn.Load()
	id, opening, err := f.header(c)
	if err != nil {
		return err
	}
	t := wire.TypeEncryptedData
	if f.to.forward() {
		t = wire.TypeForwardPacket
	}
	p := flowPacket(t, id, opening, payload)
	err = c.write(p)
	p.free()
	switch {
	case err == nil:
		f.s.count.sent.Add(1)
		f.s.count.sentBytes.Add(uint64(len(payload)))
	case errors.Is(err, transport.ErrTooLarge):
		return fmt.Errorf("client: %d-byte datagram exceeds the interface's MTU: %w: %w", len(payload), err, syscall.EMSGSIZE)
	default:
		f.s.count.unsent.Add(1)
	}
	return nil
}

// header returns the id of a datagram on c, and the opening if the datagram has to open the flow.
func (f *flow) header(c *sessionConn) (id uint16, opening []byte, err error) {
	now := time.Now()
	f.lastUse.Store(int64(f.s.at(now)))
	if f.answered.Load() == c {
		return uint16(f.id.Load()), nil, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.refusal != nil:
		return 0, nil, f.refusal
	case f.openedOn != c:
		f.openedOn, f.since = c, now
	case now.Sub(f.since) >= openingTime:
		return uint16(f.id.Load()), nil, nil
	}
	return uint16(f.id.Load()), f.opening, nil
}

// receive queues a payload that arrived on c.
func (f *flow) receive(c *sessionConn, now time.Time, payload []byte) {
	if f.answered.Load() != c {
		f.answered.Store(c)
	}
	f.lastUse.Store(int64(f.s.at(now)))
	f.s.count.received.Add(1)
	f.s.count.receivedBytes.Add(uint64(len(payload)))
	dropped := f.inbox.Load().put(f, payload)
	if q := f.beside.Load(); q != nil {
		dropped += q.put(f, payload)
	}
	if dropped > 0 {
		f.s.count.overflowed.Add(uint64(dropped))
	}
}

// report makes one read return err.
func (f *flow) report(err error) {
	f.inbox.Load().report(err)
	if q := f.beside.Load(); q != nil {
		q.report(err)
	}
}

// share delivers to a further inbox, too. It reports false if the flow has two already.
func (f *flow) share(q *inbox) bool { return f.beside.CompareAndSwap(nil, q) }

// leave stops the delivery to an inbox, and reports whether it was the only one.
func (f *flow) leave(q *inbox) (last bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch other := f.beside.Load(); {
	case other == q:
		f.beside.Store(nil)
	case f.inbox.Load() != q: // it has left before
	case other == nil:
		return true
	default:
		f.inbox.Store(other) // for a moment a payload may be delivered twice
		f.beside.Store(nil)
	}
	return false
}

// reopen makes the next datagram open the flow again.
func (f *flow) reopen() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.openedOn = nil
	f.answered.Store(nil)
}

// refuse makes every further send return err.
func (f *flow) refuse(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refusal = err
	f.answered.Store(nil)
}

// isOpen reports whether the flow may be open at the gateway.
func (f *flow) isOpen(c *sessionConn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.openedOn == c && f.refusal == nil
}

// close closes the flow at the gateway and releases its id.
func (f *flow) close() {
	if !f.closed.CompareAndSwap(false, true) {
		return
	}
	// Before the id is released, so that the gateway has room for the next flow.
	if c := f.s.conn.Load(); f.isOpen(c) {
		c.sendFlowClosed(uint16(f.id.Load()))
	}
	f.s.flows.remove(f)
}

// handleClosed handles a FlowClosed from the gateway. While the session registers, a datagram that came too
// early is lost.
func (f *flow) handleClosed(m *wire.FlowClosed, registering bool) {
	if m.Reason == wire.FlowNotRegistered && registering {
		f.reopen()
		return
	}
	refused := &FlowError{
		Gateway: f.s.gateway.Identity,
		Target:  f.to.String(),
		Reason:  FlowReason(m.Reason),
		Detail:  m.Detail.String(),
		forward: f.to.forward(),
		name:    f.to.name.Host,
	}
	switch m.Reason {
	case wire.FlowIdle, wire.FlowSessionClosing:
		f.reopen()
	case wire.FlowOtherTarget:
		// The gateway still has an earlier flow with this id.
		if err := f.s.flows.renumber(f, f.s.at(time.Now())); err != nil {
			f.fail(err)
			return
		}
		f.reopen()
	case wire.FlowIndexCollision:
		if f.to.forward() {
			f.report(refused)
		}
	case wire.FlowUnreachable:
		f.reopen()
		if f.owner == nil {
			f.report(refused)
		}
	default:
		f.fail(refused)
	}
}

// fail makes every further send return err, and Read too if the flow has its own inbox.
func (f *flow) fail(err error) {
	f.refuse(err)
	if f.owner != nil {
		return
	}
	f.inbox.Load().end(err)
	if q := f.beside.Load(); q != nil {
		q.end(err)
	}
}

// outgoing is a packet to send, in a pooled buffer.
type outgoing struct {
	batch [1]transport.Packet // the argument of WriteBatch
	data  []byte
	buf   [wire.MaxUDPPacket]byte
}

var outgoings = sync.Pool{New: func() any { return new(outgoing) }}

// flowPacket builds a packet of a flow; sealing writes the header. opening is nil unless
// the packet opens the flow. The caller has checked the size.
func flowPacket(t wire.Type, id uint16, opening, payload []byte) *outgoing {
	p := outgoings.Get().(*outgoing)
	var flags wire.FlowFlags
	if opening != nil {
		flags = wire.FlagTarget // the same bit as FlagIdentity
	}
	b := wire.Begin(p.buf[:0], 0, wire.LevelTransport, 0, t)
	b = append(b, byte(id), byte(id>>8), byte(flags))
	b = append(b, opening...)
	b = append(b, payload...)
	p.data = wire.Finish(b)
	return p
}

func (p *outgoing) free() {
	p.batch[0] = transport.Packet{}
	p.data = nil
	outgoings.Put(p)
}

// forwardConn is the Conn of an inner session: a flow of ForwardPackets to the next gateway
// (section 8 of PROTOCOL.md). A handshake beside the session has another one on the same flow; each
// receives the packets of both. ReadBatch returns the entry's errors about the flow, a *FlowError or
// errOuterReplaced.
type forwardConn struct {
	flow  *flow
	inbox inbox
	held  []*datagram // the results of the last ReadBatch
	count int         // of held
}

var _ transport.Conn = (*forwardConn)(nil)

// forward opens a Conn to the gateway with an identity.
func (s *Session) forward(to identity.PublicKey) (*forwardConn, error) {
	c := &forwardConn{held: make([]*datagram, readBatch)}
	c.inbox.init()
	f, err := s.open(destination{gateway: to}, &c.inbox, nil)
	if err != nil {
		return nil, err
	}
	c.flow = f
	return c, nil
}

// shared returns another Conn on the same flow, or nil if there is one.
func (c *forwardConn) shared() *forwardConn {
	other := &forwardConn{flow: c.flow, held: make([]*datagram, readBatch)}
	other.inbox.init()
	if !c.flow.share(&other.inbox) {
		return nil
	}
	return other
}

// ReadBatch implements transport.Conn.
func (c *forwardConn) ReadBatch(p []transport.Packet) (int, error) {
	for i, d := range c.held[:c.count] {
		d.free()
		c.held[i] = nil
	}
	c.count = 0
	n, err := c.inbox.getSome(c.held[:min(len(p), len(c.held))])
	if err != nil {
		return 0, err
	}
	c.count = n
	for i, d := range c.held[:n] {
		p[i] = transport.Packet{Data: d.data()}
	}
	return n, nil
}

// WriteBatch implements transport.Conn.
func (c *forwardConn) WriteBatch(p []transport.Packet) (int, error) {
	return transport.WriteEach(p, c.write)
}

func (c *forwardConn) write(p *transport.Packet) error {
	var first error
	for datagram := range p.Segments() {
		if err := c.flow.send(datagram); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// SetReadDeadline implements transport.Conn.
func (c *forwardConn) SetReadDeadline(t time.Time) error { return c.inbox.setDeadline(t) }

// LocalAddr returns the address of the outer session's Conn.
func (c *forwardConn) LocalAddr() net.Addr {
	return c.flow.s.conn.Load().active.Load().conn.LocalAddr()
}

// Close implements transport.Conn. The results of the last ReadBatch stay valid. The flow closes
// with its last Conn.
func (c *forwardConn) Close() error {
	if c.flow.leave(&c.inbox) {
		c.flow.close()
	}
	c.inbox.end(net.ErrClosed)
	return nil
}
