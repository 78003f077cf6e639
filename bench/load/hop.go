package load

import (
	"bytes"
	"net"
	"os"
	"sync"
	"time"

	"lewes/crypto/identity"
	"lewes/state"
	"lewes/transport"
)

// hop is the way through an entry gateway as a transport.Conn: what is written to it goes
// as ForwardPackets on a session with the entry.
type hop struct {
	conn    transport.Conn // to the entry
	session *state.Session
	exit    identity.PublicKey

	arrived  chan []byte
	closed   chan struct{}
	once     sync.Once
	mu       sync.Mutex
	deadline time.Time
}

// hopQueue is how many packets wait to be read; handshakes have few.
const hopQueue = 64

// newHop returns the way through the only session that an engine has with an entry.
func newHop(entry *engine, exit identity.PublicKey) *hop {
	h := &hop{conn: entry.conn, exit: exit, arrived: make(chan []byte, hopQueue), closed: make(chan struct{})}
	entry.mu.Lock()
	defer entry.mu.Unlock()
	h.session = entry.kept[0]
	entry.forwarded = h.take
	return h
}

// take is given what the entry sends back.
func (h *hop) take(inner []byte) {
	select {
	case h.arrived <- bytes.Clone(inner):
	default: // as on a network: it goes again
	}
}

// ReadBatch implements transport.Conn, a packet at a time.
func (h *hop) ReadBatch(p []transport.Packet) (int, error) {
	h.mu.Lock()
	left := time.Until(h.deadline)
	h.mu.Unlock()
	timer := time.NewTimer(max(left, 0))
	defer timer.Stop()
	select {
	case inner := <-h.arrived:
		p[0] = transport.Packet{Data: inner}
		return 1, nil
	case <-h.closed:
		return 0, net.ErrClosed
	case <-timer.C:
		return 0, os.ErrDeadlineExceeded
	}
}

// WriteBatch implements transport.Conn.
func (h *hop) WriteBatch(p []transport.Packet) (int, error) {
	for i := range p {
		packet, err := forward(h.session, h.exit, p[i].Data)
		if err != nil {
			return i, err
		}
		if _, err := write(h.conn, []transport.Packet{{Data: packet}}); err != nil {
			return i, err
		}
	}
	return len(p), nil
}

// SetReadDeadline implements transport.Conn; a wait under way is not cut short.
func (h *hop) SetReadDeadline(t time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deadline = t
	return nil
}

// LocalAddr implements transport.Conn.
func (h *hop) LocalAddr() net.Addr { return h.conn.LocalAddr() }

// Close implements transport.Conn; the session with the entry stays.
func (h *hop) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}
