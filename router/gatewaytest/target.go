package gatewaytest

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"lewes/transport"
)

// queued bounds the answers of a targetConn that wait to be read; further ones are
// dropped, as by a full socket.
const queued = 1024

// targetConn is a flow's socket whose other end is a function.
type targetConn struct {
	to      netip.AddrPort
	answer  func(netip.AddrPort, []byte) []byte
	answers chan []byte
	closed  chan struct{}
	once    sync.Once
}

var _ transport.Conn = (*targetConn)(nil)

func (c *targetConn) ReadBatch(p []transport.Packet) (int, error) {
	select {
	case a := <-c.answers:
		p[0] = transport.Packet{Data: a}
		return 1, nil
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

func (c *targetConn) WriteBatch(p []transport.Packet) (int, error) {
	for i := range p {
		for datagram := range p[i].Segments() {
			a := c.answer(c.to, bytes.Clone(datagram))
			if a == nil {
				continue
			}
			select {
			case c.answers <- a:
			default:
			}
		}
	}
	return len(p), nil
}

func (c *targetConn) SetReadDeadline(time.Time) error { return os.ErrNoDeadline }
func (c *targetConn) LocalAddr() net.Addr             { return new(net.UDPAddr) }
func (c *targetConn) Close() error                    { c.once.Do(func() { close(c.closed) }); return nil }
