package tcp

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

// visit is one accepted connection, from its packet to its last answer. Its own
// goroutine reads and writes; what others want of it they leave in the fields under
// the lock and wake it.
type visit struct {
	listener *Listener
	conn     *net.TCPConn
	path     path.Path
	source   netip.Addr
	until    time.Time // the end, by the receive timeout
	length   [lengthSize]byte
	wake     chan struct{} // nil until the packet is there

	mu       sync.Mutex
	answers  *buffer   // frames to send; nil: none
	heldTill time.Time // zero: not held
	ended    bool      // nothing more comes
	gone     bool      // nothing more is taken
}

// arrival is a packet that waits to be read.
type arrival struct {
	packet *buffer
	path   path.Path
}

// serve runs a connection from beginning to end.
func (v *visit) serve() {
	l := v.listener
	defer l.left(v)
	packet, err := v.receive()
	if err != nil {
		l.counters.lost(err)
		return
	}
	l.counters.received.add(1, len(packet.data))
	v.wake = make(chan struct{}, 1)
	l.table.add(v)
	defer l.table.remove(v)
	timer := time.NewTimer(time.Until(v.until))
	defer timer.Stop()
	if v.deliver(packet, timer) {
		v.answer(timer)
	}
	v.discard()
}

// receive reads the packet. Nothing is held for it until its length is known.
func (v *visit) receive() (*buffer, error) {
	if err := v.conn.SetReadDeadline(v.until); err != nil {
		return nil, err
	}
	select {
	case <-v.listener.closed: // perhaps before the deadline was set
		return nil, net.ErrClosed
	default:
	}
	for have := 0; have < lengthSize; {
		n, err := v.conn.Read(v.length[have:])
		if err != nil {
			return nil, err
		}
		have += n
	}
	n, err := lengthOf(&v.length)
	if err != nil {
		return nil, err
	}
	return v.listener.receiving.read(v.conn, n)
}

// lost counts why a connection brought no packet.
func (c *counters) lost(err error) {
	switch {
	case errors.Is(err, ErrBadLength):
		c.badLength.Add(1)
	case errors.Is(err, errMemory):
		c.refusedMemory.Add(1)
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.receiveTimeouts.Add(1)
	default:
		c.aborted.Add(1)
	}
}

// deliver gives the packet to the shard that it is for, once that has room.
func (v *visit) deliver(packet *buffer, timer *time.Timer) bool {
	l := v.listener
	shard := l.config.Steer(packet.data)
	if shard < 0 || shard >= len(l.Shards) {
		shard = 0
	}
	to := l.Shards[shard]
	select {
	case to.arrivals <- arrival{packet, v.path}:
		return true
	case <-timer.C:
		l.counters.unanswered.Add(1)
	case <-to.closed:
	}
	l.receiving.give(packet)
	return false
}

// answer sends what is written until the end.
func (v *visit) answer(timer *time.Timer) {
	writing, closed := false, v.listener.closed
	for {
		answers, ended, until := v.next()
		switch {
		case answers != nil:
			if !writing {
				v.listener.limitWriting(v)
				writing = true
			}
			err := v.send(answers)
			answers.free()
			if err != nil {
				return
			}
			continue
		case ended:
			return
		}
		timer.Reset(time.Until(until))
		select {
		case <-v.wake:
		case <-closed:
			closed = nil
			v.mu.Lock()
			v.ended = true
			v.mu.Unlock()
		case <-timer.C:
			if v.expired(time.Now()) {
				return
			}
		}
	}
}

// next returns what is to be sent, whether that is all, and until when the
// connection lives.
func (v *visit) next() (answers *buffer, ended bool, until time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	answers, v.answers = v.answers, nil
	if until = v.until; !v.heldTill.IsZero() {
		until = v.heldTill
	}
	v.gone = v.ended && answers == nil
	return answers, v.ended, until
}

// expired ends a connection whose time is up.
func (v *visit) expired(now time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	held := !v.heldTill.IsZero()
	if held && now.Before(v.heldTill) || v.answers != nil || v.ended {
		return false
	}
	v.gone = true
	if held {
		v.listener.counters.holdTimeouts.Add(1)
	} else {
		v.listener.counters.unanswered.Add(1)
	}
	return true
}

func (v *visit) send(frames *buffer) error {
	_, err := v.conn.Write(frames.data)
	switch {
	case err == nil:
	case errors.Is(err, os.ErrDeadlineExceeded):
		v.listener.counters.writeTimeouts.Add(1)
		_ = v.conn.SetLinger(0) // what the kernel still holds goes too
	default:
		v.listener.counters.writeErrors.Add(1)
	}
	return err
}

// discard forgets what will not be sent any more.
func (v *visit) discard() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.gone = true
	if v.answers != nil {
		v.answers.free()
		v.answers = nil
	}
}

// ErrConnClosed: the connection that the packet was for is closed.
var ErrConnClosed = errors.New("tcp: that connection is closed")

// put queues the packets until one does not fit, and returns how many were taken.
func (v *visit) put(packets []transport.Packet) (taken int, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.gone || v.ended {
		return 0, ErrConnClosed
	}
	for i := range packets {
		if err := v.putOne(&packets[i]); err != nil {
			return i, err
		}
	}
	v.rouse()
	return len(packets), nil
}

// putOne queues a packet, or a train as a frame for each of its packets.
func (v *visit) putOne(p *transport.Packet) error {
	size, count := len(p.Data)+p.Count()*lengthSize, 0
	for packet := range p.Segments() {
		if len(packet) < wire.MinPacket || len(packet) > wire.MaxTCPPacket {
			return transport.ErrTooLarge
		}
		count++
	}
	if v.answers == nil {
		v.answers = newBuffer(0)
	}
	if len(v.answers.data)+size > v.listener.config.MaxAnswer {
		v.rouse()
		return transport.ErrFull
	}
	v.answers = v.answers.grow(size)
	for packet := range p.Segments() {
		v.answers.data = appendFrame(v.answers.data, packet)
	}
	v.listener.counters.sent.add(count, len(p.Data))
	return nil
}

// rouse wakes the connection's goroutine.
func (v *visit) rouse() {
	select {
	case v.wake <- struct{}{}:
	default: // it will look anyway
	}
}
