package client

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

// writeErrorInterval is how often writers report errors of the socket.
const writeErrorInterval = 100 * time.Millisecond

// errReconnecting is the error of a write on a sessionConn that has ended.
var errReconnecting = errors.New("client: reconnecting")

// sessionConn is one handshake and the protocol session that follows. A Session has one
// at a time, and two for a moment while it reconnects. Packets take one path at a time;
// each open path has a goroutine that reads it.
//
// Methods of sessionConn take the lock. Those of connState and of its parts don't: their caller
// holds it. Writers use neither: they seal with the session's Sender and write to the active path.
type sessionConn struct {
	// Immutable once the handshake has succeeded.
	s       *Session
	session *state.Session
	quit    chan struct{}

	// Safe for concurrent use.
	active         atomic.Pointer[gatewayPath]
	maxDatagram    atomic.Int64 // largest packet that the gateway accepts
	lastWriteError atomic.Int64 // when a writer last reported one, as Session.at
	closeOnce      sync.Once

	mu sync.Mutex
	st connState // guarded by mu
}

func newSessionConn(s *Session, p *gatewayPath, a attempt) *sessionConn {
	c := &sessionConn{s: s, quit: make(chan struct{})}
	c.st = connState{
		c:       c,
		s:       s,
		attempt: a,
		keySets: make(map[uint32]*state.KeySet),
		changed: make(chan struct{}),
		pongs:   make(map[[8]byte]chan<- struct{}),
	}
	c.st.keepalive, c.st.lastRTT = s.previous()
	c.active.Store(p)
	c.st.policy.udp, c.st.policy.tcp = s.transports()
	c.maxDatagram.Store(wire.MaxUDPPacket) // until the gateway sends its limit
	return c
}

// start starts the timers, once the handshake has succeeded.
func (c *sessionConn) start() {
	_ = c.update(func(st *connState, now time.Time) {
		st.timer = time.AfterFunc(time.Hour, c.onTimer)
		st.policy.start(now, c.active.Load().path.Transport)
	})
}

// update calls f with the lock held, unless the conn has ended, and flushes. It returns
// the error that ended the conn.
func (c *sessionConn) update(f func(st *connState, now time.Time)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.st.ended != nil {
		return c.st.ended
	}
	now := time.Now()
	f(&c.st, now)
	c.st.flush(now)
	return nil
}

// onTimer does what is due by the timer.
func (c *sessionConn) onTimer() {
	_ = c.update(func(st *connState, now time.Time) {
		st.timerAt = time.Time{}
		st.apply(now, st.policy.tick(now, st.responseTime()))
		st.keepalive.tick(now)
		c.session.SetKeepalive(now, st.keepalive.interval)
	})
}

// close closes the session and ends the readers.
func (c *sessionConn) close() {
	c.closeOnce.Do(func() { close(c.quit) })
	c.mu.Lock()
	c.st.end(ErrClosed)
	c.st.flush(time.Now())
	paths := c.st.takePaths()
	c.mu.Unlock()
	for _, p := range paths {
		_ = p.conn.Close()
	}
}

// generation returns the number of the current keys.
func (c *sessionConn) generation() uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session.Current().Number()
}

// condition is why a sessionConn has to be replaced.
type condition struct {
	err       error // nil: it is up
	ended     bool  // it is closed, because of err
	doubtedAt time.Time
}

// fine reports whether nothing has to be done.
func (c condition) fine() bool { return c.err == nil && c.doubtedAt.IsZero() }

func (c *sessionConn) condition() condition {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := condition{err: c.st.ended, ended: c.st.ended != nil, doubtedAt: c.st.doubtedAt}
	if now.err == nil && !c.st.unresponsiveAt.IsZero() {
		now.err = c.st.policy.cause()
	}
	return now
}

// checkLiveness probes the gateway.
func (c *sessionConn) checkLiveness() {
	_ = c.update(func(st *connState, now time.Time) { c.session.CheckLiveness(now, &st.out) })
}

