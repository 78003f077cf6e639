package tcp

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"lewes/state/path"
	"lewes/transport"
)

// ErrConnClosed means the connection of the packet's path is closed.
var ErrConnClosed = errors.New("tcp: connection closed")

// serverConn is an accepted connection. Its own goroutine does all reading and writing.
// Others change the fields below mu and wake it.
type serverConn struct {
	listener *Listener
	conn     *net.TCPConn
	path     path.Path
	deadline time.Time // by Config.ReceiveTimeout
	length   [lengthSize]byte
	evicted  atomic.Bool // it has lost its place

	// Owned by places.
	holder       *holder     // nil: it has no place
	account      any         // nil: it is not authenticated
	older, newer *serverConn // of its account, or of its source's unauthenticated ones

	// Owned by the listener's unreadBudget.
	unread, unreadIndex int

	mu        sync.Mutex
	wakeup    chan struct{} // nil until the packet is received
	output    *buffer       // frames to send, or nil
	sending   int           // capacity of the buffer that is being sent
	heldUntil time.Time     // zero if not held
	finished  bool          // no answer will follow
	closed    bool          // answers are rejected
}

// serve runs a connection from its packet to its close.
func (c *serverConn) serve() {
	l := c.listener
	defer l.unregister(c)
	packet, err := c.receive()
	if err != nil {
		if !c.evicted.Load() {
			l.counters.countReceiveError(err)
		}
		return
	}
	l.counters.received.add(1, len(packet.data))
	c.mu.Lock()
	c.wakeup = make(chan struct{}, 1)
	c.mu.Unlock()
	if c.evicted.Load() {
		l.budget.release(packet)
		return
	}
	l.conns.add(c)
	defer l.conns.remove(c)
	timer := time.NewTimer(time.Until(c.deadline))
	defer timer.Stop()
	if c.deliver(packet, timer) {
		c.writeLoop(timer)
	}
	c.discard()
}

// receive reads the packet. It allocates no buffer until the length is known.
func (c *serverConn) receive() (*buffer, error) {
	if err := c.conn.SetReadDeadline(c.deadline); err != nil {
		return nil, err
	}
	select {
	case <-c.listener.closed: // Close may have set its deadline before this one
		return nil, net.ErrClosed
	default:
	}
	for have := 0; have < lengthSize; {
		n, err := c.conn.Read(c.length[have:])
		if err != nil {
			return nil, err
		}
		have += n
	}
	n, err := parseLength(&c.length)
	if err != nil {
		return nil, err
	}
	return c.listener.budget.read(c.conn, n)
}

// countReceiveError counts a connection that sent no complete packet.
func (n *counters) countReceiveError(err error) {
	switch {
	case errors.Is(err, ErrBadLength):
		n.badLength.Add(1)
	case errors.Is(err, errBudget):
		n.refusedMemory.Add(1)
	case errors.Is(err, os.ErrDeadlineExceeded):
		n.receiveTimeouts.Add(1)
	default:
		n.aborted.Add(1)
	}
}

// deliver queues the packet for its shard. It blocks while the queue is full.
func (c *serverConn) deliver(packet *buffer, timer *time.Timer) bool {
	l := c.listener
	shard := l.config.Steer(packet.data)
	if shard < 0 || shard >= len(l.Shards) {
		shard = 0
	}
	s := l.Shards[shard]
	select {
	case s.packets <- inboundPacket{packet, c.path}:
		return true
	case <-timer.C:
		l.counters.unanswered.Add(1)
	case <-c.wakeup: // evicted
	case <-s.closed:
	}
	l.budget.release(packet)
	return false
}

// writeLoop sends queued answers until the connection ends.
func (c *serverConn) writeLoop(timer *time.Timer) {
	writing, closed := false, c.listener.closed
	for {
		output, finished, deadline := c.next()
		switch {
		case output != nil:
			if !writing {
				c.setWriteDeadline()
				writing = true
			}
			err := c.send(output)
			output.free()
			c.sent()
			if err != nil {
				return
			}
			continue
		case finished:
			return
		}
		timer.Reset(time.Until(deadline))
		select {
		case <-c.wakeup:
		case <-closed:
			closed = nil
			c.finish()
		case <-timer.C:
			if c.expire(time.Now()) {
				return
			}
		}
	}
}

