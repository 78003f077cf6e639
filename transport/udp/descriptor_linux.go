package udp

import (
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// descriptor is a socket that package net knows nothing of. net watches its sockets for
// writing as well, and then every datagram that leaves one wakes a thread that nobody
// waits for.
//
// The file stays open until the last call that uses it is done: its number names
// another file afterwards.
type descriptor struct {
	fd    int
	local net.UDPAddr
	users atomic.Int64 // calls that use fd, and the closed bit
	wake  int          // an eventfd that ends a wait for fd; 0: there is none
}

const closedBit = 1 << 62

// enter says that a call uses fd, unless it is closed.
func (d *descriptor) enter() bool {
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

// leave says that a call is done with fd.
func (d *descriptor) leave() {
	if d.users.Add(-1) != closedBit {
		return
	}
	_ = unix.Close(d.fd)
	if d.wake != 0 {
		_ = unix.Close(d.wake)
	}
}

// shut lets no other call in. The caller leaves, then or later.
func (d *descriptor) shut() bool {
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

func (d *descriptor) isShut() bool { return d.users.Load()&closedBit != 0 }

// Control implements syscall.RawConn.
func (d *descriptor) Control(f func(fd uintptr)) error {
	if !d.enter() {
		return net.ErrClosed
	}
	defer d.leave()
	f(uintptr(d.fd))
	return nil
}

// Write implements syscall.RawConn. It does not wait; nobody calls it.
func (d *descriptor) Write(f func(fd uintptr) bool) error {
	return d.Control(func(fd uintptr) { f(fd) })
}

// LocalAddr implements socket.
func (d *descriptor) LocalAddr() net.Addr { return &d.local }

// duplicate makes a descriptor of c's socket, which package net still has as well.
func (d *descriptor) duplicate(c *Conn) error {
	d.local = *net.UDPAddrFromAddrPort(c.local)
	return onFD(c.raw, func(fd int) (err error) {
		d.fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		return os.NewSyscallError("fcntl", err)
	})
}

// polledSocket is one that a Poller reads.
type polledSocket struct {
	descriptor
	poller *Poller
	slot   slot
}

// Read implements syscall.RawConn, and does not wait: the Poller knows when there is
// something.
func (s *polledSocket) Read(f func(fd uintptr) bool) error {
	if !s.enter() {
		return net.ErrClosed
	}
	defer s.leave()
	if !f(uintptr(s.fd)) {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// SetReadDeadline implements socket.
func (*polledSocket) SetReadDeadline(time.Time) error { return os.ErrNoDeadline }

// Close implements socket.
func (s *polledSocket) Close() error {
	if !s.shut() {
		return net.ErrClosed
	}
	s.poller.forget(s)
	s.leave()
	return nil
}

// waitingSocket is one whose reader waits in the kernel: for a socket that is read all the
// time this is half of what it costs to be woken by way of Go's scheduler.
type waitingSocket struct {
	descriptor
	deadline atomic.Int64 // Unix nanoseconds; 0: none
}

// Read implements syscall.RawConn. One goroutine at a time reads.
func (s *waitingSocket) Read(f func(fd uintptr) bool) error {
	if !s.enter() {
		return net.ErrClosed
	}
	defer s.leave()
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
			_, _ = unix.Read(s.wake, count[:]) // it has done its work
			if s.isShut() {                    // which is said before it wakes: what was read may be Close's
				return net.ErrClosed
			}
		}
	}
}

// SetReadDeadline implements socket.
func (s *waitingSocket) SetReadDeadline(t time.Time) error {
	if !s.enter() {
		return net.ErrClosed
	}
	defer s.leave()
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
	if !s.shut() {
		return net.ErrClosed
	}
	s.wakeUp()
	s.leave()
	return nil
}

// waitInKernel takes c out of package net's hands before anybody reads from it.
func (c *Conn) waitInKernel() error {
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
