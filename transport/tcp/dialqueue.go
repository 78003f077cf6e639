package tcp

import "time"

// exchange is a packet on its way: queued, then on a connection.
type exchange struct {
	frame  *buffer
	queued time.Time
	wait   time.Duration    // the gateway may take for its answer
	ended  func(int, error) // or nil
}

// end gives the packet's buffer back and tells its sender.
func (x *exchange) end(answers int, err error) {
	x.frame.free()
	if x.ended != nil {
		x.ended(answers, err)
	}
}

// outbox is the packets that wait for a connection, a ring that grows to its bound
// and no further.
type outbox struct {
	ring  []exchange
	first int
	count int
}

// push adds x. Where limit wait already, the oldest gives way and is returned.
func (q *outbox) push(x exchange, limit int) (oldest exchange, full bool) {
	if q.count == limit {
		oldest, full = q.pop()
	}
	if q.count == len(q.ring) {
		larger := make([]exchange, min(max(2*len(q.ring), 16), limit))
		for i := range q.count {
			larger[i] = q.ring[(q.first+i)%len(q.ring)]
		}
		q.ring, q.first = larger, 0
	}
	q.ring[(q.first+q.count)%len(q.ring)] = x
	q.count++
	return oldest, full
}

// pop takes the oldest.
func (q *outbox) pop() (x exchange, ok bool) {
	if q.count == 0 {
		return x, false
	}
	x, q.ring[q.first] = q.ring[q.first], exchange{}
	q.first = (q.first + 1) % len(q.ring)
	q.count--
	return x, true
}
