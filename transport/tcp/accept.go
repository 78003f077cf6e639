package tcp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"lewes/state/path"
	"lewes/transport"
)

const (
	// acceptPauseMin and Max pace the next try after the system gave no connection.
	acceptPauseMin = 5 * time.Millisecond
	acceptPauseMax = time.Second
	// sayAgain is how often at most an operator is told the same.
	sayAgain = 10 * time.Second
)

// accept lets connections in until the listener is closed.
func (l *Listener) accept(at netip.AddrPort, listener *net.TCPListener) {
	defer l.acceptors.Done()
	pause := time.Duration(0)
	for {
		conn, err := listener.AcceptTCP()
		switch {
		case err == nil:
			pause = 0
			l.admit(conn)
			continue
		case errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded):
			return // closed, or paused
		}
		// Out of descriptors, or of memory: connections wait in the kernel until some
		// are free again.
		l.counters.acceptErrors.Add(1)
		l.say(fmt.Errorf("tcp %s: no connection can be accepted, they wait: %w", at, transport.SystemError(err)))
		pause = min(max(2*pause, acceptPauseMin), acceptPauseMax)
		select {
		case <-time.After(pause):
		case <-l.stopped:
			return
		}
	}
}

// say tells the operator, unless something was told lately.
func (l *Listener) say(err error) {
	now := time.Now().UnixNano()
	last := l.saidAt.Load()
	if (last == 0 || now-last >= int64(sayAgain)) && l.saidAt.CompareAndSwap(last, now) {
		l.config.Notify(err)
	}
}

// admit serves a connection if the bounds allow it.
func (l *Listener) admit(conn *net.TCPConn) {
	peer := addrPort(conn.RemoteAddr())
	source := sourceOf(peer.Addr())
	if l.counters.open.Add(1) > int64(l.config.MaxConnections) {
		l.counters.open.Add(-1)
		l.counters.refusedFull.Add(1)
		refuse(conn)
		return
	}
	if !l.sources.enter(source, l.config.MaxPerSource) {
		l.counters.open.Add(-1)
		l.counters.refusedSource.Add(1)
		refuse(conn)
		return
	}
	v := &visit{
		listener: l,
		conn:     conn,
		path:     path.NewTCP(peer, addrPort(conn.LocalAddr()).Addr(), l.numbers.Add(1)),
		source:   source,
		until:    time.Now().Add(l.config.ReceiveTimeout),
	}
	if !l.entered(v) {
		l.counters.open.Add(-1)
		l.sources.leave(source)
		refuse(conn)
		return
	}
	l.counters.accepted.Add(1)
	go v.serve()
}

// refuse closes a connection so that nothing of it stays, not even in the kernel.
func refuse(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	_ = conn.Close()
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok && t != nil {
		return t.AddrPort()
	}
	return netip.AddrPort{}
}

// entered notes a connection, unless the listener is closed.
func (l *Listener) entered(v *visit) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.visits == nil {
		return false
	}
	l.visits[v] = struct{}{}
	l.serving.Add(1)
	return true
}

// left forgets a connection and closes it.
func (l *Listener) left(v *visit) {
	_ = v.conn.Close()
	l.sources.leave(v.source)
	l.counters.open.Add(-1)
	l.mu.Lock()
	delete(l.visits, v)
	l.mu.Unlock()
	l.serving.Done()
}
