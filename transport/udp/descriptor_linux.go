package udp

import (
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// descriptor is a socket that package net knows nothing of. net registers its sockets
// for writing as well, and then every datagram that leaves one wakes a thread that
// nobody waits for; a Poller registers them for reading alone.
//
// The file stays open until the last call that uses it is done: its number names
// another file afterwards.
type descriptor struct {
	fd     int
	local  net.UDPAddr
	poller *Poller
	slot   slot // in the poller

	users atomic.Int64 // calls that use fd, and the closed bit
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
	if d.users.Add(-1) == closedBit {
		_ = unix.Close(d.fd)
	}
}

// Control implements syscall.RawConn.
func (d *descriptor) Control(f func(fd uintptr)) error {
	if !d.enter() {
		return net.ErrClosed
	}
	defer d.leave()
	f(uintptr(d.fd))
	return nil
}

// Read implements syscall.RawConn, and does not wait: the poller says when there is
// something.
func (d *descriptor) Read(f func(fd uintptr) bool) error { return d.once(f) }

// Write implements syscall.RawConn as Read does.
func (d *descriptor) Write(f func(fd uintptr) bool) error { return d.once(f) }

func (d *descriptor) once(f func(fd uintptr) bool) error {
	if !d.enter() {
		return net.ErrClosed
	}
	defer d.leave()
	if !f(uintptr(d.fd)) {
		return os.ErrDeadlineExceeded
	}
	return nil
}

// SetReadDeadline implements socket. A read never waits here.
func (d *descriptor) SetReadDeadline(time.Time) error { return os.ErrNoDeadline }

// LocalAddr implements socket.
func (d *descriptor) LocalAddr() net.Addr { return &d.local }

// Close implements socket.
func (d *descriptor) Close() error {
	for {
		n := d.users.Load()
		if n&closedBit != 0 {
			return net.ErrClosed
		}
		if d.users.CompareAndSwap(n, n+1|closedBit) {
			d.poller.forget(d)
			d.leave()
			return nil
		}
	}
}

var _ syscall.RawConn = (*descriptor)(nil)