// next takes the queued output, and returns whether it is the last and when the connection expires.
func (c *serverConn) next() (output *buffer, finished bool, deadline time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if output, c.output = c.output, nil; output != nil {
		c.sending = cap(output.data)
	}
	if deadline = c.deadline; !c.heldUntil.IsZero() {
		deadline = c.heldUntil
	}
	c.closed = c.finished && output == nil
	return output, c.finished, deadline
}

// expire closes the connection if its deadline has passed and nothing is queued.
func (c *serverConn) expire(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	held := !c.heldUntil.IsZero()
	if held && now.Before(c.heldUntil) || c.output != nil || c.finished {
		return false
	}
	c.closed = true
	if held {
		c.listener.counters.holdTimeouts.Add(1)
	} else {
		c.listener.counters.unanswered.Add(1)
	}
	return true
}

// setWriteDeadline limits the time for writing all answers.
func (c *serverConn) setWriteDeadline() {
	l := c.listener
	l.mu.Lock() // not after Close has shortened it
	defer l.mu.Unlock()
	timeout := l.config.WriteTimeout
	if l.open == nil {
		timeout = min(timeout, closeGrace)
	}
	_ = c.conn.SetWriteDeadline(time.Now().Add(timeout))
}

func (c *serverConn) send(frames *buffer) error {
	_, err := c.conn.Write(frames.data)
	switch {
	case err == nil || c.evicted.Load():
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.listener.counters.writeTimeouts.Add(1)
		_ = c.conn.SetLinger(0) // discards the kernel's send buffer too
	default:
		c.listener.counters.writeErrors.Add(1)
	}
	return err
}

// sent records that the buffer that was being sent is free.
func (c *serverConn) sent() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sending = 0
	c.countUnread()
}

// countUnread updates the listener's memory of unread answers. The caller holds mu.
func (c *serverConn) countUnread() {
	bytes := c.sending
	if c.output != nil {
		bytes += cap(c.output.data)
	}
	c.listener.unread.set(c, bytes)
}

// discard drops queued output and rejects further answers.
func (c *serverConn) discard() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.output != nil {
		c.output.free()
		c.output = nil
		c.countUnread()
	}
}

// evict closes the connection at once. It does not wait for its goroutine.
func (c *serverConn) evict() {
	c.evicted.Store(true)
	reset(c.conn)
	c.discard()
	c.finish()
}

// finish closes the connection once its output is sent.
func (c *serverConn) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.finished = true
	c.wake()
}

// hold moves the deadline, unless the connection is closing.
func (c *serverConn) hold(until time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.finished {
		return false
	}
	c.heldUntil = until
	c.wake()
	return true
}

// enqueue queues packets until one is rejected, and returns the number queued. If all unread answers
// exceed their bound, it evicts the connections with most.
func (c *serverConn) enqueue(packets []transport.Packet) (int, error) {
	n, err := c.enqueueAll(packets)
	l := c.listener
	for most := l.unread.excess(); most != nil; most = l.unread.excess() {
		if !most.evicted.Load() {
			l.counters.evictedUnread.Add(1)
		}
		most.evict()
	}
	return n, err
}

func (c *serverConn) enqueueAll(packets []transport.Packet) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.finished {
		return 0, ErrConnClosed
	}
	defer c.wake()
	defer c.countUnread()
	for i := range packets {
		if err := c.enqueueOne(&packets[i]); err != nil {
			return i, err
		}
	}
	return len(packets), nil
}

// enqueueOne queues a packet, as one frame per datagram if it is a GSO train. The caller holds mu.
func (c *serverConn) enqueueOne(p *transport.Packet) error {
	for packet := range p.Segments() {
		if !validLength(len(packet)) {
			return transport.ErrTooLarge
		}
	}
	if c.output == nil {
		c.output = newBuffer(0)
	}
	size := len(p.Data) + p.Count()*lengthSize
	if len(c.output.data)+size > c.listener.config.MaxAnswer {
		return transport.ErrFull
	}
	c.output = c.output.grow(size)
	for packet := range p.Segments() {
		c.output.data = appendFrame(c.output.data, packet)
	}
	c.listener.counters.sent.add(p.Count(), len(p.Data))
	return nil
}

// wake wakes the connection's goroutine. It never blocks.
func (c *serverConn) wake() {
	select {
	case c.wakeup <- struct{}{}:
	default: // a wakeup is pending
	}
}
