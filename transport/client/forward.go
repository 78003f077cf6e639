package client

import (
	"net"
	"time"

	"lewes/crypto/identity"
	"lewes/transport"
)

// forwardConn is the Conn of an inner session: a flow of ForwardPackets to the next gateway
// (section 8 of PROTOCOL.md). ReadBatch returns the entry's errors about the flow, a
// *FlowError or errOuterReplaced.
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
	if p.Count() == 1 {
		return c.flow.send(p.Data)
	}
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

// Close implements transport.Conn. The results of the last ReadBatch stay valid.
func (c *forwardConn) Close() error {
	c.flow.close()
	c.inbox.end(net.ErrClosed)
	return nil
}
