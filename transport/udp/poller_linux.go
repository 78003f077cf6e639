package udp

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lewes/transport"
)

// descriptor is a socket outside of Go's network poller, which registers sockets for
// writing as well and is woken in vain by every datagram sent.
//
// It is reference counted: the file stays open until the last call that uses it ends.
type descriptor struct {
	fd    int
	local net.UDPAddr
	users atomic.Int64 // calls that use fd, plus closedBit
	wake  int          // eventfd that interrupts a wait, or 0
}

const closedBit = 1 << 62

// acquire starts a use of fd, unless it is closed.
func (d *descriptor) acquire() bool {
	for {
		n := d.users.Load()
		if n&closedBit != 0 {
			return false
		}
		if d.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// release ends a use of fd.
func (d *descriptor) release() {
	if d.users.Add(-1) != closedBit {
		return
	}
	_ = unix.Close(d.fd)
	if d.wake != 0 {
		_ = unix.Close(d.wake)
	}
}

// beginClose rejects further calls of acquire. If it returns true, the caller must call release.
func (d *descriptor) beginClose() bool {
	for {
		n := d.users.Load()
		if n&closedBit != 0 {
			return false
		}
		if d.users.CompareAndSwap(n, n+1|closedBit) {
			return true
		}
	}
}

func (d *descriptor) isClosed() bool { return d.users.Load()&closedBit != 0 }

// Control implements syscall.RawConn.
func (d *descriptor) Control(f func(fd uintptr)) error {
	if !d.acquire() {
		return net.ErrClosed
	}
	defer d.release()
	f(uintptr(d.fd))
	return nil
}

// Write implements syscall.RawConn. It does not wait, and is unused.
func (d *descriptor) Write(f func(fd uintptr) bool) error {
	return d.Control(func(fd uintptr) { f(fd) })
}

// LocalAddr implements socket.
func (d *descriptor) LocalAddr() net.Addr { return &d.local }

// duplicate duplicates the descriptor of c's socket.
func (d *descriptor) duplicate(c *Conn) error {
	d.local = *net.UDPAddrFromAddrPort(c.local)
	return onFD(c.raw, func(fd int) (err error) {
		d.fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		return os.NewSyscallError("fcntl", err)
	})
}

// polledSocket is a socket read by a Poller.
type polledSocket struct {
	descriptor
	poller *Poller
	slot   slot
}

// Read implements syscall.RawConn. It does not wait, because the Poller does.
func (s *polledSocket) Read(f func(fd uintptr) bool) error {
	if !s.acquire() {
		return net.ErrClosed
	}
	defer s.release()
	if !f(uintptr(s.fd)) {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// SetReadDeadline implements socket.
func (*polledSocket) SetReadDeadline(time.Time) error { return os.ErrNoDeadline }

// Close implements socket.
func (s *polledSocket) Close() error {
	if !s.beginClose() {
		return net.ErrClosed
	}
	s.poller.forget(s)
	s.release()
	return nil
}

// waitingSocket is a socket whose reader blocks in poll(2). For a busy socket this halves
// the cost of a wakeup, compared with Go's network poller.
type waitingSocket struct {
	descriptor
	deadline atomic.Int64 // Unix nanoseconds; 0: none
}

// Read implements syscall.RawConn. One goroutine at a time reads.
func (s *waitingSocket) Read(f func(fd uintptr) bool) error {
	if !s.acquire() {
		return net.ErrClosed
	}
	defer s.release()
	for {
		wait := -1
		if at := s.deadline.Load(); at != 0 {
			left := time.Until(time.Unix(0, at))
			if left <= 0 {
				return os.ErrDeadlineExceeded
			}
			wait = int((left + time.Millisecond - 1) / time.Millisecond)
		}
		if f(uintptr(s.fd)) {
			return nil
		}
		fds := [2]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}, {Fd: int32(s.wake), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds[:], wait); err != nil && err != unix.EINTR {
			return os.NewSyscallError("poll", err)
		}
		if fds[1].Revents != 0 {
			var count [8]byte
			_, _ = unix.Read(s.wake, count[:])
			if s.isClosed() { // set before the wakeup: the count just read may be that of Close
				return net.ErrClosed
			}
		}
	}
}

// SetReadDeadline implements socket.
func (s *waitingSocket) SetReadDeadline(t time.Time) error {
	if !s.acquire() {
		return net.ErrClosed
	}
	defer s.release()
	at := int64(0)
	if !t.IsZero() {
		at = max(t.UnixNano(), 1)
	}
	s.deadline.Store(at)
	s.wakeUp()
	return nil
}

func (s *waitingSocket) wakeUp() { _, _ = unix.Write(s.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// Close implements socket.
func (s *waitingSocket) Close() error {
	if !s.beginClose() {
		return net.ErrClosed
	}
	s.wakeUp()
	s.release()
	return nil
}

// detachFromNetpoll moves c out of Go's network poller, before its first read.
func (c *Conn) detachFromNetpoll() error {
	s := new(waitingSocket)
	var err error
	if s.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	if err := s.duplicate(c); err != nil {
		_ = unix.Close(s.wake)
		return err
	}
	_ = c.udp.Close() // the socket stays open by its other descriptor
	c.udp, c.sock, c.raw = nil, s, s
	return nil
}

var _, _ syscall.RawConn = (*polledSocket)(nil), (*waitingSocket)(nil)

// Poller receives from any number of sockets in one goroutine, with one set of buffers.
// Create it with NewPoller.
type Poller struct {
	epoll, stop int // descriptors; an event on stop ends Run

	mu     sync.Mutex // guards the fields below, and the descriptors against Close
	closed bool
	polled []polled
	free   []uint32 // indexes of polled

	// Used by Run only.
	receiver *receiver
	batch    [DefaultBatch]transport.Packet
	events   [maxReady]unix.EpollEvent
	ready    [maxReady]readySocket
}

// maxReady bounds the events of one epoll_wait.
const maxReady = 128

// polled is an entry for an adopted socket.
type polled struct {
	conn       *Conn // nil if the entry is free
	user       any
	generation uint32 // incremented when the entry is freed
}

// slot identifies the use of an entry by one socket, and is the user data of its epoll
// events. The generation invalidates events of a socket that was closed meanwhile.
type slot struct{ place, generation uint32 }

// stopPlace is the index of the stop event; no socket uses it.
const stopPlace = 0

// readySocket is a socket with an event.
type readySocket struct {
	conn   *Conn
	user   any
	failed bool // an error is queued
}

// NewPoller returns a Poller without sockets. It requires Linux.
func NewPoller() (*Poller, error) {
	p := &Poller{polled: make([]polled, stopPlace+1), receiver: newReceiver(DefaultBatch)}
	var err error
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("udp: create poller: %w", os.NewSyscallError("epoll_create1", err))
	}
	if p.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		_ = unix.Close(p.epoll)
		return nil, fmt.Errorf("udp: create poller: %w", os.NewSyscallError("eventfd", err))
	}
	if err = p.watch(p.stop, slot{place: stopPlace}); err != nil {
		p.Close()
		return nil, fmt.Errorf("udp: create poller: %w", err)
	}
	return p, nil
}

// watch registers a descriptor for data and errors, level-triggered.
func (p *Poller) watch(fd int, s slot) error {
	e := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(s.place), Pad: int32(s.generation)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &e))
}

// Adopt adds c, before its first read. Run passes user to the Handler. From then on
// ReadBatch of c does not wait and has no deadline. If Adopt fails, because c is Portable or
// no descriptor is available, c is unchanged.
func (p *Poller) Adopt(c *Conn, user any) error {
	m, ok := c.io.(*mmsg)
	if !ok || c.udp == nil {
		return fmt.Errorf("udp: poll %s: %w", c.local, errors.ErrUnsupported)
	}
	d := &polledSocket{poller: p}
	if err := d.duplicate(c); err != nil {
		return fmt.Errorf("udp: poll %s: %w", c.local, unwrapNetError(err))
	}
	u := c.udp
	if err := p.add(c, m, d, user); err != nil {
		_ = unix.Close(d.fd)
		return fmt.Errorf("udp: poll %s: %w", c.local, err)
	}
	_ = u.Close() // the socket stays open by its other descriptor
	return nil
}

// add gives c its new descriptor and an entry. Run may read from it at once.
func (p *Poller) add(c *Conn, m *mmsg, d *polledSocket, user any) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	place := uint32(len(p.polled))
	if n := len(p.free); n > 0 {
		place = p.free[n-1]
		p.free = p.free[:n-1]
	} else {
		p.polled = append(p.polled, polled{})
	}
	at := &p.polled[place]
	d.slot = slot{place, at.generation}
	if err := p.watch(d.fd, d.slot); err != nil {
		p.free = append(p.free, place)
		return err
	}
	at.conn, at.user = c, user
	c.udp, c.sock, c.raw = nil, d, d
	m.pooled, m.polled, m.ask, m.recv = false, true, 1, nil
	return nil
}

