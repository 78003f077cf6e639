package udp

import (
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"lewes/transport"
)

// maxBuffers bounds the buffers that one sendmmsg takes.
const maxBuffers = 512

// sender is what a WriteBatch needs to have beside its packets. One belongs to one
// call at a time; they come from a pool, so that any number of goroutines send, and
// sockets that do not have none.
type sender struct {
	hdrs     [maxMessages]mmsghdr
	names    [maxMessages]sockaddr
	controls [maxMessages]control
	messages [maxMessages]message
	iovs     [maxBuffers]unix.Iovec
	n        int // messages made
	buffers  int // iovs used

	m       *mmsg
	cut     gsoBatcher
	report  *writeResult
	own     writeResult      // what report points to, except in a sender that helps another
	control func(fd uintptr) // s.run, made once
}

// message is a run on its way.
type message struct {
	gsoMessage
	source     bool // its control messages name where it leaves from
	segmentEnd int  // length of its control messages without that
}

// senders has the senders that are not in use.
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
	// Control, not Write, which would let one goroutine at a time through: the
	// kernel sends for many at once.
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

// put gives s back to the pool, without what it pointed to.
func (s *sender) put() {
	s.m, s.cut, s.report = nil, gsoBatcher{}, nil
	s.own = writeResult{}
	senders.Put(s)
}

// run sends all that s.cut has.
func (s *sender) run(fd uintptr) {
	for s.cut.more() {
		s.fill()
		s.flush(fd)
		clear(s.iovs[:s.buffers])
		s.n, s.buffers = 0, 0
	}
}

// fill makes as many messages as fit.
func (s *sender) fill() {
	for s.n < maxMessages && s.buffers < maxBuffers && s.cut.more() {
		s.add(s.cut.next(maxBuffers - s.buffers))
	}
}

// add makes a message of r.
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

// flush sends the messages that were made.
func (s *sender) flush(fd uintptr) {
	for k := 0; k < s.n; {
		if s.messages[k].segments > 1 && !s.m.c.gso.Load() { // switched off since it was made
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
			// Something stopped it. If that was an error from the network, the
			// kernel has forgotten it but for what it has in the queue.
			s.drainErrorQueue(fd)
		}
	}
}

// try hands the messages from i up to j to the system and counts what it took.
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

// refused deals with message k, which the system refused with e.
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
				pending = e // from the network all the same, if the message passes now
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

// drainErrorQueue notes the errors from the network that the kernel has in its queue, and
// returns their number.
func (s *sender) drainErrorQueue(fd uintptr) (n int) {
	drainErrorQueue(fd, func(e unix.Errno) {
		n++
		s.report.addAsync(s.m.c.counters, e)
	})
	return n
}

// mayBeOffloadFailure says whether an error may mean that the device or its driver does
// not segment: EIO where it computes no checksums, EINVAL from some virtual ones.
func mayBeOffloadFailure(e unix.Errno) bool {
	switch e {
	case unix.EIO, unix.EINVAL, unix.EOPNOTSUPP:
		return true
	}
	return false
}

// oneByOne sends message k again, each of its datagrams by itself, and says whether
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

// stopGSO ends segmentation on this socket: the datagrams of a train that was
// refused with e have all passed by themselves.
func (c *Conn) stopGSO(e unix.Errno) {
	why := "refused by the system: " + e.Error()
	c.gsoReason.Store(&why)
	if c.gso.CompareAndSwap(true, false) {
		c.counters.gsoFallbacks.Add(1)
		c.emit(GSOOff, e, "this socket sends datagrams one by one from now on, which costs more CPU; the device or its driver does not segment UDP")
	}
}

// pollWritable waits until fd has room to send, at most so long and at least a
// millisecond, and says whether it has.
func pollWritable(fd uintptr, atMost time.Duration) bool {
	return poll(fd, unix.POLLOUT, int(max(atMost.Milliseconds(), 1)))
}
