package tcp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"lewes/state/path"
	"lewes/transport"
)

// Defaults of Options.
const (
	// DefaultConnections is below DefaultMaxPerSource, to leave room for other clients
	// behind the same address.
	DefaultConnections    = 48
	DefaultQueue          = 1024
	DefaultQueueTime      = 2 * time.Second
	DefaultConnectTimeout = 5 * time.Second
	DefaultAnswerTimeout  = 5 * time.Second
)

// drainTime is how long Close waits for queued packets to be sent.
const drainTime = 300 * time.Millisecond

var (
	// ErrInvalidTarget means the target lacks an address or a port.
	ErrInvalidTarget = errors.New("tcp: target needs an address and a port")
	// ErrAborted means the gateway reset the connection, mostly because one of its
	// connection limits is reached.
	ErrAborted = errors.New("tcp: connection aborted by the gateway")
	// ErrTimeout means connecting, or the wait for the gateway's close, timed out.
	ErrTimeout = errors.New("tcp: timeout")
	// ErrQueueTimeout means the packet waited for a connection for Options.QueueTime or
	// was displaced by newer packets.
	ErrQueueTimeout = errors.New("tcp: dropped from the send queue")
)

// Options bounds a Conn. Zero values mean the defaults.
type Options struct {
	// Connections is the maximum of concurrent connections.
	Connections int
	// Queue is the maximum of packets that wait for a connection; the oldest is dropped
	// first. A packet that has waited for QueueTime is dropped.
	Queue     int
	QueueTime time.Duration
	// ConnectTimeout bounds connecting. AnswerTimeout bounds the time from then to the
	// gateway's close; Send adds its wait to it.
	ConnectTimeout, AnswerTimeout time.Duration
	// NoFastOpen disables TCP Fast Open, which is used where available (Linux).
	NoFastOpen bool
}

func (o *Options) setDefaults() {
	o.Connections = cmp.Or(o.Connections, DefaultConnections)
	o.Queue = cmp.Or(o.Queue, DefaultQueue)
	o.QueueTime = cmp.Or(o.QueueTime, DefaultQueueTime)
	o.ConnectTimeout = cmp.Or(o.ConnectTimeout, DefaultConnectTimeout)
	o.AnswerTimeout = cmp.Or(o.AnswerTimeout, DefaultAnswerTimeout)
}

// Conn is the client side: a transport.Conn that sends each packet on a connection of
// its own and merges the answers.
type Conn struct {
	// Immutable after Dial.
	to      netip.AddrPort
	path    path.Path
	born    time.Time
	options Options
	dialer  net.Dialer
	ctx     context.Context // canceled by Close
	cancel  context.CancelFunc

	// Safe for concurrent use.
	readQueue
	local    atomic.Pointer[net.TCPAddr]
	taken    atomic.Int64 // for Taken, in nanoseconds after born
	counters dialCounters
	workers  sync.WaitGroup
	once     sync.Once // Close or Abort

	mu      sync.Mutex // guards the fields below
	queue   requestQueue
	running int           // workers
	unsent  int           // packets queued or being sent
	drained chan struct{} // if not nil, closed when unsent is 0
	open    map[net.Conn]struct{}
	closing bool
}

var _, _ transport.Conn = (*Conn)(nil), (*ShardListener)(nil)

