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

// ShardListener is the part of a Listener that serves one shard. It is a transport.Conn.
type ShardListener struct {
	listener *Listener
	queue    chan inboundPacket
	closed   chan struct{}
	once     sync.Once
	deadline deadline

	returned []*buffer // by the last ReadBatch; used by the reader only
}

func newShardListener(l *Listener) *ShardListener {
	return &ShardListener{
		listener: l,
		queue:    make(chan inboundPacket, queueSize),
		closed:   make(chan struct{}),
		deadline: newDeadline(),
	}
}

// ReadBatch implements transport.Conn. The Path of each packet identifies its connection
// for WriteBatch, Hold and End.
func (s *ShardListener) ReadBatch(p []transport.Packet) (int, error) {
	for _, b := range s.returned {
		s.listener.budget.release(b)
	}
	s.returned = s.returned[:0]
	if len(p) == 0 {
		return 0, nil
	}
	select {
	case <-s.closed:
		return 0, net.ErrClosed
	case <-s.deadline.wait():
		return 0, os.ErrDeadlineExceeded
	case in := <-s.queue:
		s.fill(&p[0], in)
	}
	for n := 1; n < len(p); n++ {
		select {
		case in := <-s.queue:
			s.fill(&p[n], in)
		default:
			return n, nil
		}
	}
	return len(p), nil
}

func (s *ShardListener) fill(p *transport.Packet, in inboundPacket) {
	*p = transport.Packet{Data: in.packet.data, Path: in.path}
	s.returned = append(s.returned, in.packet)
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

// SetReadDeadline implements transport.Conn.
func (s *ShardListener) SetReadDeadline(t time.Time) error {
	s.deadline.set(t)
	return nil
}

// LocalAddr returns the first bound address.
func (s *ShardListener) LocalAddr() net.Addr {
	return net.TCPAddrFromAddrPort(s.listener.Groups[0].Addr)
}

// Close unblocks ReadBatch. Later packets for the shard are dropped; the other shards
// continue.
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

func newDeadline() deadline { return deadline{passed: make(chan struct{})} }

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
