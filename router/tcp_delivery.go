package router

import (
	"bytes"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

// tcpWriter sends answers over TCP.
type tcpWriter interface {
	transport.Conn
	// End closes the connection of a path once its answers are sent.
	End(path.Path)
	// Hold keeps the connection of a path open for d, for an answer to arrive.
	Hold(p path.Path, d time.Duration) bool
	// Authenticated counts the connection of a path to an account, so that it does not give way to
	// those of strangers.
	Authenticated(p path.Path, account any)
}

const (
	// answerRoom is the room of a connection for its own answers, beside the packets that were
	// queued for the session, in bytes.
	answerRoom = 128 << 10
	// frameLength is the size of the length field before a packet.
	frameLength = 4
)

// tcpDelivery delivers packets to sessions on TCP within a batch (section 10 of PROTOCOL.md). It
// has three entry points: packetArrived, answerReady and endBatch.
type tcpDelivery struct {
	queues  *pollQueues
	conns   []tcpConn    // connections whose packet belonged to a session
	pushed  []*pollQueue // queues with new packets
	ending  []path.Path  // connections that were answered
	scratch [1]transport.Packet
}

// tcpConn is a connection whose packet belonged to a session. At the end of the batch it takes the
// packets that are queued for the session.
type tcpConn struct {
	client *client
	path   path.Path
	wait   time.Duration // of its Poll; 0: end it with the batch
}

// packetArrived notes an authentic packet of a session on a connection.
func (d *tcpDelivery) packetArrived(c *client, on path.Path, wait time.Duration) {
	d.queues.out.Authenticated(on, c.account)
	d.conns = append(d.conns, tcpConn{c, on, wait})
}

// answerReady sends an answer. A session's packet leaves on the connection that it is for, or on
// another of the session in this batch, or waits in the queue. Any other packet (c is nil) answers
// and ends the connection of its path. It returns false if the packet is dropped.
func (d *tcpDelivery) answerReady(c *client, p *state.Packet) bool {
	if c == nil {
		if !d.write(p.Data, p.Path) {
			return false
		}
		d.ending = append(d.ending, p.Path)
		return true
	}
	var on *tcpConn
	for i := range d.conns {
		if v := &d.conns[i]; v.client == c && (on == nil || v.path == p.Path) {
			on = v
		}
	}
	if on != nil && d.write(p.Data, on.path) {
		on.wait = 0
		return true
	}
	q := c.pollQueue()
	q.push(p.Data, false)
	d.pushed = append(d.pushed, q)
	return true
}

func (d *tcpDelivery) write(packet []byte, to path.Path) bool {
	d.scratch[0] = transport.Packet{Data: packet, Path: to}
	_, err := d.queues.out.WriteBatch(d.scratch[:])
	d.scratch[0] = transport.Packet{}
	return err == nil
}

// endBatch ends the connections of the batch, each with its answers or with the queued packets of
// its session, or lets them wait as their Polls ask.
func (d *tcpDelivery) endBatch() {
	for _, v := range d.conns {
		if q := v.client.queue.Load(); q != nil || v.wait > 0 {
			v.client.pollQueue().take(v.path, v.wait)
		} else {
			d.queues.out.End(v.path)
		}
	}
	for _, q := range d.pushed {
		q.deliver()
	}
	for _, p := range d.ending {
		d.queues.out.End(p)
	}
	clear(d.conns)
	clear(d.pushed)
	d.conns, d.pushed, d.ending = d.conns[:0], d.pushed[:0], d.ending[:0]
}

// flushOnClose delivers the last packets of a closed session to its waiting Poll, and drops the
// rest. It takes these packets out of output.
func (d *tcpDelivery) flushOnClose(c *client, output *state.Output) {
	q := c.queue.Swap(&d.queues.closed)
	if q == nil {
		return
	}
	at, kept := c.session.Path(), output.Packets[:0]
	for _, p := range output.Packets {
		if at.Transport == path.TCP && p.Path == at && isTransport(p.Data) {
			q.push(p.Data, false)
		} else {
			kept = append(kept, p)
		}
	}
	clear(output.Packets[len(kept):])
	output.Packets = kept
	q.deliver()
	q.close()
}

func isTransport(packet []byte) bool {
	h, err := wire.ParseHeader(packet)
	return err == nil && h.Level == wire.LevelTransport
}

// noteTCPConn passes an authentic packet's connection to the delivery over TCP.
func (st *shardState) noteTCPConn(session *state.Session, from path.Path, wait time.Duration) {
	if from.Transport == path.TCP && st.queues.out != nil {
		st.delivery.packetArrived(session.User.(*client), from, wait)
	}
}

// acknowledge sends the Ack of a Handshake 3, which is the output's packet i, on the connection that
// the Handshake 3 came on, and ends that. Anyone may have copied a Handshake 3, so the connection
// carries nothing else.
func (st *shardState) acknowledge(i int, on path.Path) {
	if i == len(st.output.Packets) || on.Transport != path.TCP || st.output.Packets[i].Path.Transport != path.TCP || st.queues.out == nil {
		return
	}
	ack := st.output.Packets[i]
	st.output.Packets = slices.Delete(st.output.Packets, i, i+1)
	ack.Path = on
	if !st.delivery.answerReady(nil, &ack) {
		st.counters.ClientFailed++
	}
}

// sendOverTCP sends an answer over TCP.
func (st *shardState) sendOverTCP(p *state.Packet) {
	if st.queues.out == nil {
		st.counters.ClientFailed++
		return
	}
	var owner *client
	if h, err := wire.ParseHeader(p.Data); err == nil && h.Level == wire.LevelTransport {
		if keys := st.sessions.Find(h.ReceiverIdx); keys != nil {
			owner = keys.Session().User.(*client)
		}
	}
	if !st.delivery.answerReady(owner, p) {
		st.counters.ClientFailed++
	}
}

// redirectToUDP sends the flows' packets that are queued for TCP over UDP, as far as they fit, once
// the session's client has answered over UDP.
func (st *shardState) redirectToUDP(session *state.Session) {
	c, ok := session.User.(*client)
	if !ok || session.Path().Transport == path.TCP {
		return
	}
	q := c.queue.Load()
	if q == nil {
		return
	}
	if q.redirect(func(packet []byte, to path.Path) {
		if !session.Fits(len(packet)) {
			st.counters.TooLarge++
			return
		}
		st.output.Packets = append(st.output.Packets, state.Packet{Data: packet, Path: to})
	}) {
		q.release()
	}
}

// leaveTCP releases a session's queue once the session has left TCP.
func (st *shardState) leaveTCP(session *state.Session) {
	if c, ok := session.User.(*client); ok && session.Path().Transport != path.TCP {
		if q := c.queue.Load(); q != nil {
			q.release()
		}
	}
}

// pollQueue holds the sealed packets for a session on TCP, oldest first, until a connection of the
// session takes them. It is bounded in bytes and age, and safe for concurrent use.
type pollQueue struct {
	all    *pollQueues
	client *client

	mu       sync.Mutex
	packets  []transport.Packet
	notes    []queueNote
	size     int       // of all packets with their length fields, in bytes
	poll     path.Path // the connection that waits for packets, if any
	answered bool      // poll has carried a packet; deliver ends it
	watched  bool      // it is in pollQueues.timers
	closed   bool

	due state.Timer[*pollQueue] // guarded by all.mu
}

// queueNote describes a queued packet.
type queueNote struct {
	queued time.Time
	flow   bool // a flow's packet, which may leave over any path of the session
}

// pollQueues holds the bounds and timers of a shard's queues.
type pollQueues struct {
	out       tcpWriter // nil: TCP is not served
	now       func() time.Time
	maxQueue  int // bytes of one session
	maxQueues int // bytes of all sessions of the gateway
	maxAge    time.Duration

	held                   *atomic.Int64 // bytes of all sessions of the gateway
	full, expired, renewed atomic.Uint64 // packets dropped by size and by age, Polls replaced

	closed pollQueue // stands for the queues of closed sessions

	mu      sync.Mutex
	timers  state.Deadlines[*pollQueue] // by the age of the oldest packet
	timer   *time.Timer
	stopped bool
}

func (a *pollQueues) init(c *TCP, held *atomic.Int64, now func() time.Time) {
	a.now, a.held = now, held
	a.maxQueue, a.maxQueues, a.maxAge = c.MaxHeld, c.MaxHeldInAll, c.HeldAge
	a.closed = pollQueue{all: a, closed: true}
	a.timer = time.AfterFunc(time.Hour, a.expireDue)
}

// reserve takes room for n bytes if the bound of all sessions allows it: an account has no more than
// half of what all accounts leave, but room for one packet if there is any.
func (q *pollQueue) reserve(n int) bool {
	left := int64(q.all.maxQueues) - q.all.held.Add(int64(n))
	own := q.client.account.Queued.Add(int64(n))
	if left >= 0 && (own <= left/2 || own == int64(n)) {
		return true
	}
	q.unreserve(n)
	return false
}

func (q *pollQueue) unreserve(n int) {
	q.all.held.Add(-int64(n))
	q.client.account.Queued.Add(-int64(n))
}

// push writes a packet of a flow, or of the session itself, to the waiting Poll, or queues a copy. A
// full queue drops its oldest packets. The caller calls deliver after the last packet.
func (q *pollQueue) push(packet []byte, flow bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	a, now := q.all, q.all.now()
	size := len(packet) + frameLength
	q.expire(now)
	if q.poll.IsValid() && len(q.packets) == 0 {
		if n, _ := a.out.WriteBatch([]transport.Packet{{Data: packet, Path: q.poll}}); n == 1 {
			q.answered = true
			return
		}
	}
	for q.closed || q.size+size > a.maxQueue || !q.reserve(size) {
		a.full.Add(1)
		if len(q.packets) == 0 {
			return
		}
		q.drop(1)
	}
	q.packets = append(q.packets, transport.Packet{Data: bytes.Clone(packet)})
	q.notes = append(q.notes, queueNote{now, flow})
	q.size += size
	if !q.watched {
		q.watched = true
		a.watch(q, now)
	}
}

// drop removes the n oldest packets.
func (q *pollQueue) drop(n int) {
	for i := range q.packets[:n] {
		size := len(q.packets[i].Data) + frameLength
		q.size -= size
		q.unreserve(size)
	}
	clear(q.packets[:n])
	if q.packets, q.notes = q.packets[n:], q.notes[n:]; len(q.packets) == 0 {
		q.packets, q.notes = nil, nil
	}
}

// expire drops packets that are too old.
func (q *pollQueue) expire(now time.Time) {
	n := 0
	for n < len(q.notes) && now.Sub(q.notes[n].queued) >= q.all.maxAge {
		n++
	}
	q.drop(n)
	q.all.expired.Add(uint64(n))
}

// send writes queued packets to a connection until that is full, and returns their number.
func (q *pollQueue) send(to path.Path) int {
	for i := range q.packets {
		q.packets[i].Path = to
	}
	n := 0
	if len(q.packets) > 0 {
		n, _ = q.all.out.WriteBatch(q.packets) // the rest stays queued
	}
	q.drop(n)
	return n
}

// take writes queued packets to a connection of the session and ends it. If there are none, the
// connection waits as long as its Poll asks, and replaces one that waited before.
func (q *pollQueue) take(to path.Path, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.expire(q.all.now())
	if q.send(to) > 0 || wait <= 0 || q.closed {
		q.all.out.End(to)
		return
	}
	if q.poll.IsValid() && !q.answered {
		q.all.renewed.Add(1)
	}
	q.endPoll()
	if q.all.out.Hold(to, wait) {
		q.poll = to
	}
}

// deliver writes queued packets to the waiting Poll, and ends it if it has carried any.
func (q *pollQueue) deliver() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.poll.IsValid() || len(q.packets) == 0 && !q.answered {
		return
	}
	q.send(q.poll)
	q.endPoll()
}

