package demo

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"sync"

	"lewes/router"
	"lewes/transport"
)

// witness observes one party's sockets: its peers, its own addresses, the number of datagrams, and
// whether any of them contains a secret.
type witness struct {
	secrets [][]byte

	mu             sync.Mutex
	dialled        []netip.AddrPort // peers
	locals         []netip.AddrPort // its own addresses
	sent, received uint64           // datagrams
	leaks          int              // datagrams that contain a secret
}

// watch returns a Conn that reports to w.
func (w *witness) watch(c transport.Conn, to netip.AddrPort) transport.Conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Contains(w.dialled, to) {
		w.dialled = append(w.dialled, to)
	}
	w.locals = append(w.locals, c.LocalAddr().(*net.UDPAddr).AddrPort())
	return &watchedConn{c, w}
}

// note counts a batch, in one direction.
func (w *witness) note(count *uint64, batch []transport.Packet) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range batch {
		for datagram := range batch[i].Segments() {
			*count++
			if slices.ContainsFunc(w.secrets, func(s []byte) bool { return bytes.Contains(datagram, s) }) {
				w.leaks++
			}
		}
	}
}

// sight is a snapshot of a witness.
type sight struct {
	dialled, locals []netip.AddrPort
	sent, received  uint64
	leaks           int
}

func (w *witness) sight() sight {
	w.mu.Lock()
	defer w.mu.Unlock()
	return sight{slices.Clone(w.dialled), slices.Clone(w.locals), w.sent, w.received, w.leaks}
}

type watchedConn struct {
	transport.Conn
	witness *witness
}

func (c *watchedConn) ReadBatch(p []transport.Packet) (int, error) {
	n, err := c.Conn.ReadBatch(p)
	c.witness.note(&c.witness.received, p[:n])
	return n, err
}

func (c *watchedConn) WriteBatch(p []transport.Packet) (int, error) {
	n, err := c.Conn.WriteBatch(p)
	c.witness.note(&c.witness.sent, p[:n])
	return n, err
}

// watchedEgress is an Egress with a witness.
type watchedEgress struct {
	router.Egress
	witness *witness
}

func (e *watchedEgress) Dial(target netip.AddrPort) (transport.Conn, error) {
	conn, err := e.Egress.Dial(target)
	if err != nil {
		return nil, err
	}
	return e.witness.watch(conn, target), nil
}
