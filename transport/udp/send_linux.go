package udp

import (
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"lewes/transport"
)

// maxBuffers bounds the iovecs of one sendmmsg.
const maxBuffers = 512

// sender holds the message headers of one WriteBatch. Senders are pooled, so that any
// number of goroutines can send and idle sockets hold none.
type sender struct {
	hdrs     [maxMessages]mmsghdr
	names    [maxMessages]sockaddr
	controls [maxMessages]control
	messages [maxMessages]message
	iovs     [maxBuffers]unix.Iovec
	n        int // messages filled
	buffers  int // iovs used

	m       *mmsg
	cut     gsoBatcher
	report  *writeResult
	own     writeResult      // what report points to, except in oneByOne
	control func(fd uintptr) // s.run, bound once
}

// message is a gsoMessage with its control messages.
type message struct {
	gsoMessage
	source     bool // the control messages contain a source address
	segmentEnd int  // length of the control messages without it
}

// senders is the pool of senders.
var senders sync.Pool

func takeSender() *sender {
	if s, ok := senders.Get().(*sender); ok {
		return s
	}
	s := new(sender)
	s.control = s.run
	for i := range s.hdrs {
		s.hdrs[i].Control = (*byte)(unsafe.Pointer(&s.controls[i]))
	}
	return s
}

func (m *mmsg) write(p []transport.Packet) (int, error) {
	s := takeSender()
	segments := 1
	if m.c.gso.Load() {
		segments = maxSegments
	}
	s.m, s.cut, s.report = m, newGSOBatcher(p, m.c.peer != nil, segments), &s.own
	// Control instead of Write, which would serialize the goroutines.
	err := m.c.raw.Control(s.control)
	s.own.flush(m.c.counters)
	n := 0
	if err != nil {
		err = unwrapNetError(err)
	} else {
		n, err = s.own.result(p, m.c.peer)
	}
	s.put()
	return n, err
}

// put clears the pointers of s and returns it to the pool.
func (s *sender) put() {
	s.m, s.cut, s.report = nil, gsoBatcher{}, nil
	s.own = writeResult{}
	senders.Put(s)
}

// run sends all messages of s.cut.
func (s *sender) run(fd uintptr) {
	for s.cut.more() {
		s.fill()
		s.flush(fd)
		clear(s.iovs[:s.buffers])
		s.n, s.buffers = 0, 0
	}
}

// fill prepares as many messages as fit.
func (s *sender) fill() {
	for s.n < maxMessages && s.buffers < maxBuffers && s.cut.more() {
		s.add(s.cut.next(maxBuffers - s.buffers))
	}
}

// add prepares the message r.
func (s *sender) add(r gsoMessage) {
	c := s.m.c
	p := s.cut.packets[r.from.packet : r.last()+1]
	h := &s.hdrs[s.n].Msghdr
	m := &s.messages[s.n]
	*m = message{gsoMessage: r}

	h.Name, h.Namelen = nil, 0
	if c.peer == nil {
		h.Name = (*byte)(unsafe.Pointer(&s.names[s.n]))
		h.Namelen = s.names[s.n].set(p[0].Path.Peer, p[0].Path.IfIndex, c.v6)
		if h.Namelen == 0 {
			s.report.fail(c.counters, r.from.packet, r.last(), r.segments, unix.EDESTADDRREQ)
			return
		}
	}

	ctl, end := &s.controls[s.n], 0
	if r.segments > 1 {
		end = ctl.segment(r.size)
	}
	m.segmentEnd = end
	if c.peer == nil {
		end, m.source = ctl.source(end, p[0].Path.Local, p[0].Path.IfIndex, c.v6)
	}
	h.SetControllen(end)

	iovs := s.iovs[s.buffers : s.buffers+len(p)]
	for i := range p {
		data := p[i].Data
		if i == len(p)-1 && r.to.offset > 0 {
			data = data[:r.to.offset]
		}
		if i == 0 {
			data = data[r.from.offset:]
		}
		iovs[i].Base = unsafe.SliceData(data)
		iovs[i].SetLen(len(data))
	}
	h.Iov = &iovs[0]
	h.SetIovlen(len(iovs))
	s.buffers += len(iovs)
	s.n++
}