// endPoll ends the waiting Poll, if there is one. The caller holds mu.
func (q *pollQueue) endPoll() {
	if q.poll.IsValid() {
		q.all.out.End(q.poll)
	}
	q.poll, q.answered = path.Path{}, false
}

// redirect passes the flows' packets to send, oldest first, while the session is not on TCP, and
// drops the session's own, which were meant for TCP. It reports whether the queue is empty.
func (q *pollQueue) redirect(send func(packet []byte, to path.Path)) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.packets) > 0 {
		if packet := q.packets[0].Data; q.notes[0].flow {
			to, ok := q.client.session.PathFor(len(packet))
			if !ok || to.Transport == path.TCP {
				return false
			}
			send(packet, to)
		}
		q.drop(1)
	}
	return true
}

// close ends the waiting Poll and drops all packets.
func (q *pollQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.endPoll()
	q.drop(len(q.packets))
}

func (q *pollQueue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.packets) == 0
}

// release removes an empty queue from its session if that has left TCP. Queued packets stay until
// they are too old: a connection may still take them.
func (q *pollQueue) release() {
	if c := q.client; q.empty() && c.session.Path().Transport != path.TCP && c.queue.CompareAndSwap(q, nil) {
		q.close()
	}
}

// pollQueue returns the client's queue, and creates it if needed. It is safe for concurrent use.
func (c *client) pollQueue() *pollQueue {
	for {
		if q := c.queue.Load(); q != nil {
			return q
		}
		q := &pollQueue{all: &c.env.queues, client: c}
		if c.queue.CompareAndSwap(nil, q) {
			return q
		}
	}
}