// write seals and sends a flow's packet. It takes no lock.
func (c *sessionConn) write(p *outgoing) error {
	for tries := 0; ; tries++ {
		err := c.session.Sender().Seal(p.data)
		if err == nil {
			break
		}
		// A rekey may have replaced and wiped the keys since they were loaded.
		if tries > 0 || !errors.Is(err, state.ErrClosed) {
			return errReconnecting
		}
	}
	to := c.active.Load()
	if to.path.Transport == path.UDP && c.session.NeedsMTUProbe(len(p.data)) {
		c.probeMTU(len(p.data))
	}
	p.batch[0] = transport.Packet{Data: p.data, Path: to.path}
	n, err := to.conn.WriteBatch(p.batch[:])
	if c.session.SentUnnoted() && !c.s.carries.Load() {
		c.noteSent()
	}
	if err == nil {
		return nil
	}
	c.writeFailed(to, err, len(p.data))
	if n == 1 {
		return nil // the error is about an earlier packet
	}
	return err
}

// noteSent makes the session ask whether what it sends is answered. Datagrams call it a few times a
// second at most.
func (c *sessionConn) noteSent() {
	_ = c.update(func(_ *connState, now time.Time) { c.session.NoteSent(now) })
}

// noteAnswered handles an inner session's proof that this session carries packets both ways.
func (c *sessionConn) noteAnswered(sent time.Time) {
	_ = c.update(func(st *connState, now time.Time) {
		c.session.NoteAnswered(sent)
		st.noteAnswered(now, sent)
	})
}

// probeMTU starts path MTU discovery for packets of size bytes.
func (c *sessionConn) probeMTU(size int) {
	_ = c.update(func(st *connState, now time.Time) {
		c.session.Fits(size)
		c.session.MaybeProbeMTU(now, &st.out)
	})
}

// writeFailed handles a writer's error: always if it is about the size, else at most once
// per writeErrorInterval.
func (c *sessionConn) writeFailed(p *gatewayPath, err error, size int) {
	if errors.Is(err, transport.ErrTooLarge) {
		_ = c.update(func(st *connState, now time.Time) { c.session.TooLarge(now, size, &st.out) })
		return
	}
	now := int64(c.s.at(time.Now()))
	last := c.lastWriteError.Load()
	if last != 0 && now-last < int64(writeErrorInterval) || !c.lastWriteError.CompareAndSwap(last, now) {
		return
	}
	_ = c.update(func(st *connState, now time.Time) { st.pathFailed(now, p, err) })
}

// sendFlowClosed closes a flow at the gateway.
func (c *sessionConn) sendFlowClosed(id uint16) {
	p := outgoings.Get().(*outgoing)
	m := wire.FlowClosed{FlowID: id, Reason: wire.FlowIdle}
	b := wire.Begin(p.buf[:0], 0, wire.LevelTransport, 0, wire.TypeFlowClosed)
	p.data = wire.Finish(m.Append(b))
	_ = c.write(p)
	p.free()
}

// serve reads a path until it is closed or the conn has ended.
func (c *sessionConn) serve(p *gatewayPath) {
	pause := time.Duration(0)
	for {
		n, err := p.conn.ReadBatch(p.batch)
		c.mu.Lock()
		now := time.Now()
		c.st.handleBatch(now, p, p.batch[:n])
		if err != nil {
			c.st.pathFailed(now, p, err)
		}
		c.st.tick(now)
		c.st.flush(now)
		ended, deadline := c.st.ended != nil, p.deadline
		var paths []*gatewayPath
		if ended {
			paths = c.st.takePaths()
		}
		c.mu.Unlock()
		for _, p := range paths {
			_ = p.conn.Close()
		}
		if ended {
			c.s.wakeSupervisor()
		}
		if ended || isClosed(err) {
			return
		}
		if pause = nextPause(pause, n, err); pause > 0 {
			sleep(c.quit, pause, deadline)
		}
	}
}

// nextPause returns the pause before the next read, which grows while reads return
// nothing but errors.
func nextPause(last time.Duration, n int, err error) time.Duration {
	switch {
	case err == nil || n > 0:
		return 0
	case errors.Is(err, os.ErrDeadlineExceeded):
		return last
	case errors.Is(err, transport.ErrRefused), errors.Is(err, transport.ErrUnreachable):
		return refusedPause // each answers a packet, and an answer may be behind it
	}
	return min(max(2*last, time.Millisecond), maxReadPause)
}

// sleep waits for pause, until deadline unless that is zero, or until quit is closed.
func sleep(quit <-chan struct{}, pause time.Duration, deadline time.Time) {
	if !deadline.IsZero() {
		pause = min(pause, time.Until(deadline))
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-quit:
	case <-timer.C:
	}
}