// flush sends the prepared messages.
func (s *sender) flush(fd uintptr) {
	for k := 0; k < s.n; {
		if s.messages[k].segments > 1 && !s.m.c.gso.Load() { // disabled meanwhile
			s.oneByOne(fd, k)
			k++
			continue
		}
		n, errno := s.try(fd, k, s.n)
		if errno != 0 {
			s.refused(fd, k, errno)
			k++
			continue
		}
		if k += n; k < s.n && s.m.c.peer != nil {
			// If an ICMP error stopped the call, it is left only in the error queue.
			s.drainErrorQueue(fd)
		}
	}
}

// try sends messages i to j-1 and counts those that the system accepted.
func (s *sender) try(fd uintptr, i, j int) (int, unix.Errno) {
	for {
		s.report.calls++
		n, errno := s.m.send(fd, s.hdrs[i:j], j-i == 1 && s.messages[i].segments == 1)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		s.report.batch[bucket(n)]++
		for k := i; k < i+n; k++ {
			s.report.message(s.messages[k].segments, s.messages[k].bytes)
		}
		return n, 0
	}
}

// refused handles message k, which the system refused with e.
func (s *sender) refused(fd uintptr, k int, e unix.Errno) {
	c, m := s.m.c, &s.messages[k]
	a := sendAttempt{connected: c.peer != nil, source: m.source, segments: m.segments}
	var pending unix.Errno
	for {
		queued := 0
		if a.connected && e != unix.EAGAIN {
			queued = s.drainErrorQueue(fd)
		}
		switch classifySendError(e, &a) {
		case actionRetry:
			a.retries++
			if queued == 0 {
				pending = e // an ICMP error, if the message is accepted now
			}
		case actionDropSource:
			s.hdrs[k].SetControllen(m.segmentEnd)
			a.source = false
		case actionWait:
			if left := s.report.waitLeft(c.sendWait, time.Now()); left <= 0 || !pollWritable(fd, left) {
				s.report.fail(c.counters, m.from.packet, m.last(), m.segments, e)
				return
			}
		case actionDropGSO:
			if s.oneByOne(fd, k) && mayBeOffloadFailure(e) {
				c.stopGSO(e)
			}
			return
		default:
			s.report.fail(c.counters, m.from.packet, m.last(), m.segments, e)
			return
		}
		var n int
		if n, e = s.try(fd, k, k+1); n == 1 {
			break
		}
	}
	if pending != 0 {
		s.report.addAsync(c.counters, pending)
	}
	if m.source && !a.source {
		s.report.sourceDropped += uint64(m.segments)
	}
}

// drainErrorQueue records the queued ICMP errors and returns their number.
func (s *sender) drainErrorQueue(fd uintptr) (n int) {
	drainErrorQueue(fd, func(e unix.Errno) {
		n++
		s.report.addAsync(s.m.c.counters, e)
	})
	return n
}

// mayBeOffloadFailure reports whether an error may mean that the device or driver does not
// support segmentation: EIO without checksum offload, EINVAL from some virtual devices.
func mayBeOffloadFailure(e unix.Errno) bool {
	switch e {
	case unix.EIO, unix.EINVAL, unix.EOPNOTSUPP:
		return true
	}
	return false
}

// oneByOne sends the datagrams of message k as messages of their own, and reports whether
// all were sent.
func (s *sender) oneByOne(fd uintptr, k int) bool {
	s.m.c.counters.gsoResent.Add(1)
	failed, r := s.report.failed, s.messages[k].gsoMessage
	t := takeSender()
	t.m, t.report = s.m, s.report
	t.cut = gsoBatcher{packets: s.cut.packets, at: r.from, end: r.to, onePath: s.cut.onePath, segments: 1}
	t.run(fd)
	t.put()
	return s.report.failed == failed
}

// stopGSO disables GSO on this socket, after a train was refused with e and its datagrams
// were accepted one by one.
func (c *Conn) stopGSO(e unix.Errno) {
	reason := "refused by the system: " + e.Error()
	c.gsoReason.Store(&reason)
	if c.gso.CompareAndSwap(true, false) {
		c.counters.gsoFallbacks.Add(1)
		c.emit(GSOOff, e, "datagrams are sent one by one, which costs more CPU: the device or driver does not segment UDP")
	}
}

// pollWritable waits for room in the send buffer, from 1 ms up to atMost, and reports
// whether there is.
func pollWritable(fd uintptr, atMost time.Duration) bool {
	return poll(fd, unix.POLLOUT, int(max(atMost.Milliseconds(), 1)))
}
