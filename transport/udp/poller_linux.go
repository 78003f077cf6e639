package udp

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"lewes/transport"
)

// Poller receives from any number of sockets in one goroutine, with one set of buffers
// for all of them. NewPoller makes it.
type Poller struct {
	epoll, stop int // descriptors; a write to stop ends Run

	mu     sync.Mutex // guards what follows, and the descriptors against Close
	closed bool
	polled []polled
	free   []uint32 // places of polled

	// Run's own.
	receiver *receiver
	batch    [DefaultBatch]transport.Packet
	events   [maxReady]unix.EpollEvent
	ready    [maxReady]readySocket
}

// maxReady is how many sockets Run takes from the kernel at once.
const maxReady = 128

// polled is a socket in its place.
type polled struct {
	conn       *Conn // nil: the place is free
	user       any
	generation uint32 // of the place
}

// slot names a place as one socket uses it. The kernel keeps it beside the socket: an
// event that was under way when the socket was closed names a generation that is over.
type slot struct{ place, generation uint32 }

// stopPlace is the place that no socket has.
const stopPlace = 0

// readySocket is one that the kernel has named.
type readySocket struct {
	conn   *Conn
	user   any
	failed bool // there is an error to fetch
}

// NewPoller returns a Poller without sockets. It fails on systems other than Linux.
func NewPoller() (*Poller, error) {
	p := &Poller{polled: make([]polled, stopPlace+1), receiver: newReceiver(DefaultBatch)}
	var err error
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("udp: make a poller: %w", os.NewSyscallError("epoll_create1", err))
	}
	if p.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		_ = unix.Close(p.epoll)
		return nil, fmt.Errorf("udp: make a poller: %w", os.NewSyscallError("eventfd", err))
	}
	if err = p.watch(p.stop, slot{place: stopPlace}); err != nil {
		p.Close()
		return nil, fmt.Errorf("udp: make a poller: %w", err)
	}
	return p, nil
}

// watch asks the kernel to name a socket while there is something to read, or an error.
func (p *Poller) watch(fd int, s slot) error {
	e := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(s.place), Pad: int32(s.generation)}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &e))
}

// Adopt takes over the reading of c, from which nobody has read yet; user is what Run
// says of it. Its ReadBatch does not wait from then on, and has no deadline. Where Adopt
// fails, because c is Portable or the system has no descriptor left, c is as it was.
func (p *Poller) Adopt(c *Conn, user any) error {
	m, ok := c.io.(*mmsg)
	if !ok || c.udp == nil {
		return fmt.Errorf("udp: poll %s: %w", c.local, errors.ErrUnsupported)
	}
	d := &polledSocket{poller: p}
	if err := d.duplicate(c); err != nil {
		return fmt.Errorf("udp: poll %s: %w", c.local, plain(err))
	}
	u := c.udp
	if err := p.add(c, m, d, user); err != nil {
		_ = unix.Close(d.fd)
		return fmt.Errorf("udp: poll %s: %w", c.local, err)
	}
	_ = u.Close() // the socket stays open by its other descriptor
	return nil
}

// add gives a Conn its new descriptor and a place. Run may read from it at once.
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

// forget takes a descriptor that is about to be closed out.
func (p *Poller) forget(d *polledSocket) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.polled[d.slot.place] = polled{generation: d.slot.generation + 1}
	p.free = append(p.free, d.slot.place)
	if !p.closed {
		_ = unix.EpollCtl(p.epoll, unix.EPOLL_CTL_DEL, d.fd, nil)
	}
}

// Run receives and calls h until Stop, and may be called again after it. One goroutine
// at a time runs it.
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

// lookUp finds the sockets of the first n events.
func (p *Poller) lookUp(n int) (found int, stopped bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.events[:n] {
		if e.Fd == stopPlace {
			var count [8]byte
			_, _ = unix.Read(p.stop, count[:]) // it is there for waking up
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

// read takes what a socket has, once; the kernel names it again if that was not all.
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
		return // which has emptied the queue of errors
	}
	if r.failed {
		// A call that sent has been told of the error, and the queue keeps its copy.
		if err := m.reported(); err != nil {
			h.Failed(r.user, err)
		}
	}
}

// Stop ends Run, once it is done with what it has at hand, or the next one.
func (p *Poller) Stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		_, _ = unix.Write(p.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

// Close gives back what the Poller itself holds; Run must have returned. The Conns that
// it adopted are closed by whoever has them.
func (p *Poller) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.closed = true
		_ = unix.Close(p.epoll)
		_ = unix.Close(p.stop)
	}
}
