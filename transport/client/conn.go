package client

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"
)

// DialContext opens a flow to a target. The network is udp, udp4 or udp6, the address host:port.
// The gateway resolves a host name, to an address of whichever family it has; for IP addresses the
// network decides as in net.Dial. Nothing is sent before the first Write.
//
// The net.Conn behaves like a connected *net.UDPConn, and is a net.PacketConn too; its WriteTo
// refuses other addresses with net.ErrWriteToConnected. A Read returns one datagram, truncated to
// the buffer. A full receive queue drops the oldest datagram; SetReadBuffer sets its size. A Write
// that exceeds the limit returns a *SizeError; the method MaxPayload returns the limit. When the
// gateway closes the flow, Read returns a *FlowError: once if the target is unreachable, and for
// good, as Write does, if the gateway refuses the target. A flow that was idle for too long opens
// again with the next Write.
//
// LocalAddr is an unspecified address whose port identifies the flow; only the gateway
// knows the address that the target sees. All errors are a *net.OpError.
func (s *Session) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := s.dial(ctx, network, address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: textAddr{network, address}, Err: err}
	}
	return c, nil
}

func (s *Session) dial(ctx context.Context, network, address string) (*flowConn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	to, err := parseDestination(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &flowConn{to: to, socket: socket{s: s, remote: to.net()}}
	c.inbox.init()
	if c.flow, err = s.open(to, &c.inbox, nil); err != nil {
		return nil, err
	}
	c.local = localAddr(c.flow.number)
	return c, nil
}

// ListenPacket returns a socket that sends to any target and receives from the targets that it has
// sent to. It opens a flow per target. If the session has MaxFlows, it evicts the least recently
// used flow of a ListenPacket, one that waits for its first answer last; datagrams of that target are
// lost until the next WriteTo it.
//
// WriteTo accepts a *net.UDPAddr, any other net.Addr with a method AddrPort() netip.AddrPort, and a
// NameAddr. ReadFrom returns the address of the WriteTo: a *net.UDPAddr, which must not be changed,
// or a NameAddr. The methods ReadFromUDPAddrPort and WriteToUDPAddrPort are those of *net.UDPConn;
// the former returns the zero netip.AddrPort for a NameAddr.
//
// A *FlowError of the gateway is returned by the next WriteTo that target only: one target doesn't
// disturb the others. In all else the net.PacketConn is like the net.Conn of DialContext.
func (s *Session) ListenPacket() (net.PacketConn, error) {
	c := &packetConn{socket: socket{s: s, local: localAddr(0)}, targets: make(map[destination]*flow)}
	c.inbox.init()
	if err := s.flows.register(c); err != nil {
		return nil, &net.OpError{Op: "listen", Net: "udp", Err: err}
	}
	return c, nil
}

// open opens a flow that queues datagrams in an inbox: owner's, unless owner is nil.
func (s *Session) open(to destination, in *inbox, owner *packetConn) (*flow, error) {
	opening, err := to.opening()
	if err != nil {
		return nil, err
	}
	f := &flow{s: s, to: to, opening: opening, owner: owner, addr: to.net()}
	f.inbox.Store(in)
	open, evicted, err := s.flows.add(f, s.at(time.Now()))
	if err != nil {
		return nil, err
	}
	if evicted != nil {
		evicted.close()
	}
	return open, nil
}

// localAddr is the LocalAddr of a flow.
func localAddr(number uint16) net.Addr {
	return &net.UDPAddr{IP: net.IPv6unspecified, Port: int(number)}
}

// textAddr is an argument of DialContext as a net.Addr.
type textAddr struct{ network, text string }

func (a textAddr) Network() string { return a.network }
func (a textAddr) String() string  { return a.text }

// socket is what flowConn and packetConn have in common.
type socket struct {
	s       *Session
	inbox   inbox
	local   net.Addr
	remote  net.Addr     // nil: not connected
	writeBy atomic.Int64 // the write deadline as Session.at; 0: none
	closed  atomic.Bool
}

func (c *socket) LocalAddr() net.Addr { return c.local }

func (c *socket) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

func (c *socket) SetReadDeadline(t time.Time) error {
	return c.opError("set", c.remote, c.inbox.setDeadline(t))
}

// SetWriteDeadline sets a time after which Write fails. A Write never waits.
func (c *socket) SetWriteDeadline(t time.Time) error {
	var by int64
	if !t.IsZero() {
		by = max(int64(c.s.at(t)), 1)
	}
	c.writeBy.Store(by)
	return c.setError()
}

// SetReadBuffer sets the size of the receive queue in bytes; each datagram takes 2 KiB. The
// default is 512 KiB, the maximum 8 MiB.
func (c *socket) SetReadBuffer(size int) error {
	c.inbox.setBuffer(size)
	return c.setError()
}

// SetWriteBuffer does nothing: datagrams are not queued for sending.
func (c *socket) SetWriteBuffer(int) error { return c.setError() }

func (c *socket) setError() error {
	if c.closed.Load() {
		return c.opError("set", c.remote, net.ErrClosed)
	}
	return nil
}

// writable returns the error of a Write after the deadline.
func (c *socket) writable() error {
	if at := c.writeBy.Load(); at != 0 && int64(c.s.at(time.Now())) >= at {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// read returns one datagram and its flow.
func (c *socket) read(b []byte) (int, *flow, error) {
	d, err := c.inbox.get()
	if err != nil {
		return 0, nil, c.opError("read", c.remote, err)
	}
	n, from := copy(b, d.data()), d.from
	d.free()
	return n, from, nil
}

func (c *socket) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.read(b)
	if err != nil {
		return 0, nil, err
	}
	return n, from.addr, nil
}

func (c *socket) opError(op string, to net.Addr, err error) error {
	if err == nil {
		return nil
	}
	return &net.OpError{Op: op, Net: "udp", Source: c.local, Addr: to, Err: err}
}

// written returns the results of a write.
func (c *socket) written(b []byte, to net.Addr, err error) (int, error) {
	if err != nil {
		return 0, c.opError("write", to, err)
	}
	return len(b), nil
}

// flowConn is a flow as a connected UDP socket.
type flowConn struct {
	socket
	flow *flow
	to   destination
}

var _ net.PacketConn = (*flowConn)(nil)

func (c *flowConn) RemoteAddr() net.Addr { return c.remote }

// MaxPayload returns the size of the largest datagram, in bytes.
func (c *flowConn) MaxPayload() int { return c.flow.limit() }

func (c *flowConn) Read(b []byte) (int, error) {
	n, _, err := c.read(b)
	return n, err
}

func (c *flowConn) Write(b []byte) (int, error) {
	err := c.writable()
	if err == nil {
		err = c.flow.send(b)
	}
	return c.written(b, c.remote, err)
}

// WriteTo is Write if addr is the flow's target.
func (c *flowConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	if to, err := destinationOf(addr); err != nil || to != c.to {
		return 0, c.opError("write", addr, net.ErrWriteToConnected)
	}
	return c.Write(b)
}

func (c *flowConn) Close() error {
	if c.closed.Swap(true) {
		return c.opError("close", c.remote, net.ErrClosed)
	}
	c.flow.close()
	c.inbox.end(net.ErrClosed)
	return nil
}

// packetConn is an unconnected UDP socket: a flow for each target, opened by the first write to it.
type packetConn struct {
	socket
	targets map[destination]*flow // guarded by the flow table's lock
}

func (c *packetConn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	n, from, err := c.read(b)
	if err != nil {
		return 0, netip.AddrPort{}, err
	}
	return n, from.to.addr, nil
}

func (c *packetConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	to, err := destinationOf(addr)
	if err == nil {
		err = c.write(b, to)
	}
	return c.written(b, addr, err)
}

func (c *packetConn) WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error) {
	to, err := addrDestination("udp", addr)
	if err == nil {
		err = c.write(b, to)
	}
	if err != nil {
		return 0, c.opError("write", net.UDPAddrFromAddrPort(addr), err)
	}
	return len(b), nil
}

// writeTries bounds how often a datagram looks for a flow that is evicted before it is sent.
const writeTries = 3

func (c *packetConn) write(b []byte, to destination) error {
	if err := c.writable(); err != nil {
		return err
	}
	for tries := 1; ; tries++ {
		f := c.s.flows.target(c, to)
		if f == nil {
			if c.closed.Load() {
				return net.ErrClosed
			}
			var err error
			if f, err = c.s.open(to, &c.inbox, c); err != nil {
				return err
			}
		}
		err := f.send(b)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, net.ErrClosed) && !c.closed.Load() && tries < writeTries:
			continue
		}
		var refused *FlowError
		if errors.As(err, &refused) {
			f.close() // the next datagram opens another
		}
		return err
	}
}

// Close closes all flows of the socket.
func (c *packetConn) Close() error {
	if c.closed.Swap(true) {
		return c.opError("close", nil, net.ErrClosed)
	}
	for _, f := range c.s.flows.unregister(c) {
		f.close()
	}
	c.inbox.end(net.ErrClosed)
	return nil
}
