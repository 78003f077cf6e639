package client

import (
	"net"
	"os"
	"sync"
	"time"

	"lewes/state/wire"
)

const (
	// maxQueued bounds an inbox. Each datagram is in a buffer of 2 KiB, so that at
	// most 512 KiB wait.
	maxQueued = 256
	// bufferSize holds the payload of any packet that comes over UDP, and makes a
	// datagram exactly 2 KiB.
	bufferSize = 2<<10 - 3*8
)

var _ [bufferSize - wire.MaxUDPPacket]struct{}

// datagram is one received payload in a pooled buffer.
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

// inbox is where datagrams wait to be read: a bounded queue with a deadline. The
// oldest give way, as in no socket, because what is new is worth more than what
// nobody came for.
type inbox struct {
	mu    sync.Mutex
	ready sync.Cond // something changed for readers
	head  *datagram
	tail  *datagram
	count int
	lost  uint64 // that gave way

	told   error // told once, when the queue is empty
	ended  error // told from then on
	expiry deadline
}

func (q *inbox) init() { q.ready.L = &q.mu }

// put copies payload into the queue and returns how many datagrams were lost by
// it.
func (q *inbox) put(from *flow, payload []byte) (lost int) {
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
	if q.count == maxQueued {
		oldest = q.take()
		q.lost++
	}
	if q.tail == nil {
		q.head = d
	} else {
		q.tail.next = d
	}
	q.tail = d
	q.count++
	if !from.to.forward() {
		q.told = nil // what comes from a target says that it is no longer unreachable
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
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.wait(); err != nil {
		return nil, err
	}
	return q.take(), nil
}

// getSome waits for at least one datagram and fills ds with what is there.
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
		case q.expiry.over:
			return os.ErrDeadlineExceeded
		case q.head != nil:
			return nil
		case q.told != nil:
			err := q.told
			q.told = nil
			return err
		}
		q.ready.Wait()
	}
}

// tell lets one reader know of err, once.
func (q *inbox) tell(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.told = err
	q.ready.Broadcast()
}

// end lets readers know of err once the queue is empty, or at once where it is
// net.ErrClosed: the user closed it. The first end counts, but for a user's Close,
// which also empties the queue.
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
		q.expiry.stop()
	}
	q.ready.Broadcast()
}

// setDeadline ends every get at t; the zero Time takes the deadline away. It
// returns what the inbox has ended with.
func (q *inbox) setDeadline(t time.Time) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended == net.ErrClosed {
		return q.ended
	}
	q.expiry.set(t, q.expired)
	q.ready.Broadcast()
	return nil
}

// expired is called when the deadline's timer has run out.
func (q *inbox) expired() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.expiry.fired()
	q.ready.Broadcast()
}

// deadline is a time that may be moved. Its owner's lock guards it.
type deadline struct {
	at    time.Time
	over  bool
	timer *time.Timer // made once, and only where a deadline lies ahead
}

func (d *deadline) set(t time.Time, fire func()) {
	d.at = t
	if t.IsZero() {
		d.over = false
		d.stop()
		return
	}
	left := time.Until(t)
	d.over = left <= 0
	switch {
	case d.over:
		d.stop()
	case d.timer == nil:
		d.timer = time.AfterFunc(left, fire)
	default:
		d.timer.Reset(left)
	}
}

// fired looks whether the deadline has come: the timer may have been set for an
// earlier one.
func (d *deadline) fired() {
	if d.at.IsZero() || d.over {
		return
	}
	if left := time.Until(d.at); left > 0 {
		d.timer.Reset(left)
		return
	}
	d.over = true
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
}
