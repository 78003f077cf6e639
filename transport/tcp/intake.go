package tcp

import (
	"net"
	"os"
	"sync"
	"time"

	"lewes/state/path"
	"lewes/transport"
)

// waiting is how many packets wait for an ShardListener's reader before connections do.
const waiting = 128

// ShardListener is one shard's share of a Listener. It is a transport.Conn.
type ShardListener struct {
	listener *Listener
	arrivals chan arrival
	closed   chan struct{}
	once     sync.Once
	given    []*buffer // to the reader, until it comes back
	deadline deadline
}

func newShardListener(l *Listener) *ShardListener {
	return &ShardListener{
		listener: l,
		arrivals: make(chan arrival, waiting),
		closed:   make(chan struct{}),
		deadline: deadline{passed: make(chan struct{})},
	}
}

// ReadBatch waits for packets and returns those that are there, as transport.Conn
// says. Each has the path of its connection, to which WriteBatch, Hold and End
// refer.
func (i *ShardListener) ReadBatch(p []transport.Packet) (int, error) {
	for _, b := range i.given {
		i.listener.receiving.give(b)
	}
	i.given = i.given[:0]
	if len(p) == 0 {
		return 0, nil
	}
	select {
	case <-i.closed:
		return 0, net.ErrClosed
	case <-i.deadline.wait():
		return 0, os.ErrDeadlineExceeded
	case a := <-i.arrivals:
		i.take(&p[0], a)
	}
	n := 1
	for ; n < len(p); n++ {
		select {
		case a := <-i.arrivals:
			i.take(&p[n], a)
		default:
			return n, nil
		}
	}
	return n, nil
}

func (i *ShardListener) take(p *transport.Packet, a arrival) {
	*p = transport.Packet{Data: a.packet.data, Path: a.path}
	i.given = append(i.given, a.packet)
}

// WriteBatch queues the packets on the connections that their paths name and
// returns how many were taken, as transport.Conn says. It never waits. Of packets
// that follow each other on one path none is taken behind one that was not. The
// reasons in a *transport.SendError are ErrConnClosed, transport.ErrFull where the
// connection holds as much as it may, and transport.ErrTooLarge for what is no
// packet.
func (i *ShardListener) WriteBatch(p []transport.Packet) (int, error) {
	sent := 0
	var failed *transport.SendError
	for at := 0; at < len(p); {
		end := at + 1
		for end < len(p) && p[end].Path.Conn == p[at].Path.Conn {
			end++
		}
		n, err := 0, error(ErrConnClosed)
		if v := i.listener.table.find(p[at].Path); v != nil {
			n, err = v.put(p[at:end])
		}
		if sent += n; err != nil {
			if failed == nil {
				failed = &transport.SendError{Index: at + n, Err: err}
			}
			failed.Failed += end - at - n
		}
		at = end
	}
	if failed != nil {
		return sent, failed
	}
	return sent, nil
}

// End closes the connection of a path once its answers are out.
func (i *ShardListener) End(p path.Path) {
	if v := i.listener.table.find(p); v != nil {
		v.mu.Lock()
		v.ended = true
		v.mu.Unlock()
		v.rouse()
	}
}

// Hold lets the connection of a path live for d from now on, for an answer that is
// to come yet, and reports whether it is still there.
func (i *ShardListener) Hold(p path.Path, d time.Duration) bool {
	v := i.listener.table.find(p)
	if v == nil {
		return false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.gone || v.ended {
		return false
	}
	v.heldTill = time.Now().Add(d)
	v.rouse()
	return true
}

// SetReadDeadline is that of transport.Conn.
func (i *ShardListener) SetReadDeadline(t time.Time) error {
	i.deadline.set(t)
	return nil
}

// LocalAddr returns the first address that is listened on.
func (i *ShardListener) LocalAddr() net.Addr {
	return net.TCPAddrFromAddrPort(i.listener.Groups[0].Addr)
}

// Close ends a ReadBatch that waits. Packets that come for the ShardListener after it are
// dropped; the Listener goes on for the others.
func (i *ShardListener) Close() error {
	i.once.Do(func() { close(i.closed) })
	return nil
}

// deadline is a time that can be moved while it is waited for.
type deadline struct {
	mu     sync.Mutex
	timer  *time.Timer
	passed chan struct{} // closed when it has
}

func (d *deadline) wait() chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.passed
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.passed // it closes it, or has
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
