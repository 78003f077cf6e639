//go:build linux

package load

import (
	"bytes"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"lewes/crypto/identity"
	"lewes/state"
	"lewes/transport"
)

// chain is a transport.Conn through an entry: it sends packets as ForwardPackets on a session with
// the entry.
type chain struct {
	conn    transport.Conn // to the entry
	session *state.Session
	exit    identity.PublicKey

	arrived  chan []byte
	closed   chan struct{}
	close    func()
	deadline atomic.Pointer[time.Time]
}

// chainQueue bounds the packets that wait to be read; handshakes have few.
const chainQueue = 64

// newChain returns the connection through the only session of an engine.
func newChain(entry *engine, exit identity.PublicKey) *chain {
	c := &chain{conn: entry.conn, exit: exit, arrived: make(chan []byte, chainQueue), closed: make(chan struct{})}
	c.close = sync.OnceFunc(func() { close(c.closed) })
	entry.mu.Lock()
	defer entry.mu.Unlock()
	c.session = entry.kept[0]
	entry.forwarded = c.take
	return c
}

// take receives a packet from the entry.
func (c *chain) take(inner []byte) {
	select {
	case c.arrived <- bytes.Clone(inner):
	default: // lost packets are retransmitted
	}
}

// ReadBatch implements transport.Conn. It returns one packet.
func (c *chain) ReadBatch(p []transport.Packet) (int, error) {
	timer := time.NewTimer(time.Until(*c.deadline.Load())) // set before each call
	defer timer.Stop()
	select {
	case inner := <-c.arrived:
		p[0] = transport.Packet{Data: inner}
		return 1, nil
	case <-c.closed:
		return 0, net.ErrClosed
	case <-timer.C:
		return 0, os.ErrDeadlineExceeded
	}
}

// WriteBatch implements transport.Conn.
func (c *chain) WriteBatch(p []transport.Packet) (int, error) {
	for i := range p {
		packet, err := forward(c.session, c.exit, p[i].Data)
		if err != nil {
			return i, err
		}
		if _, err := write(c.conn, []transport.Packet{{Data: packet}}); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// SetReadDeadline implements transport.Conn. It does not affect a ReadBatch in progress.
func (c *chain) SetReadDeadline(t time.Time) error {
	c.deadline.Store(&t)
	return nil
}

// LocalAddr implements transport.Conn.
func (c *chain) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// Close implements transport.Conn. It does not close the session with the entry.
func (c *chain) Close() error {
	c.close()
	return nil
}