// watch sets the timer for the age of q's oldest packet.
func (a *pollQueues) watch(q *pollQueue, oldest time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopped {
		return
	}
	at := oldest.Add(a.maxAge)
	q.due.Value = q
	a.timers.Set(&q.due, at)
	if a.timers.Next().Equal(at) {
		a.timer.Reset(max(0, at.Sub(a.now())))
	}
}

// expireDue drops the packets that are too old in the queues that are due.
func (a *pollQueues) expireDue() {
	now := a.now()
	for {
		q, ok := a.nextDue(now)
		if !ok {
			return
		}
		q.mu.Lock()
		q.expire(now)
		if len(q.packets) > 0 {
			a.watch(q, q.notes[0].queued)
		} else {
			q.watched = false
		}
		empty := !q.watched
		q.mu.Unlock()
		if empty {
			q.release()
		}
	}
}

// nextDue returns a queue that is due, or sets the timer for the next one.
func (a *pollQueues) nextDue(now time.Time) (*pollQueue, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopped {
		return nil, false
	}
	q, ok := a.timers.Pop(now)
	if at := a.timers.Next(); !ok && !at.IsZero() {
		a.timer.Reset(at.Sub(now))
	}
	return q, ok
}

// stop stops the timer.
func (a *pollQueues) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stopped, a.timers = true, state.Deadlines[*pollQueue]{}
	a.timer.Stop()
}
