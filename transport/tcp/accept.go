package tcp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"lewes/state/path"
	"lewes/transport"
)

const (
	// The backoff after a failed accept.
	acceptBackoffMin = 5 * time.Millisecond
	acceptBackoffMax = time.Second
	// notifyInterval limits the rate of Config.Notify.
	notifyInterval = 10 * time.Second
	// stripes is the number of locks of a connTable.
	stripes = 16
)

// accept serves connections until the listener is closed or paused.
func (l *Listener) accept(at netip.AddrPort, listener *net.TCPListener) {
	backoff := time.Duration(0)
	for {
		conn, err := listener.AcceptTCP()
		switch {
		case err == nil:
			backoff = 0
			l.admit(conn)
			continue
		case errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
			return // closed or paused
		}
		// No descriptor or memory is available: connections wait in the kernel.
		l.counters.acceptErrors.Add(1)
		l.notify(fmt.Errorf("tcp: accept on %s: %w; connections wait in the kernel", at, transport.SystemError(err)))
		backoff = min(max(2*backoff, acceptBackoffMin), acceptBackoffMax)
		select {
		case <-time.After(backoff):
		case <-l.stopped:
			return
		}
	}
}

// notify passes err to Config.Notify, rate limited.
func (l *Listener) notify(err error) {
	now := time.Now().UnixNano()
	last := l.notifiedAt.Load()
	if (last == 0 || now-last >= int64(notifyInterval)) && l.notifiedAt.CompareAndSwap(last, now) {
		l.config.Notify(err)
	}
}

// admit serves a connection, and closes another one if there are too many.
func (l *Listener) admit(conn *net.TCPConn) {
	peer := addrPort(conn.RemoteAddr())
	c := &serverConn{
		listener: l,
		conn:     conn,
		path:     path.NewTCP(peer, addrPort(conn.LocalAddr()).Addr(), l.lastConn.Add(1)),
		deadline: time.Now().Add(l.config.ReceiveTimeout),
	}
	victim, reason := l.places.add(c, peer.Addr())
	switch {
	case victim != nil:
		l.counters.evicted(reason).Add(1)
		victim.evict()
	case reason != nil:
		l.counters.refused(reason).Add(1)
		reset(conn)
		return
	}
	if !l.register(c) {
		l.places.remove(c)
		reset(conn)
		return
	}
	l.counters.accepted.Add(1)
	go c.serve()
}

// reset closes a connection with a RST, which leaves no state in the kernel.
func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	_ = conn.Close()
}

// register adds a connection unless the listener is closed.
func (l *Listener) register(c *serverConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		return false
	}
	l.open[c] = struct{}{}
	l.serving.Add(1)
	return true
}

// unregister closes a connection and removes it.
func (l *Listener) unregister(c *serverConn) {
	_ = c.conn.Close()
	l.places.remove(c)
	l.mu.Lock()
	delete(l.open, c)
	l.mu.Unlock()
	l.serving.Done()
}

// connTable finds connections by their number.
type connTable [stripes]struct {
	mu    sync.Mutex
	conns map[uint64]*serverConn // guarded by mu
}

func (t *connTable) add(c *serverConn) {
	s := &t[c.path.Conn%stripes]
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		s.conns = make(map[uint64]*serverConn)
	}
	s.conns[c.path.Conn] = c
}

func (t *connTable) remove(c *serverConn) {
	s := &t[c.path.Conn%stripes]
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c.path.Conn)
}

// find returns the connection of a path, or nil if it is closed.
func (t *connTable) find(p path.Path) *serverConn {
	s := &t[p.Conn%stripes]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns[p.Conn]
}