// Dial returns a Conn to a gateway's TCP port. It does not connect: connection errors are
// returned by ReadBatch after a packet was written.
func Dial(to netip.AddrPort, o Options) (*Conn, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	if !to.IsValid() || to.Port() == 0 || to.Addr().IsUnspecified() {
		return nil, fmt.Errorf("%w, got %s", ErrInvalidTarget, to)
	}
	o.setDefaults()
	c := &Conn{
		to:      to,
		born:    time.Now(),
		path:    path.NewTCP(to, netip.Addr{}, 0),
		options: o,
		dialer:  net.Dialer{Timeout: o.ConnectTimeout, KeepAlive: -1},
		open:    make(map[net.Conn]struct{}),
	}
	if !o.NoFastOpen {
		c.dialer.Control = fastOpen
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.readQueue = newReadQueue(c.ctx.Done(), (*buffer).free)
	return c, nil
}

// WriteBatch implements transport.Conn. It queues the packets, each for a connection of
// its own, and never blocks. Packets of an invalid size fail with transport.ErrTooLarge;
// errors of the connections are returned by ReadBatch.
func (c *Conn) WriteBatch(p []transport.Packet) (int, error) {
	return transport.WriteEach(p, c.write)
}

func (c *Conn) write(p *transport.Packet) error {
	for packet := range p.Segments() {
		if err := c.Send(packet, 0, nil); err != nil {
			return err
		}
	}
	return nil
}

// Send queues one packet, whose answer the gateway may delay by wait. If ended is not
// nil, it is called once, from another goroutine, after the connection has ended: with
// the number of answers, and nil if the gateway closed the connection in order, or else
// ErrQueueTimeout, net.ErrClosed or an error as from ReadBatch.
func (c *Conn) Send(packet []byte, wait time.Duration, ended func(answers int, err error)) error {
	if !validLength(len(packet)) {
		return transport.ErrTooLarge
	}
	b := newBuffer(0).grow(lengthSize + len(packet))
	b.data = appendFrame(b.data, packet)
	r := request{frame: b, queued: time.Now(), wait: wait, ended: ended}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		b.free()
		return net.ErrClosed
	}
	displaced, full := c.queue.push(r, c.options.Queue)
	if full {
		c.counters.dropped.Add(1)
		// In another goroutine: the caller may hold a lock that the callback takes.
		c.workers.Go(func() { displaced.end(0, ErrQueueTimeout) })
	} else {
		c.unsent++
	}
	if c.running < c.options.Connections {
		c.running++
		c.workers.Go(c.work)
	}
	return nil
}

// Taken returns when the latest packet was sent whose connection the gateway closed in order and sooner
// than it closes one whose packet it drops; zero: none was.
func (c *Conn) Taken() time.Time {
	if at := c.taken.Load(); at != 0 {
		return c.born.Add(time.Duration(at))
	}
	return time.Time{}
}

// noteTaken notes a connection that was closed in order, and when its packet was sent.
func (c *Conn) noteTaken(sent time.Time) {
	if time.Since(sent) >= c.options.AnswerTimeout*4/5 {
		return
	}
	for at := int64(sent.Sub(c.born)); ; {
		last := c.taken.Load()
		if last >= at || c.taken.CompareAndSwap(last, at) {
			return
		}
	}
}

// LocalAddr returns the local address of the newest connection, or the unspecified
// address before the first.
func (c *Conn) LocalAddr() net.Addr {
	if a := c.local.Load(); a != nil {
		return a
	}
	unknown := netip.IPv4Unspecified()
	if c.to.Addr().Is6() {
		unknown = netip.IPv6Unspecified()
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(unknown, 0))
}

// Close waits briefly for queued packets to be sent, then closes all connections and waits for
// their goroutines. Only the first call of Close or Abort has an effect; later calls wait for it.
func (c *Conn) Close() error {
	c.once.Do(func() { c.close(drainTime) })
	return nil
}

// Abort is Close without the wait for queued packets.
func (c *Conn) Abort() error {
	c.once.Do(func() { c.close(0) })
	return nil
}

func (c *Conn) close(drain time.Duration) {
	drained := make(chan struct{})
	c.mu.Lock()
	c.closing = true
	if c.unsent > 0 {
		c.drained = drained
	} else {
		close(drained)
	}
	c.mu.Unlock()
	timer := time.NewTimer(drain)
	select {
	case <-drained:
	case <-timer.C:
	}
	timer.Stop()
	c.cancel()
	c.mu.Lock()
	for conn := range c.open {
		_ = conn.Close()
	}
	c.open = nil
	c.mu.Unlock()
	c.workers.Wait()
	c.deadline.set(time.Time{})
}
