package udp

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"lewes/state/path"
	"lewes/transport"
)

// receiver holds the buffers of a recvmmsg.
type receiver struct {
	hdrs     []mmsghdr
	iovs     []unix.Iovec
	names    []sockaddr
	controls [][receiveControlWords]uint64
	bufs     [][]byte // allocated by allocate
}

// skew offsets the buffers of a slab against each other. Exactly 64 KiB apart, their
// starts would compete for the same cache lines.
const skew = 5 * 64

func newReceiver(slots int) *receiver {
	return &receiver{
		hdrs:     make([]mmsghdr, slots),
		iovs:     make([]unix.Iovec, slots),
		names:    make([]sockaddr, slots),
		controls: make([][receiveControlWords]uint64, slots),
		bufs:     make([][]byte, 0, slots),
	}
}

// allocate allocates missing buffers of the first n slots.
func (r *receiver) allocate(n int) {
	missing := n - len(r.bufs)
	if missing <= 0 {
		return
	}
	slab := make([]byte, missing*(bufferSize+skew))
	for range missing {
		i := len(r.bufs)
		r.bufs = append(r.bufs, slab[:bufferSize:bufferSize])
		slab = slab[bufferSize+skew:]
		r.iovs[i].Base = unsafe.SliceData(r.bufs[i])
		r.iovs[i].SetLen(bufferSize)
		h := &r.hdrs[i].Msghdr
		h.Iov = &r.iovs[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&r.names[i]))
		h.Control = (*byte)(unsafe.Pointer(&r.controls[i]))
		r.reset(i)
	}
}

// reset restores the lengths in a slot's header, which the kernel overwrites.
func (r *receiver) reset(i int) {
	h := &r.hdrs[i].Msghdr
	h.Namelen = uint32(unsafe.Sizeof(r.names[i]))
	h.SetControllen(int(unsafe.Sizeof(r.controls[i])))
}

// receivers holds the buffers of pooled Conns.
var receivers = sync.Pool{New: func() any { return newReceiver(pooledBatch) }}

func (m *mmsg) read(p []transport.Packet) (int, error) {
	defer m.localCounters.flush(&m.c.counters.received)
	for {
		m.want = min(len(p), m.ask)
		if err := m.c.raw.Read(m.tryRead); err != nil {
			m.release()
			return 0, unwrapNetError(err)
		}
		if m.errno != 0 {
			if m.queued == 0 {
				m.c.counters.asyncErrors[errorKind(m.errno)].Add(1)
			}
			return 0, m.c.readError(m.errno)
		}
		m.adapt()
		if n := m.deliver(p); n > 0 {
			return n, nil
		}
	}
}

// receive is the callback of RawConn.Read, which calls it until it returns true and waits
// for the socket to be readable in between.
func (m *mmsg) receive(fd uintptr) bool {
	if m.recv == nil {
		m.recv = receivers.Get().(*receiver)
	}
	m.recv.allocate(m.want)
	for {
		m.localCounters.calls++
		m.got, m.errno = recvmmsg(fd, m.recv.hdrs[:m.want])
		switch m.errno {
		case 0:
			m.localCounters.batch[bucket(m.got)]++
			return true
		case unix.EINTR:
		case unix.EAGAIN:
			m.release()
			return false
		default:
			m.queued = 0
			if m.c.peer != nil {
				drainErrorQueue(fd, func(e unix.Errno) {
					m.queued++
					m.c.counters.asyncErrors[errorKind(e)].Add(1)
				})
			}
			return true
		}
	}
}

// release returns the buffers of a pooled Conn.
func (m *mmsg) release() {
	if m.pooled && m.recv != nil {
		receivers.Put(m.recv)
		m.recv = nil
	}
}

// adapt adapts the batch size of a Conn with borrowed buffers to the traffic.
func (m *mmsg) adapt() {
	switch {
	case !m.pooled && !m.polled:
	case m.got >= m.ask:
		m.ask = min(2*m.ask, m.slots)
	case m.got <= m.ask/4:
		m.ask = max(m.ask/2, 1)
	}
}

// deliver fills p with the received messages, except truncated ones.
func (m *mmsg) deliver(p []transport.Packet) (n int) {
	r, c := m.recv, m.c
	for i := range m.got {
		h := &r.hdrs[i]
		size, flags := int(h.Len), h.Flags
		var a controlInfo
		parseControl(unsafe.Slice((*byte)(unsafe.Pointer(&r.controls[i])), h.Controllen), &a)
		r.reset(i)
		if a.dropped {
			c.counters.kernelDrops.Add(uint64(a.drops - m.drops))
			m.drops = a.drops
		}
		if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
			c.counters.truncated.Add(1)
			continue
		}
		if c.checkPeer && r.names[i].get() != c.peer.Peer {
			c.counters.unexpectedSource.Add(1)
			continue
		}
		q := &p[n]
		n++
		q.Data = r.bufs[i][:size:size]
		q.Segment = 0
		if 0 < a.segment && a.segment < size {
			q.Segment = a.segment
		}
		if c.peer != nil {
			q.Path = *c.peer
		} else {
			q.Path = path.Path{Peer: r.names[i].get(), Local: a.local, IfIndex: a.ifIndex, Transport: path.UDP}
		}
		m.localCounters.message(q.Count(), size)
	}
	return n
}

// maxQueuedErrors bounds drainErrorQueue: ICMP errors can be forged in any number.
const maxQueuedErrors = 256

// drainErrorQueue drains the socket's error queue and calls each for every ICMP error.
// Connected sockets use IP_RECVERR, without which the kernel reports refused ports but no
// unreachable hosts. The queue must be drained because it uses the receive buffer. Local
// errors in it are skipped: the failed call has returned them.
func drainErrorQueue(fd uintptr, each func(unix.Errno)) {
	var oob [256]byte
	for range maxQueuedErrors {
		_, n, _, _, err := unix.Recvmsg(int(fd), nil, oob[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return
		}
		if e := parseExtendedErr(oob[:n]); e != 0 {
			each(e)
		}
	}
}

// queuedError drains the error queue, counts the errors, and returns the first as
// ReadBatch would, or nil.
func (m *mmsg) queuedError() (first error) {
	_ = m.c.raw.Control(func(fd uintptr) {
		drainErrorQueue(fd, func(e unix.Errno) {
			m.c.counters.asyncErrors[errorKind(e)].Add(1)
			if first == nil {
				first = m.c.readError(e)
			}
		})
	})
	return first
}

// parseExtendedErr returns the ICMP error in control messages, or 0.
func parseExtendedErr(b []byte) unix.Errno {
	messages, err := unix.ParseSocketControlMessage(b)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		v4 := m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_RECVERR
		v6 := m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_RECVERR
		if !v4 && !v6 || len(m.Data) < int(unsafe.Sizeof(unix.SockExtendedErr{})) {
			continue
		}
		switch e := (*unix.SockExtendedErr)(unsafe.Pointer(unsafe.SliceData(m.Data))); e.Origin {
		case unix.SO_EE_ORIGIN_ICMP, unix.SO_EE_ORIGIN_ICMP6:
			return unix.Errno(e.Errno)
		}
	}
	return 0
}
