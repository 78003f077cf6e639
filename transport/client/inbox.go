package client

import (
	"net"
	"os"
	"sync"
	"time"

	"lewes/state/wire"
)

const (
	// defaultQueue and maxQueue bound the datagrams in an inbox, of 2 KiB each: 512 KiB
	// unless SetReadBuffer asks for another size, of 8 MiB at most.
	defaultQueue = 256
	maxQueue     = 4096
	// bufferSize fits the payload of any UDP packet, and makes a datagram 2 KiB.
	bufferSize = 2<<10 - 3*8
)

var _ [bufferSize - wire.MaxUDPPacket]struct{}

// datagram is a received payload in a pooled buffer.
type datagram struct {
	next *datagram
	from *flow
	size int
	buf  [bufferSize]byte
}

var datagrams = sync.Pool{New: func() any { return new(datagram) }}

func (d *datagram) data() []byte { return d.buf[:d.size:d.size] }

func (d *datagram) free() {
	d.next, d.from = nil, nil
	datagrams.Put(d)
}

// inbox is a bounded queue of received datagrams, with a read deadline. A full inbox drops
// the oldest.
type inbox struct {
	mu    sync.Mutex
	ready sync.Cond // wakes readers
	head  *datagram
	tail  *datagram
	count int
	bound int

	once  error // returned once, when the queue is empty
	ended error // returned from then on

	expiry  time.Time   // of reads, monotonic; zero: none
	expired bool        // expiry has come
	timer   *time.Timer // nil before the first expiry in the future
}

func (q *inbox) init() { q.ready.L, q.bound = &q.mu, defaultQueue }

// setBuffer sets the bound to about size bytes.
func (q *inbox) setBuffer(size int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bound = min(max(size/bufferSize, 1), maxQueue)
}

// put queues a copy of payload and returns how many datagrams it dropped.
func (q *inbox) put(from *flow, payload []byte) (dropped int) {
	if len(payload) > bufferSize {
		return 1
	}
	d := datagrams.Get().(*datagram)
	d.from, d.size = from, copy(d.buf[:], payload)
	var oldest *datagram
	q.mu.Lock()
	if q.ended != nil {
		q.mu.Unlock()
		d.free()
		return 1
	}
	if q.count >= q.bound {
		oldest = q.take()
	}
	if q.tail == nil {
		q.head = d
	} else {
		q.tail.next = d
	}
	q.tail = d
	q.count++
	if !from.to.forward() {
		q.once = nil // the target is not unreachable any more
	}
	q.ready.Signal()
	q.mu.Unlock()
	if oldest != nil {
		oldest.free()
		return 1
	}
	return 0
}

func (q *inbox) take() *datagram {
	d := q.head
	q.head = d.next
	if q.head == nil {
		q.tail = nil
	}
	q.count--
	return d
}

// get waits for a datagram, which the caller frees.
func (q *inbox) get() (*datagram, error) {
	var d [1]*datagram
	_, err := q.getSome(d[:])
	return d[0], err
}

// getSome waits for a datagram and returns as many as are queued, at most len(ds).
func (q *inbox) getSome(ds []*datagram) (n int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.wait(); err != nil {
		return 0, err
	}
	for n < len(ds) && q.head != nil {
		ds[n] = q.take()
		n++
	}
	return n, nil
}

func (q *inbox) wait() error {
	for {
		switch {
		case q.ended != nil && (q.head == nil || q.ended == net.ErrClosed):
			return q.ended
		case q.expired:
			return os.ErrDeadlineExceeded
		case q.head != nil:
			return nil
		case q.once != nil:
			err := q.once
			q.once = nil
			return err
		}
		q.ready.Wait()
	}
}

// report makes one read return err, once the queue is empty.
func (q *inbox) report(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.once = err
	q.ready.Broadcast()
}

// end makes reads return err once the queue is empty. net.ErrClosed, of a Close by the
// application, empties the queue and replaces an earlier err.
func (q *inbox) end(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended == nil || err == net.ErrClosed {
		q.ended = err
	}
	if err == net.ErrClosed {
		for q.head != nil {
			q.take().free()
		}
		q.stopTimer()
	}
	q.ready.Broadcast()
}

// setDeadline sets the read deadline; the zero Time removes it.
func (q *inbox) setDeadline(t time.Time) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended == net.ErrClosed {
		return q.ended
	}
	q.stopTimer()
	left := time.Until(t)
	q.expiry, q.expired = time.Now().Add(left), left <= 0
	switch {
	case t.IsZero():
		q.expiry, q.expired = t, false
	case q.expired:
	case q.timer == nil:
		q.timer = time.AfterFunc(left, q.expire)
	default:
		q.timer.Reset(left)
	}
	q.ready.Broadcast()
	return nil
}

// expire is called by the timer, perhaps late for an earlier deadline.
func (q *inbox) expire() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.expired = q.expired || due(time.Now(), q.expiry)
	q.ready.Broadcast()
}

func (q *inbox) stopTimer() {
	if q.timer != nil {
		q.timer.Stop()
	}
}
