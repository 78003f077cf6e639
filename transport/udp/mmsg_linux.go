package udp

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is the kernel's struct mmsghdr: a message, and how many bytes of it were
// moved.
type mmsghdr struct {
	unix.Msghdr
	Len uint32
}

// recvmmsg and sendmmsg never wait. They return how many messages were moved, at
// least one, or why the first was not.

func recvmmsg(fd uintptr, h []mmsghdr) (int, unix.Errno) {
	if len(h) == 1 {
		return recvOne(fd, &h[0])
	}
	n, _, e := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(unsafe.SliceData(h))), uintptr(len(h)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), e
}

func sendmmsg(fd uintptr, h []mmsghdr) (int, unix.Errno) {
	n, _, e := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(unsafe.SliceData(h))), uintptr(len(h)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), e
}

// recvOne and sendOne move one datagram. They do not tell Go's scheduler of the call, which
// costs more than the scheduler can gain in the few microseconds of a call that never
// waits; what moves a train or a batch does.

func recvOne(fd uintptr, h *mmsghdr) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(h)), 1, unix.MSG_DONTWAIT, 0, 0)
	return int(n), e
}

func sendOne(fd uintptr, h *mmsghdr) (int, unix.Errno) {
	_, _, e := unix.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&h.Msghdr)), unix.MSG_DONTWAIT)
	if e != 0 {
		return 0, e
	}
	return 1, 0
}

// mmsg is the batcher that speaks recvmmsg and sendmmsg with offloads.
type mmsg struct {
	c *Conn

	// The reader's; one goroutine uses them.
	pooled  bool      // buffers come from a pool while there is something
	polled  bool      // a Poller lends its own
	slots   int       // messages that a read takes at most
	ask     int       // messages that the next read asks for
	want    int       // messages that the read in progress asks for
	recv    *receiver // nil while a pooled Conn waits
	tryRead func(fd uintptr) bool
	got     int
	errno   unix.Errno
	reports int // errors from the network that came with errno
	tally   tally
	drops   uint32 // the socket's own drop counter, as last heard

	// sendHook stands in for sendmmsg in tests.
	sendHook func(fd uintptr, h []mmsghdr) (int, unix.Errno)
}

func newBatcher(c *Conn, o *Options) (batcher, error) {
	if o.Portable {
		const why = "portable path"
		c.withoutGSO(why)
		c.gro.Reason = why
		return newPortable(c, o)
	}
	m := &mmsg{c: c, pooled: o.Pooled, slots: o.batch(), ask: 1}
	m.tryRead = m.receive
	if !m.pooled {
		m.ask = m.slots
		m.recv = newReceiver(m.slots)
		m.recv.makeReady(m.slots)
	}
	support := Probe()
	switch {
	case o.NoGSO:
		c.withoutGSO("switched off")
	case support.GSO != nil:
		c.withoutGSO(support.GSO.Error())
	default:
		c.gso.Store(true)
	}
	switch {
	case o.NoGRO:
		c.gro.Reason = "switched off"
	case support.GRO != nil:
		c.gro.Reason = support.GRO.Error()
	default:
		if err := joinReceived(c.raw); err != nil {
			c.gro.Reason = err.Error()
			break
		}
		c.gro.On = true
	}
	if c.peer == nil {
		_ = c.waitInKernel() // where no descriptor is left for that, net waits
	}
	return m, nil
}

// send sends messages, of which alone says that they are one datagram.
func (m *mmsg) send(fd uintptr, h []mmsghdr, alone bool) (int, unix.Errno) {
	switch {
	case m.sendHook != nil:
		return m.sendHook(fd, h)
	case alone:
		return sendOne(fd, &h[0])
	}
	return sendmmsg(fd, h)
}
