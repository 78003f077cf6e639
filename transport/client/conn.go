package client

import (
	"context"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// conn is a flow as a connected UDP socket.
type conn struct {
	flow    *flow
	inbox   inbox
	writeBy writeDeadline
	local   net.Addr
	remote  net.Addr
}

// DialContext opens a flow to a target: network is "udp", "udp4" or "udp6", address
// is host:port. A host name is given to the gateway, which resolves it to an address
// of whichever family it has; for IP addresses the network decides as in
// net.Dial. Nothing is sent before the first Write.
//
// The net.Conn behaves as a connected *net.UDPConn. A Read takes one datagram, and
// cuts it where the buffer is short; the oldest of more than 256 that wait give way.
// A Write that does not fit returns a *SizeError. Read returns a *FlowError when the
// gateway closed the flow: once where the target was unreachable, and for good where
// the gateway refuses it, which Write says then as well. A flow that the gateway
// has forgotten because it was idle is opened again by the next Write.
//
// LocalAddr is an unspecified address with a port that names the flow: the address
// that the target sees is the gateway's to know. MaxPayload, which the net.Conn
// has as well, returns the size of the largest datagram that fits.
//
// All errors are a *net.OpError.
func (s *Session) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := s.dial(ctx, network, address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: textAddr{network, address}, Err: err}
	}
	return c, nil
}

func (s *Session) dial(ctx context.Context, network, address string) (*conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	to, err := parseDestination(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &conn{remote: to.net()}
	c.inbox.init()
	if c.flow, err = s.open(to, &c.inbox, nil); err != nil {
		return nil, err
	}
	c.local = localAddr(c.flow.number)
	return c, nil
}

// open makes a flow whose datagrams go to an inbox, which is owner's where owner is
// not nil.
func (s *Session) open(to destination, in *inbox, owner *packetConn) (*flow, error) {
	opening, err := to.opening()
	if err != nil {
		return nil, err
	}
	f := &flow{s: s, to: to, opening: opening, inbox: in, owner: owner, addr: to.net()}
	open, evicted, err := s.flows.add(f, s.at(time.Now()))
	if err != nil {
		return nil, err
	}
	if evicted != nil {
		evicted.close()
	}
	return open, nil
}

// localAddr is the address that a flow's user gets for its own.
func localAddr(number uint16) net.Addr {
	return &net.UDPAddr{IP: net.IPv6unspecified, Port: int(number)}
}

// textAddr is an address as it was given to DialContext.
type textAddr struct{ network, text string }

func (a textAddr) Network() string { return a.network }
func (a textAddr) String() string  { return a.text }

// Read takes one datagram.
func (c *conn) Read(b []byte) (int, error) {
	d, err := c.inbox.get()
	if err != nil {
		return 0, c.opError("read", err)
	}
	n := copy(b, d.data())
	d.free()
	return n, nil
}

// Write sends one datagram.
func (c *conn) Write(b []byte) (int, error) {
	if c.writeBy.over(c.flow.s) {
		return 0, c.opError("write", os.ErrDeadlineExceeded)
	}
	if err := c.flow.send(b); err != nil {
		return 0, c.opError("write", err)
	}
	return len(b), nil
}

// Close ends the flow. Reads and writes that wait return net.ErrClosed.
func (c *conn) Close() error {
	if c.flow.closed.Load() {
		return c.opError("close", net.ErrClosed)
	}
	c.flow.close()
	c.inbox.end(net.ErrClosed)
	return nil
}

// MaxPayload returns the size in bytes of the largest datagram that fits.
func (c *conn) MaxPayload() int { return c.flow.limit() }

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

func (c *conn) SetReadDeadline(t time.Time) error {
	return c.opError("set", c.inbox.setDeadline(t))
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	if c.flow.closed.Load() {
		return c.opError("set", net.ErrClosed)
	}
	c.writeBy.set(c.flow.s, t)
	return nil
}

func (c *conn) opError(op string, err error) error {
	if err == nil {
		return nil
	}
	return &net.OpError{Op: op, Net: "udp", Source: c.local, Addr: c.remote, Err: err}
}

// writeDeadline is a time after which nothing is written. Writes do not wait, so
// that there is nobody to wake.
type writeDeadline struct{ at atomic.Int64 } // as Session.at has it; 0: none

func (d *writeDeadline) set(s *Session, t time.Time) {
	if t.IsZero() {
		d.at.Store(0)
		return
	}
	d.at.Store(max(int64(s.at(t)), 1))
}

func (d *writeDeadline) over(s *Session) bool {
	at := d.at.Load()
	return at != 0 && int64(s.at(time.Now())) >= at
}