// forget removes a descriptor before it is closed.
func (p *Poller) forget(d *polledSocket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.polled[d.slot.place] = polled{generation: d.slot.generation + 1}
	p.free = append(p.free, d.slot.place)
	if !p.closed {
		_ = unix.EpollCtl(p.epoll, unix.EPOLL_CTL_DEL, d.fd, nil)
	}
}

// Run receives and calls h until Stop. It may be called again, by one goroutine at a time.
func (p *Poller) Run(h Handler) error {
	for {
		n, err := unix.EpollWait(p.epoll, p.events[:], -1)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("udp: poll: %w", os.NewSyscallError("epoll_wait", err))
		}
		found, stopped := p.lookUp(n)
		for i := range found {
			p.read(&p.ready[i], h)
		}
		clear(p.ready[:found])
		h.Done()
		if stopped {
			return nil
		}
	}
}

// lookUp collects the sockets of the first n events in p.ready.
func (p *Poller) lookUp(n int) (found int, stopped bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.events[:n] {
		if e.Fd == stopPlace {
			var count [8]byte
			_, _ = unix.Read(p.stop, count[:])
			stopped = true
			continue
		}
		at := &p.polled[e.Fd]
		if at.conn == nil || at.generation != uint32(e.Pad) {
			continue // closed meanwhile
		}
		p.ready[found] = readySocket{at.conn, at.user, e.Events&unix.EPOLLERR != 0}
		found++
	}
	return found, stopped
}

// read reads one batch from a socket; epoll reports it again if more is queued.
func (p *Poller) read(r *readySocket, h Handler) {
	m := r.conn.io.(*mmsg)
	m.recv = p.receiver
	n, err := m.read(p.batch[:])
	m.recv = nil
	switch {
	case err == nil:
		h.Received(r.user, p.batch[:n])
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, net.ErrClosed):
	default:
		h.Failed(r.user, err)
		return // the read has drained the error queue
	}
	if r.failed {
		// The error may have been returned to a sender, but its copy is still queued.
		if err := m.queuedError(); err != nil {
			h.Failed(r.user, err)
		}
	}
}

// Stop ends Run after its current batch, or else the next Run.
func (p *Poller) Stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		_, _ = unix.Write(p.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

// Close releases the Poller's own descriptors, after Run has returned. It does not close
// the adopted Conns.
func (p *Poller) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.closed = true
		_ = unix.Close(p.epoll)
		_ = unix.Close(p.stop)
	}
}
