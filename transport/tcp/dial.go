package tcp

import (
	"context"
	"errors"
	"fmt"
	"io"
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

// Defaults of Options.
const (
	// DefaultConnections leaves room below the 64 of one source that a gateway lets
	// in, for others behind the same address.
	DefaultConnections    = 48
	DefaultQueue          = 1024
	DefaultQueueTime      = 2 * time.Second
	DefaultConnectTimeout = 5 * time.Second
	DefaultAnswerTimeout  = 5 * time.Second
)

// closeTime is how long Close waits for what was written before it to leave.
const closeTime = 300 * time.Millisecond

var (
	// ErrInvalidTarget: the address to connect to names no host or no port.
	ErrInvalidTarget = errors.New("tcp: target needs an address and a port")
	// ErrAborted: the gateway broke the connection off instead of answering: it has
	// too many, in all or of this address.
	ErrAborted = errors.New("tcp: the connection was broken off")
	// ErrTimeout: the gateway did not let the connection in, or did not end it, in
	// time.
	ErrTimeout = errors.New("tcp: no answer in time")
	// ErrQueueTimeout: the packet had waited for a connection for Options.QueueTime, or
	// had to give way to newer ones.
	ErrQueueTimeout = errors.New("tcp: waited too long for a connection")
)

// Options are the bounds of a Conn. Zero values mean the defaults.
type Options struct {
	// Connections is how many there are at most at one time.
	Connections int
	// Queue is how many packets wait for a connection at most; the oldest gives way.
	// One that has waited for QueueTime is not sent any more: it is of no use.
	Queue     int
	QueueTime time.Duration
	// ConnectTimeout bounds the making of a connection, AnswerTimeout the time from
	// then to the gateway's close. Send adds to it what the gateway may wait.
	ConnectTimeout, AnswerTimeout time.Duration
	// NoFastOpen keeps the packet from travelling with the connection's first segment
	// where the kernel knows how (Linux) and the gateway has taken one so before.
	NoFastOpen bool
}

func (o *Options) fill() {
	o.Connections = or(o.Connections, DefaultConnections)
	o.Queue = or(o.Queue, DefaultQueue)
	o.QueueTime = or(o.QueueTime, DefaultQueueTime)
	o.ConnectTimeout = or(o.ConnectTimeout, DefaultConnectTimeout)
	o.AnswerTimeout = or(o.AnswerTimeout, DefaultAnswerTimeout)
}

// Conn is the client's end: a transport.Conn that sends each packet on a connection
// of its own and gives out what comes back on any of them.
type Conn struct {
	to       netip.AddrPort
	path     path.Path
	options  Options
	dialer   net.Dialer
	ctx      context.Context // done when the Conn is closed
	cancel   context.CancelFunc
	answers  chan *buffer
	faults   chan error
	deadline deadline
	given    []*buffer // to the reader, until it comes back
	local    atomic.Pointer[net.TCPAddr]
	counters dialCounters
	workers  sync.WaitGroup
	once     sync.Once // the Conn is closed

	mu      sync.Mutex
	queue   outbox
	running int                   // workers
	unsent  int                   // packets that are queued or being connected for
	open    map[net.Conn]struct{} // to be broken off by Close
	closing bool
	sent    chan struct{} // closed when nothing is unsent any more; made by Close
}

var _ transport.Conn = (*Conn)(nil)

// Dial returns a Conn to a gateway's TCP port. It connects nothing yet: what is wrong
// with the way is said by ReadBatch once a packet was written.
func Dial(to netip.AddrPort, o Options) (*Conn, error) {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	if !to.IsValid() || to.Port() == 0 || to.Addr().IsUnspecified() {
		return nil, fmt.Errorf("%w, got %s", ErrInvalidTarget, to)
	}
	o.fill()
	c := &Conn{
		to:       to,
		path:     path.NewTCP(to, netip.Addr{}, 0),
		options:  o,
		answers:  make(chan *buffer, waiting),
		faults:   make(chan error, 1),
		deadline: deadline{passed: make(chan struct{})},
		open:     make(map[net.Conn]struct{}),
	}
	c.dialer = net.Dialer{Timeout: o.ConnectTimeout, KeepAlive: -1}
	if !o.NoFastOpen {
		c.dialer.Control = fastOpen
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// ReadBatch is that of transport.Conn. An error that is not about the Conn tells of
// one connection: transport.ErrRefused, ErrUnreachable or ErrDenied, ErrTimeout,
// ErrAborted, or ErrBadLength where what came was no packet.
func (c *Conn) ReadBatch(p []transport.Packet) (int, error) {
	for i, b := range c.given {
		b.free()
		c.given[i] = nil
	}
	c.given = c.given[:0]
	if len(p) == 0 {
		return 0, nil
	}
	select {
	case <-c.ctx.Done():
		return 0, net.ErrClosed
	case <-c.deadline.wait():
		return 0, os.ErrDeadlineExceeded
	case err := <-c.faults:
		return 0, err
	case b := <-c.answers:
		c.give(&p[0], b)
	}
	for n := 1; n < len(p); n++ {
		select {
		case b := <-c.answers:
			c.give(&p[n], b)
		default:
			return n, nil
		}
	}
	return len(p), nil
}

func (c *Conn) give(p *transport.Packet, b *buffer) {
	*p = transport.Packet{Data: b.data, Path: c.path}
	c.given = append(c.given, b)
}

// WriteBatch queues the packets, each for a connection of its own, and never waits
// for one. What becomes of them is not known here; what is no packet is refused with
// transport.ErrTooLarge.
func (c *Conn) WriteBatch(p []transport.Packet) (int, error) {
	return transport.WriteEach(p, c.write)
}

func (c *Conn) write(p *transport.Packet) error {
	for packet := range p.Segments() {
		if err := c.enqueue(packet, 0, nil); err != nil {
			return err
		}
	}
	return nil
}

// Send queues one packet that the gateway may answer only after wait. ended, which
// may be nil, is called once, from another goroutine, when the packet's connection is
// over: with the number of answers that came on it, and with nil where the gateway
// closed it in order, else ErrQueueTimeout, an error of ReadBatch, or net.ErrClosed.
func (c *Conn) Send(packet []byte, wait time.Duration, ended func(answers int, err error)) error {
	return c.enqueue(packet, wait, ended)
}

func (c *Conn) enqueue(packet []byte, wait time.Duration, ended func(int, error)) error {
	if len(packet) < wire.MinPacket || len(packet) > wire.MaxTCPPacket {
		return transport.ErrTooLarge
	}
	b := newBuffer(0).grow(lengthSize + len(packet))
	b.data = appendFrame(b.data, packet)
	x := exchange{frame: b, queued: time.Now(), wait: wait, ended: ended}
	c.mu.Lock()
	if c.closing {
		c.mu.Unlock()
		b.free()
		return net.ErrClosed
	}
	dropped, full := c.queue.push(x, c.options.Queue)
	if !full {
		c.unsent++
	}
	if c.running < c.options.Connections {
		c.running++
		c.workers.Go(c.work)
	}
	if full {
		c.counters.dropped.Add(1)
		c.workers.Go(func() { dropped.end(0, ErrQueueTimeout) }) // the caller may hold what ended wants
	}
	c.mu.Unlock()
	return nil
}

// work makes connections as long as packets wait.
func (c *Conn) work() {
	for {
		c.mu.Lock()
		x, ok := c.queue.pop()
		if !ok {
			c.running--
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		c.carry(&x)
	}
}

// carry takes a packet to the gateway and its answers back.
func (c *Conn) carry(x *exchange) {
	if time.Since(x.queued) >= c.options.QueueTime {
		c.left()
		c.counters.dropped.Add(1)
		x.end(0, ErrQueueTimeout)
		return
	}
	conn, err := c.connect(x)
	c.left()
	n := 0
	if err == nil {
		n, err = c.receive(conn)
		c.over(conn, err)
	}
	if err != nil {
		err = c.failed(err)
	}
	x.end(n, err)
}

// connect makes a connection and sends the packet.
func (c *Conn) connect(x *exchange) (net.Conn, error) {
	conn, err := c.dialer.DialContext(c.ctx, "tcp", c.to.String())
	if err != nil {
		return nil, err
	}
	c.counters.connections.Add(1)
	if a, ok := conn.LocalAddr().(*net.TCPAddr); ok {
		c.local.Store(a)
	}
	if !c.opened(conn) {
		c.over(conn, net.ErrClosed)
		return nil, net.ErrClosed
	}
	_ = conn.SetDeadline(time.Now().Add(c.options.AnswerTimeout + x.wait))
	if _, err := conn.Write(x.frame.data); err != nil {
		c.over(conn, err)
		return nil, err
	}
	c.counters.sent.add(1, len(x.frame.data)-lengthSize)
	return conn, nil
}

// opened notes a connection, so that Close can break it off.
func (c *Conn) opened(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		return false
	}
	c.open[conn] = struct{}{}
	return true
}

// over closes a connection; one that the gateway has not ended leaves nothing in the
// kernel that would hold its port.
func (c *Conn) over(conn net.Conn, err error) {
	c.mu.Lock()
	delete(c.open, conn)
	c.mu.Unlock()
	if t, ok := conn.(*net.TCPConn); ok && err != nil {
		_ = t.SetLinger(0)
	}
	_ = conn.Close()
}

// left counts a packet off that waits no longer to be sent.
func (c *Conn) left() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unsent--
	if c.unsent == 0 && c.sent != nil {
		close(c.sent)
		c.sent = nil
	}
}

// receive reads answers until the gateway closes the connection.
func (c *Conn) receive(conn net.Conn) (n int, err error) {
	in := newBuffer(0)
	defer func() { in.free() }()
	for {
		got, err := conn.Read(in.data[len(in.data):cap(in.data)])
		in.data = in.data[:len(in.data)+got]
		taken, need, bad := c.deliver(in.data)
		n += taken
		switch {
		case bad != nil:
			return n, bad
		case err == io.EOF && len(in.data) == need.used:
			return n, nil
		case err == io.EOF:
			return n, io.ErrUnexpectedEOF
		case err != nil:
			return n, err
		}
		in.data = in.data[:copy(in.data, in.data[need.used:])]
		in = in.grow(max(need.more, 1))
	}
}

// progress is how many bytes of what was read were whole frames, and how many are
// missing at least for the next.
type progress struct{ used, more int }

// deliver gives the whole frames of what was read to the reader.
func (c *Conn) deliver(data []byte) (n int, f progress, err error) {
	for {
		rest := data[f.used:]
		if len(rest) < lengthSize {
			f.more = lengthSize - len(rest)
			return n, f, nil
		}
		size, err := lengthOf((*[lengthSize]byte)(rest))
		if err != nil {
			return n, f, err
		}
		if len(rest) < lengthSize+size {
			f.more = lengthSize + size - len(rest)
			return n, f, nil
		}
		packet := newBuffer(0).grow(size)
		packet.data = append(packet.data, rest[lengthSize:lengthSize+size]...)
		select {
		case c.answers <- packet:
		case <-c.ctx.Done():
			packet.free()
			return n, f, net.ErrClosed
		}
		c.counters.received.add(1, size)
		f.used += lengthSize + size
		n++
	}
}

// failed names an error, and lets the reader know of it unless it has not yet taken
// the last.
func (c *Conn) failed(err error) error {
	if c.ctx.Err() != nil {
		return net.ErrClosed
	}
	err = dialError(c.to, err)
	c.counters.failed.Add(1)
	select {
	case c.faults <- err:
	default:
	}
	return err
}

// SetReadDeadline is that of transport.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.deadline.set(t)
	return nil
}

// LocalAddr returns the address from which the last connection was made; before there
// was one, the unspecified address.
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

// Close gives what was written before it a moment to leave, breaks every connection
// off and returns when nothing of the Conn runs any more. The first call of Close or
// Abort decides; another one waits for it.
func (c *Conn) Close() error {
	c.once.Do(func() { c.close(closeTime) })
	return nil
}

// Abort is Close for one who does not care what was written.
func (c *Conn) Abort() error {
	c.once.Do(func() { c.close(0) })
	return nil
}

func (c *Conn) close(wait time.Duration) {
	c.mu.Lock()
	c.closing = true
	sent := make(chan struct{})
	if c.unsent > 0 {
		c.sent = sent
	} else {
		close(sent)
	}
	c.mu.Unlock()
	timer := time.NewTimer(wait)
	select {
	case <-sent:
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
