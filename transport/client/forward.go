package client

import (
	"net"
	"time"

	"lewes/crypto/identity"
	"lewes/transport"
)

// forward is the Conn of a session that runs inside another: a flow of
// ForwardPackets to the next gateway (section 8 of PROTOCOL.md).
//
// What the entry says about the flow comes out of ReadBatch: a *FlowError, or
// errMoved.
type forward struct {
	flow  *flow
	inbox inbox
	held  []*datagram // that the last ReadBatch has given out
	count int         // how many of them
}

var _ transport.Conn = (*forward)(nil)

// forward opens a Conn to the gateway with that identity.
func (s *Session) forward(to identity.PublicKey) (*forward, error) {
	c := &forward{held: make([]*datagram, readBatch)}
	c.inbox.init()
	f, err := s.open(destination{gateway: to}, &c.inbox, nil)
	if err != nil {
		return nil, err
	}
	c.flow = f
	return c, nil
}

// ReadBatch implements transport.Conn.
func (c *forward) ReadBatch(p []transport.Packet) (int, error) {
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
func (c *forward) WriteBatch(p []transport.Packet) (int, error) {
	return transport.WriteEach(p, c.write)
}

func (c *forward) write(p *transport.Packet) error {
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
func (c *forward) SetReadDeadline(t time.Time) error { return c.inbox.setDeadline(t) }

// LocalAddr returns the address of the underlay below.
func (c *forward) LocalAddr() net.Addr { return c.flow.s.link.Load().way.Load().conn.LocalAddr() }

// Close implements transport.Conn. What ReadBatch last gave out stays good.
func (c *forward) Close() error {
	c.flow.close()
	c.inbox.end(net.ErrClosed)
	return nil
}
