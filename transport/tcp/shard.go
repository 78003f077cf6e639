package tcp

import (
	"net"
	"os"
	"sync"
	"time"

	"lewes/state/path"
	"lewes/transport"
)

// queueSize is the capacity of a read queue; connections block while it is full.
const queueSize = 128

// inboundPacket is a packet queued for ReadBatch.
type inboundPacket struct {
	packet *buffer
	path   path.Path
}

// readQueue implements ReadBatch and SetReadDeadline.
type readQueue struct {
	packets  chan inboundPacket
	errs     chan error // holds the first error until ReadBatch returns it
	closed   <-chan struct{}
	release  func(*buffer)
	deadline deadline

	returned []*buffer // by the last ReadBatch; used by the reader only
}

func newReadQueue(closed <-chan struct{}, release func(*buffer)) readQueue {
	return readQueue{
		packets:  make(chan inboundPacket, queueSize),
		errs:     make(chan error, 1),
		closed:   closed,
		release:  release,
		deadline: deadline{passed: make(chan struct{})},
	}
}

// ReadBatch implements transport.Conn. The Path of a gateway's packet identifies its
// connection for WriteBatch, Hold and End. A client's errors other than net.ErrClosed and
// os.ErrDeadlineExceeded concern a single connection: transport.ErrRefused,
// ErrUnreachable or ErrDenied, ErrTimeout, ErrAborted, or ErrBadLength.
func (q *readQueue) ReadBatch(p []transport.Packet) (int, error) {
	for i, b := range q.returned {
		q.release(b)
		q.returned[i] = nil
	}
	q.returned = q.returned[:0]
	if len(p) == 0 {
		return 0, nil
	}
	select {
	case <-q.closed:
		return 0, net.ErrClosed
	case <-q.deadline.wait():
		return 0, os.ErrDeadlineExceeded
	case err := <-q.errs:
		return 0, err
	case in := <-q.packets:
		q.fill(&p[0], in)
	}
	for n := 1; n < len(p); n++ {
		select {
		case in := <-q.packets:
			q.fill(&p[n], in)
		default:
			return n, nil
		}
	}
	return len(p), nil
}

func (q *readQueue) fill(p *transport.Packet, in inboundPacket) {
	*p = transport.Packet{Data: in.packet.data, Path: in.path}
	q.returned = append(q.returned, in.packet)
}

// SetReadDeadline implements transport.Conn.
func (q *readQueue) SetReadDeadline(t time.Time) error {
	q.deadline.set(t)
	return nil
}

// ShardListener is the part of a Listener that serves one shard. It is a transport.Conn.
type ShardListener struct {
	readQueue
	listener *Listener
	closed   chan struct{}
	once     sync.Once
}

func newShardListener(l *Listener) *ShardListener {
	closed := make(chan struct{})
	return &ShardListener{readQueue: newReadQueue(closed, l.budget.release), listener: l, closed: closed}
}

// WriteBatch implements transport.Conn. It queues each packet on the connection of its
// path, whichever shard read from it, and never blocks. If a packet is rejected, the
// adjacent packets of the same path behind it are rejected too. The *transport.SendError
// contains ErrConnClosed, transport.ErrFull if Config.MaxAnswer is reached, or
// transport.ErrTooLarge for an invalid packet size.
func (s *ShardListener) WriteBatch(p []transport.Packet) (int, error) {
	sent := 0
	var failed *transport.SendError
	for start := 0; start < len(p); {
		end := start + 1
		for end < len(p) && p[end].Path.Conn == p[start].Path.Conn {
			end++
		}
		n, err := 0, error(ErrConnClosed)
		if c := s.listener.conns.find(p[start].Path); c != nil {
			n, err = c.enqueue(p[start:end])
		}
		if sent += n; err != nil {
			if failed == nil {
				failed = &transport.SendError{Index: start + n, Err: err}
			}
			failed.Failed += end - start - n
		}
		start = end
	}
	if failed != nil {
		return sent, failed
	}
	return sent, nil
}

// End closes the connection of a path after its queued answers are sent.
func (s *ShardListener) End(p path.Path) {
	if c := s.listener.conns.find(p); c != nil {
		c.finish()
	}
}

// Hold keeps the connection of a path open for d, for an answer that is still to come,
// and reports whether the connection is open.
func (s *ShardListener) Hold(p path.Path, d time.Duration) bool {
	c := s.listener.conns.find(p)
	return c != nil && c.hold(time.Now().Add(d))
}

// Authenticated notes that the connection of a path has carried an authentic packet of an account (any
// comparable value): it gives way to later ones of the account only.
func (s *ShardListener) Authenticated(p path.Path, account any) {
	l := s.listener
	if c := l.conns.find(p); c != nil {
		if victim := l.places.authenticate(c, account); victim != nil {
			l.counters.evictedAccount.Add(1)
			victim.evict()
		}
	}
}

// LocalAddr returns the first bound address.
func (s *ShardListener) LocalAddr() net.Addr {
	return net.TCPAddrFromAddrPort(s.listener.Groups[0].Addr)
}

// Close unblocks ReadBatch. Later packets for the shard are dropped; the other shards continue.
func (s *ShardListener) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// deadline is a movable deadline to select on.
type deadline struct {
	mu     sync.Mutex
	timer  *time.Timer
	passed chan struct{} // closed at the deadline; replaced when it moves
}

func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.passed
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.passed // the timer function has closed it or is about to
	}
	d.timer = nil
	select {
	case <-d.passed:
		d.passed = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return
	}
	passed := d.passed
	if wait := time.Until(t); wait > 0 {
		d.timer = time.AfterFunc(wait, func() { close(passed) })
	} else {
		close(passed)
	}
}
