package udp

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"lewes/state/path"
	"lewes/transport"
)

// receiver is what a recvmmsg fills.
type receiver struct {
	hdrs     []mmsghdr
	iovs     []unix.Iovec
	names    []sockaddr
	controls [][receiveControlWords]uint64
	bufs     [][]byte // made when first asked for
}

// skew sets the buffers of a slab off against each other. Exactly 64 KiB apart, the
// starts of all of them, which is all that short datagrams use, would fall
// into the same lines of the processor's cache.
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

// makeReady sees to it that the first n slots have buffers.
func (r *receiver) makeReady(n int) {
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

// reset gives a slot's message back the lengths that the kernel overwrote.
func (r *receiver) reset(i int) {
	h := &r.hdrs[i].Msghdr
	h.Namelen = uint32(unsafe.Sizeof(r.names[i]))
	h.SetControllen(int(unsafe.Sizeof(r.controls[i])))
}

// receivers is where pooled Conns have their buffers from.
var receivers = sync.Pool{New: func() any { return newReceiver(pooledBatch) }}

func (m *mmsg) read(p []transport.Packet) (int, error) {
	defer m.tally.flush(&m.c.counters.received)
	for {
		m.want = min(len(p), m.ask)
		if err := m.c.raw.Read(m.tryRead); err != nil {
			m.release()
			return 0, plain(err)
		}
		if m.errno != 0 {
			if m.reports == 0 {
				m.c.counters.reported[kindOf(m.errno)].Add(1)
			}
			return 0, m.c.readError(m.errno)
		}
		m.adapt()
		if n := m.deliver(p); n > 0 {
			return n, nil
		}
	}
}

// receive is called, by package net, until it returns true, and in between once the
// socket is readable.
func (m *mmsg) receive(fd uintptr) bool {
	if m.recv == nil {
		m.recv = receivers.Get().(*receiver)
	}
	m.recv.makeReady(m.want)
	for {
		m.tally.calls++
		m.got, m.errno = recvmmsg(fd, m.recv.hdrs[:m.want])
		switch m.errno {
		case 0:
			m.tally.batch[bucket(m.got)]++
			return true
		case unix.EINTR:
		case unix.EAGAIN:
			m.release()
			return false
		default:
			m.reports = 0
			if m.c.peer != nil {
				takeReports(fd, func(e unix.Errno) {
					m.reports++
					m.c.counters.reported[kindOf(e)].Add(1)
				})
			}
			return true
		}
	}
}

// release gives a pooled Conn's buffers back.
func (m *mmsg) release() {
	if m.pooled && m.recv != nil {
		receivers.Put(m.recv)
		m.recv = nil
	}
}

// adapt lets a Conn that borrows its buffers ask for more where much came, and for less
// where little did: a quiet socket gets along with one or two.
func (m *mmsg) adapt() {
	switch {
	case !m.pooled && !m.polled:
	case m.got >= m.ask:
		m.ask = min(2*m.ask, m.slots)
	case m.got <= m.ask/4:
		m.ask = max(m.ask/2, 1)
	}
}

// deliver hands out the messages that came, but for those that are not whole.
func (m *mmsg) deliver(p []transport.Packet) (n int) {
	r, c := m.recv, m.c
	for i := range m.got {
		h := &r.hdrs[i]
		size, flags := int(h.Len), h.Flags
		var a ancillary
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
			c.counters.strays.Add(1)
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
		m.tally.message(q.Count(), size)
	}
	return n
}
