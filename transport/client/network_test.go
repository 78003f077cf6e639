package client_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

// network is an in-memory network for tests under testing/synctest: its conns block only on
// each other and the clock.
type network struct {
	delay time.Duration // one way

	landing sync.Mutex // one packet after the other

	mu    sync.Mutex
	conns map[netip.AddrPort]*memConn
	// TCP: who listens, how many connections there were, how many packets went.
	listeners map[netip.AddrPort]*memListener
	visits    uint64
	streamed  atomic.Int64
	nat       *nat                      // between clients and everybody else; nil: none
	also      map[netip.Addr]netip.Addr // further addresses of who listens at another
	port      uint16
	flying    []func() // packets on their way, in their order
	// drop reports whether a packet is dropped; nil: none is.
	drop func(from, to netip.AddrPort, p []byte) bool
}

func newNetwork() *network {
	return &network{
		conns:     make(map[netip.AddrPort]*memConn),
		listeners: make(map[netip.AddrPort]*memListener),
		port:      40000,
		delay:     5 * time.Millisecond,
	}
}

// clientAddr is where all clients are, each on a port of its own.
var clientAddr = netip.MustParseAddr("192.0.2.1")

// dial is the Underlay of a client's Config.
func (n *network) dial(_ context.Context, to netip.AddrPort) (transport.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.port++
	c := n.bind(netip.AddrPortFrom(clientAddr, n.port))
	c.peer = to
	return c, nil
}

func (n *network) listen(at netip.AddrPort) *memConn {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conns[at] != nil {
		panic(fmt.Sprintf("%s is taken", at))
	}
	return n.bind(at)
}

func (n *network) bind(at netip.AddrPort) *memConn {
	c := &memConn{net: n, local: at}
	c.ready.L = &c.mu
	n.conns[at] = c
	return c
}

// losing sets which packets are dropped.
func (n *network) losing(drop func(from, to netip.AddrPort, p []byte) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.drop = drop
}

// isSealed reports whether a packet is sealed by a session's keys.
func isSealed(p []byte) bool {
	h, err := wire.ParseHeader(p)
	return err == nil && h.Level == wire.LevelTransport
}

func (n *network) carry(from *memConn, to netip.AddrPort, data []byte) {
	if n.loses(from.local, to, data) {
		return
	}
	n.mu.Lock()
	source := from.local
	if n.nat != nil {
		source, to = n.nat.translate(from.local, to)
	}
	if a, ok := n.also[to.Addr()]; ok {
		to = netip.AddrPortFrom(a, to.Port())
	}
	there := n.conns[to]
	if there != nil && n.also[there.peer.Addr()] == source.Addr() { // who asked there hears from there
		source = there.peer
	}
	n.mu.Unlock()
	p := append([]byte(nil), data...)
	n.later(func() {
		switch {
		case there != nil && there.accept(source, p):
		case from.peer == to: // ICMP: nothing listens there
			from.fail(transport.ErrRefused)
		}
	})
}

// loses reports whether a packet is dropped.
func (n *network) loses(from, to netip.AddrPort, p []byte) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.drop != nil && n.drop(from, to, p)
}

// later calls a function after the network's delay, in order.
func (n *network) later(f func()) {
	n.mu.Lock()
	n.flying = append(n.flying, f)
	n.mu.Unlock()
	time.AfterFunc(n.delay, n.land)
}

// land delivers the oldest packet in flight.
func (n *network) land() {
	n.landing.Lock()
	defer n.landing.Unlock()
	n.mu.Lock()
	first := n.flying[0]
	n.flying = n.flying[1:]
	n.mu.Unlock()
	first()
}

// memConn is a Conn on a network; one with a peer is connected to it.
type memConn struct {
	net   *network
	local netip.AddrPort
	peer  netip.AddrPort

	mu       sync.Mutex
	ready    sync.Cond
	queue    []transport.Packet
	errs     []error
	deadline time.Time
	closed   bool
}

func (c *memConn) accept(from netip.AddrPort, p []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	if c.peer.IsValid() && c.peer != from {
		return true
	}
	c.queue = append(c.queue, transport.Packet{Data: p, Path: path.NewUDP(from, netip.Addr{}, 0)})
	c.ready.Broadcast()
	return true
}

// arrive delivers a packet on a path.
func (c *memConn) arrive(p []byte, at path.Path) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, transport.Packet{Data: p, Path: at})
	c.ready.Broadcast()
}

func (c *memConn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.errs) == 0 { // a socket keeps one
		c.errs = append(c.errs, err)
	}
	c.ready.Broadcast()
}

func (c *memConn) ReadBatch(p []transport.Packet) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, net.ErrClosed
		case !c.deadline.IsZero() && !time.Now().Before(c.deadline):
			return 0, os.ErrDeadlineExceeded
		case len(c.errs) > 0:
			err := c.errs[0]
			c.errs = c.errs[1:]
			return 0, err
		case len(c.queue) > 0:
			n := copy(p, c.queue)
			c.queue = c.queue[n:]
			return n, nil
		}
		c.ready.Wait()
	}
}

func (c *memConn) WriteBatch(p []transport.Packet) (int, error) {
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return 0, net.ErrClosed
	}
	for i := range p {
		to := c.peer
		if !to.IsValid() {
			to = p[i].Path.Peer
		}
		for datagram := range p[i].Segments() {
			c.net.carry(c, to, datagram)
		}
	}
	return len(p), nil
}

func (c *memConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	if !t.IsZero() && !c.closed {
		time.AfterFunc(time.Until(t), c.wake)
	}
	c.ready.Broadcast()
	return nil
}

func (c *memConn) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ready.Broadcast()
}

func (c *memConn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.local) }

func (c *memConn) Close() error {
	c.mu.Lock()
	c.closed = true
	c.ready.Broadcast()
	c.mu.Unlock()
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if c.net.conns[c.local] == c {
		delete(c.net.conns, c.local)
	}
	return nil
}

// nat translates each client's address to another port; mappings time out when idle.
type nat struct {
	forgets time.Duration
	next    uint16
	inside  map[netip.AddrPort]netip.AddrPort // by the outer address
	outside map[netip.AddrPort]netip.AddrPort // by the inner one
	used    map[netip.AddrPort]time.Time      // by the inner one: when something was sent
	moves   int                               // mappings that were made anew
}

func newNAT(forgets time.Duration) *nat {
	return &nat{
		forgets: forgets,
		next:    1000,
		inside:  make(map[netip.AddrPort]netip.AddrPort),
		outside: make(map[netip.AddrPort]netip.AddrPort),
		used:    make(map[netip.AddrPort]time.Time),
	}
}

// outerAddr is where clients behind a NAT seem to be.
var outerAddr = netip.MustParseAddr("192.0.2.200")

// translate returns a packet's addresses on the other side; for a mapping that has timed
// out, nothing listens at to.
func (n *nat) translate(from, to netip.AddrPort) (source, target netip.AddrPort) {
	now := time.Now()
	if from.Addr() != clientAddr {
		if inner, ok := n.inside[to]; ok && now.Sub(n.used[inner]) <= n.forgets {
			return from, inner
		}
		return from, to
	}
	outer, ok := n.outside[from]
	if !ok || now.Sub(n.used[from]) > n.forgets {
		if ok {
			delete(n.inside, outer)
			n.moves++
		}
		n.next++
		outer = netip.AddrPortFrom(outerAddr, n.next)
		n.inside[outer], n.outside[from] = from, outer
	}
	n.used[from] = now
	return outer, to
}
