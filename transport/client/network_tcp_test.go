package client_test

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"lewes/state/path"
	"lewes/transport"
	"lewes/transport/client"
	"lewes/transport/tcp"
)

// streams is a gateway's TCP listener: a *tcp.ShardListener, or a memListener.
type streams interface {
	transport.Conn
	End(path.Path)
	Hold(path.Path, time.Time) bool
}

// downstream holds packets for the gateway's client over TCP. A test has only one such
// client at a time.
type downstream struct {
	waiting [][]byte
	polled  []path.Path   // connections that wait for something
	wait    time.Duration // of the Poll that has just come
}

// listens makes the gateway serve TCP too.
func (g *gateway) listens(on streams) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.streams = on
	g.done.Go(func() { g.serve(on, g.streamed) })
}

// streamed handles a packet received over TCP.
func (g *gateway) streamed(now time.Time, p []byte, from path.Path) {
	g.tcp.wait = 0
	g.packet(now, p, from)
	wait := g.tcp.wait
	g.settle()
	switch {
	case wait > 0 && len(g.tcp.waiting) == 0 && g.streams.Hold(from, now.Add(wait)):
		g.tcp.polled = append(g.tcp.polled, from)
		return
	case len(g.tcp.waiting) > 0:
		g.answerOn(from)
	}
	g.streams.End(from)
}

func (g *gateway) answerOn(to path.Path) {
	for _, data := range g.tcp.waiting {
		_, _ = g.streams.WriteBatch([]transport.Packet{{Data: data, Path: to}})
	}
	g.tcp.waiting = nil
}

// drain sends the queued packets on a connection that waits for them.
func (g *gateway) drain() {
	for len(g.tcp.waiting) > 0 && len(g.tcp.polled) > 0 {
		to := g.tcp.polled[0]
		g.tcp.polled = g.tcp.polled[1:]
		if g.streams.Hold(to, time.Now().Add(time.Second)) { // it is there still
			g.answerOn(to)
			g.streams.End(to)
		}
	}
}

// memListener is the gateway's end of TCP in memory.
type memListener struct {
	*memConn
	open map[uint64]*memVisit // the network's lock guards it
}

// memVisit is one connection.
type memVisit struct {
	sent    time.Time
	client  *memStream
	answers int
	ended   func(int, error)
	timer   *time.Timer
}

// tcpPort is where a network's gateways listen for TCP.
const tcpPort = 41264

func onTCP(at netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(at.Addr(), tcpPort) }

// listenTCP makes a gateway's end of TCP, at the address of its UDP socket.
func (n *network) listenTCP(at netip.AddrPort) *memListener {
	l := &memListener{memConn: n.listen(onTCP(at)), open: make(map[uint64]*memVisit)}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[l.local] = l
	return l
}

func (l *memListener) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(l.local) }

func (l *memListener) Close() error {
	_ = l.memConn.Close()
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	delete(l.net.listeners, l.local)
	for _, v := range l.open {
		v.over(0, tcp.ErrAborted, l.net.delay)
	}
	l.open = nil
	return nil
}

func (l *memListener) WriteBatch(packets []transport.Packet) (int, error) {
	for _, p := range packets {
		l.net.mu.Lock()
		v := l.open[p.Path.Conn]
		l.net.mu.Unlock()
		if v == nil || l.net.loses(l.local, v.client.local, p.Data) {
			continue
		}
		l.net.mu.Lock()
		v.answers++
		l.net.mu.Unlock()
		data := append([]byte(nil), p.Data...)
		l.net.later(func() { v.client.accept(l.local, data) })
	}
	return len(packets), nil
}

func (l *memListener) End(p path.Path) {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	if v := l.open[p.Conn]; v != nil {
		delete(l.open, p.Conn)
		v.over(v.answers, nil, l.net.delay)
	}
}

func (l *memListener) Hold(p path.Path, until time.Time) bool {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	v := l.open[p.Conn]
	if v == nil {
		return false
	}
	if v.timer != nil {
		v.timer.Stop()
	}
	v.timer = time.AfterFunc(time.Until(until), func() { l.End(p) })
	return true
}

// over closes the connection for the client. The caller holds the network's lock.
func (v *memVisit) over(answers int, err error, delay time.Duration) {
	if v.timer != nil {
		v.timer.Stop()
	}
	time.AfterFunc(delay, func() { v.client.over(v, answers, err) })
}

// memStream is the client's end.
type memStream struct {
	*memConn
	sent  *atomic.Int64
	taken atomic.Value // time.Time
}

var _ client.Exchanger = (*memStream)(nil)

// dialTCP is the UnderlayTCP of a client's Config.
func (n *network) dialTCP(_ context.Context, to netip.AddrPort) (client.Exchanger, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.port++
	c := n.bind(netip.AddrPortFrom(clientAddr, n.port))
	c.peer = to
	return &memStream{memConn: c, sent: &n.streamed}, nil
}

func (c *memStream) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.local) }

func (c *memStream) WriteBatch(packets []transport.Packet) (int, error) {
	for i := range packets {
		for p := range packets[i].Segments() {
			if err := c.Send(p, 0, nil); err != nil {
				return i, err
			}
		}
	}
	return len(packets), nil
}

func (c *memStream) Taken() time.Time {
	at, _ := c.taken.Load().(time.Time)
	return at
}

// over ends a connection, and reports its error once.
func (c *memStream) over(v *memVisit, answers int, err error) {
	if err != nil {
		c.fail(err)
	} else if time.Since(v.sent) < 4*time.Second {
		c.taken.Store(v.sent)
	}
	if v.ended != nil {
		v.ended(answers, err)
	}
}

func (c *memStream) Send(packet []byte, wait time.Duration, ended func(int, error)) error {
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return net.ErrClosed
	}
	c.sent.Add(1)
	v := &memVisit{client: c, sent: time.Now(), ended: ended}
	data := append([]byte(nil), packet...)
	if c.net.loses(c.local, c.peer, data) {
		time.AfterFunc(tcp.DefaultConnectTimeout, func() { c.over(v, 0, tcp.ErrTimeout) })
		return nil
	}
	c.net.later(func() {
		c.net.mu.Lock()
		l := c.net.listeners[c.peer]
		var number uint64
		if l != nil {
			c.net.visits++
			number = c.net.visits
			l.open[number] = v
		}
		c.net.mu.Unlock()
		if l == nil {
			time.AfterFunc(c.net.delay, func() { c.over(v, 0, transport.ErrRefused) })
			return
		}
		l.arrive(data, path.NewTCP(c.local, l.local.Addr(), number))
	})
	return nil
}
