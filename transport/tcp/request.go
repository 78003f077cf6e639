package tcp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"lewes/state/path"
	"lewes/transport"
)

// request is a packet to send and the callback for the end of its connection.
type request struct {
	frame  *buffer
	queued time.Time
	wait   time.Duration // by which the gateway may delay its answer
	ended  func(answers int, err error)
}

// end frees the packet and calls the callback.
func (r *request) end(answers int, err error) {
	r.frame.free()
	if r.ended != nil {
		r.ended(answers, err)
	}
}

// requestQueue is a ring buffer that grows up to a limit.
type requestQueue struct {
	ring  []request
	first int
	count int
}

// push appends r. If limit requests are queued already, it removes and returns the oldest.
func (q *requestQueue) push(r request, limit int) (oldest request, full bool) {
	if q.count == limit {
		oldest, full = q.pop()
	}
	if q.count == len(q.ring) {
		larger := make([]request, min(max(2*len(q.ring), 16), limit))
		for i := range q.count {
			larger[i] = q.ring[(q.first+i)%len(q.ring)]
		}
		q.ring, q.first = larger, 0
	}
	q.ring[(q.first+q.count)%len(q.ring)] = r
	q.count++
	return oldest, full
}

// pop removes the oldest request.
func (q *requestQueue) pop() (r request, ok bool) {
	if q.count == 0 {
		return r, false
	}
	r, q.ring[q.first] = q.ring[q.first], request{}
	q.first = (q.first + 1) % len(q.ring)
	q.count--
	return r, true
}

// work serves requests until the queue is empty.
func (c *Conn) work() {
	for {
		c.mu.Lock()
		r, ok := c.queue.pop()
		if !ok {
			c.running--
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		c.exchange(&r)
	}
}

// exchange sends a packet on a new connection and receives its answers.
func (c *Conn) exchange(r *request) {
	if time.Since(r.queued) >= c.options.QueueTime {
		c.countSent()
		c.counters.dropped.Add(1)
		r.end(0, ErrQueueTimeout)
		return
	}
	conn, err := c.connect(r)
	c.countSent()
	n := 0
	if err == nil {
		sent := time.Now()
		n, err = c.receive(conn)
		c.closeConn(conn, err)
		if err == nil {
			c.noteTaken(sent)
		}
	}
	if err != nil {
		err = c.reportError(err)
	}
	r.end(n, err)
}

// connect opens a connection and sends the packet.
func (c *Conn) connect(r *request) (net.Conn, error) {
	conn, err := c.dialer.DialContext(c.ctx, "tcp", c.to.String())
	if err != nil {
		return nil, err
	}
	c.counters.connections.Add(1)
	if a, ok := conn.LocalAddr().(*net.TCPAddr); ok {
		c.local.Store(a)
	}
	if !c.register(conn) {
		c.closeConn(conn, net.ErrClosed)
		return nil, net.ErrClosed
	}
	_ = conn.SetDeadline(time.Now().Add(c.options.AnswerTimeout + r.wait))
	if _, err := conn.Write(r.frame.data); err != nil {
		c.closeConn(conn, err)
		return nil, err
	}
	c.counters.sent.add(1, len(r.frame.data)-lengthSize)
	return conn, nil
}

// register adds a connection for Close to break, unless the Conn is closed.
func (c *Conn) register(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		return false
	}
	c.open[conn] = struct{}{}
	return true
}

// closeConn closes a connection, with a RST if the gateway did not close it first, so
// that its port is not held in TIME_WAIT.
func (c *Conn) closeConn(conn net.Conn, err error) {
	c.mu.Lock()
	delete(c.open, conn)
	c.mu.Unlock()
	if t, ok := conn.(*net.TCPConn); ok && err != nil {
		_ = t.SetLinger(0)
	}
	_ = conn.Close()
}

// countSent counts a packet as sent or dropped.
func (c *Conn) countSent() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unsent--
	if c.unsent == 0 && c.drained != nil {
		close(c.drained)
		c.drained = nil
	}
}

// receive reads answers until the gateway closes the connection.
func (c *Conn) receive(conn net.Conn) (n int, err error) {
	in := newBuffer(0)
	defer func() { in.free() }()
	for {
		got, readErr := conn.Read(in.data[len(in.data):cap(in.data)])
		in.data = in.data[:len(in.data)+got]
		delivered, used, missing, err := c.deliver(in.data)
		n += delivered
		switch {
		case err != nil:
			return n, err
		case readErr == io.EOF && len(in.data) == used:
			return n, nil
		case readErr == io.EOF:
			return n, io.ErrUnexpectedEOF
		case readErr != nil:
			return n, readErr
		}
		in.data = in.data[:copy(in.data, in.data[used:])]
		in = in.grow(max(missing, 1))
	}
}

// deliver queues the complete frames in data for ReadBatch. It returns their number and
// length, and the minimum number of bytes missing for the next frame.
func (c *Conn) deliver(data []byte) (n, used, missing int, err error) {
	for {
		rest := data[used:]
		if len(rest) < lengthSize {
			return n, used, lengthSize - len(rest), nil
		}
		size, err := parseLength((*[lengthSize]byte)(rest))
		if err != nil {
			return n, used, 0, err
		}
		if len(rest) < lengthSize+size {
			return n, used, lengthSize + size - len(rest), nil
		}
		packet := newBuffer(0).grow(size)
		packet.data = append(packet.data, rest[lengthSize:lengthSize+size]...)
		select {
		case c.packets <- inboundPacket{packet, c.path}:
		case <-c.ctx.Done():
			packet.free()
			return n, used, 0, net.ErrClosed
		}
		c.counters.received.add(1, size)
		used += lengthSize + size
		n++
	}
}

// reportError converts an error and makes it available to ReadBatch, unless another is pending.
func (c *Conn) reportError(err error) error {
	if c.ctx.Err() != nil {
		return net.ErrClosed
	}
	err = convertError(c.to, err)
	c.counters.failed.Add(1)
	select {
	case c.errs <- err:
	default:
	}
	return err
}

// convertError maps an error of package net to one of this package or of transport, and
// removes the addresses that net puts into its text.
func convertError(to netip.AddrPort, err error) error {
	var errno syscall.Errno
	var timeout net.Error
	switch {
	case errors.Is(err, ErrBadLength):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = fmt.Errorf("%w: truncated answer", ErrAborted)
	case errors.As(err, &errno):
		err = errno
		if known := convertErrno(errno); known != nil {
			err = fmt.Errorf("%w (%w)", known, errno)
		}
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		err = ErrTimeout
	}
	return fmt.Errorf("tcp: %s: %w", path.MaskAddrPort(to), err)
}

// convertErrno returns the error that e stands for, or nil.
func convertErrno(e syscall.Errno) error {
	switch transport.PortableErrno(e) {
	case syscall.ECONNREFUSED:
		return transport.ErrRefused
	case syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED:
		return ErrAborted
	case syscall.ETIMEDOUT:
		return ErrTimeout
	case syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.ENETDOWN:
		return transport.ErrUnreachable
	case syscall.EPERM, syscall.EACCES:
		return transport.ErrDenied
	case syscall.EINVAL, syscall.EADDRNOTAVAIL, syscall.EAFNOSUPPORT:
		return transport.ErrAddress
	case syscall.ENOBUFS, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE:
		return transport.ErrFull
	}
	return nil
}
