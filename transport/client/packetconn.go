package client

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"
)

// packetConn is an unconnected UDP socket: a flow for each target, made when it is
// first written to.
type packetConn struct {
	s       *Session
	inbox   inbox
	targets map[destination]*flow // the flow table's lock guards it
	writeBy writeDeadline
	local   net.Addr
	closed  atomic.Bool
}

// ListenPacket returns a socket that sends to any target and receives from those
// that it has sent to. It opens one flow a target; where the session has MaxFlows,
// the flow of a ListenPacket that was used least recently gives way, and its target
// is not heard until it is written to again.
//
// WriteTo takes a *net.UDPAddr, any other net.Addr with a method AddrPort()
// netip.AddrPort, and a NameAddr. ReadFrom returns the address that was written to:
// a *net.UDPAddr, which must not be changed, or a NameAddr. As with
// *net.UDPConn, there are ReadFromUDPAddrPort and WriteToUDPAddrPort for those who
// find them by an interface; a datagram from a target with a name has the zero
// netip.AddrPort in the former.
//
// What the gateway refuses is told by the next WriteTo to that target, as a
// *FlowError, and by nothing else: one target does not disturb the others, as with
// a UDP socket. For the rest the net.PacketConn is as the net.Conn of
// DialContext. All errors are a *net.OpError.
func (s *Session) ListenPacket() (net.PacketConn, error) {
	c := &packetConn{s: s, targets: make(map[destination]*flow), local: localAddr(0)}
	c.inbox.init()
	if err := s.flows.register(c); err != nil {
		return nil, &net.OpError{Op: "listen", Net: "udp", Err: err}
	}
	return c, nil
}

// ReadFrom takes one datagram.
func (c *packetConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.read(b)
	if err != nil {
		return 0, nil, err
	}
	return n, from.addr, nil
}

// ReadFromUDPAddrPort takes one datagram.
func (c *packetConn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	n, from, err := c.read(b)
	if err != nil {
		return 0, netip.AddrPort{}, err
	}
	return n, from.to.addr, nil
}

func (c *packetConn) read(b []byte) (int, *flow, error) {
	d, err := c.inbox.get()
	if err != nil {
		return 0, nil, c.opError("read", nil, err)
	}
	n, from := copy(b, d.data()), d.from
	d.free()
	return n, from, nil
}

// WriteTo sends one datagram.
func (c *packetConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	to, err := destinationOf(addr)
	if err == nil {
		err = c.write(b, to)
	}
	if err != nil {
		return 0, c.opError("write", addr, err)
	}
	return len(b), nil
}

// WriteToUDPAddrPort sends one datagram.
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

// writeTries bounds how often a datagram looks for a flow that others' targets do
// not push out before it is sent.
const writeTries = 3

func (c *packetConn) write(b []byte, to destination) error {
	if c.writeBy.over(c.s) {
		return os.ErrDeadlineExceeded
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
			f.close() // the next datagram asks again
		}
		return err
	}
}

// Close ends all flows of the socket.
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

func (c *packetConn) LocalAddr() net.Addr { return c.local }

func (c *packetConn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

func (c *packetConn) SetReadDeadline(t time.Time) error {
	return c.opError("set", nil, c.inbox.setDeadline(t))
}

func (c *packetConn) SetWriteDeadline(t time.Time) error {
	if c.closed.Load() {
		return c.opError("set", nil, net.ErrClosed)
	}
	c.writeBy.set(c.s, t)
	return nil
}

func (c *packetConn) opError(op string, to net.Addr, err error) error {
	if err == nil {
		return nil
	}
	return &net.OpError{Op: op, Net: "udp", Source: c.local, Addr: to, Err: err}
}
