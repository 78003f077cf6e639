package router

import (
	"bytes"
	"time"

	"lewes/state/parts"
	"lewes/state/path"
	"lewes/state/wire"
)

// A handshake costs as much as hundreds of datagrams. Handshake packets therefore wait in a queue
// that a deficit scheduler serves in short slices: while datagrams arrive, handshakes get at most a
// quarter of the shard's time, so that sessions keep 70 % of their throughput in any flood.
const (
	slice      = time.Millisecond      // of handshakes in one batch
	maxCredit  = 3 * time.Millisecond  // bound of an unused share
	shareOf    = 4                     // handshakes get one part in four
	busyFor    = 10 * time.Millisecond // after a datagram the shard counts as busy
	staleAfter = time.Second           // the client has retransmitted by then
)

// maxHandshakePacket is the size of the longest handshake message in one packet (section 1).
const maxHandshakePacket = wire.Overhead + wire.PartHeaderSize + parts.MaxHandshake

// scheduler holds the queued handshake packets, oldest first, and the credit of handshakes.
type scheduler struct {
	queue []queuedPacket
	head  int // index of the oldest queued packet
	limit int // packets

	creditedAt   time.Time
	credit       time.Duration // unused share
	spent        time.Duration // on handshakes in this batch
	backlogged   bool          // more packets arrive than are processed: no time is idle
	otherTime    time.Duration // spent on everything else since creditedAt
	lastDatagram time.Time     // arrival of the latest datagram of a session
	queueRate    time.Duration // recent wait per position in the queue

	tasks, handshakes time.Duration // spent on each kind since both wait
	running           bool          // a packet that overtook its Handshake 3 may queue another
}

type queuedPacket struct {
	header   wire.Header
	data     []byte
	from     path.Path
	arrived  time.Time
	position int // packets before it when it arrived
}

func (q *scheduler) len() int { return len(q.queue) - q.head }

// push queues a copy of a packet. A full queue drops its oldest.
func (q *scheduler) push(rx *rxContext) (dropped bool) {
	if q.len() >= q.limit {
		q.pop()
		dropped = true
	}
	q.queue = append(q.queue, queuedPacket{rx.header, bytes.Clone(rx.packet), rx.from, rx.now, q.len()})
	return dropped
}

func (q *scheduler) pop() queuedPacket {
	p := q.queue[q.head]
	q.queue[q.head] = queuedPacket{}
	if q.head++; q.head == len(q.queue) {
		q.queue, q.head = q.queue[:0], 0
	} else if q.head >= q.limit {
		n := copy(q.queue, q.queue[q.head:])
		clear(q.queue[n:])
		q.queue, q.head = q.queue[:n], 0
	}
	return p
}

// rateWeight is the number of packets that queueRate averages.
const rateWeight = 16

// observe updates queueRate with the wait of a packet.
func (q *scheduler) observe(p *queuedPacket, now time.Time) {
	if p.position > 0 {
		q.queueRate += (now.Sub(p.arrived)/time.Duration(p.position) - q.queueRate) / rateWeight
	}
}

// delay estimates the wait of a packet that arrives now.
func (q *scheduler) delay() time.Duration { return time.Duration(q.len()) * q.queueRate }

// allowance returns the time that handshakes may take in this batch.
func (q *scheduler) allowance(now time.Time) time.Duration {
	if now.Sub(q.lastDatagram) >= busyFor {
		return slice
	}
	gain := now.Sub(q.creditedAt) / shareOf
	if q.backlogged {
		gain = min(gain, q.otherTime/(shareOf-1))
	}
	q.credit = min(maxCredit, q.credit+gain)
	q.creditedAt, q.otherTime = now, 0
	return min(slice, q.credit)
}

// charge deducts time from the credit.
func (q *scheduler) charge(took time.Duration) {
	q.credit -= took
	q.spent += took
}

// endBatch accounts for a batch. In a backlogged shard only its own time earns credit: the time
// between batches went to other programs.
func (q *scheduler) endBatch(took time.Duration) {
	q.otherTime += max(0, took-q.spent)
	q.spent = 0
}

// runQueued processes queued handshake packets and tasks within their share of the time, half of it
// for each kind while both wait. The rest waits for the next batch, at the latest for the timer. It
// reads the clock itself, because it may run several times in one batch.
func (st *shardState) runQueued() {
	q := &st.scheduler
	if q.len() == 0 && st.work.len() == 0 || q.running {
		return
	}
	q.running = true
	defer func() { q.running = false }()
	start := st.now()
	now, allowed := start, q.allowance(start)
	for (q.len() > 0 || st.work.len() > 0) && now.Sub(start) < allowed {
		began := now
		if st.work.len() > 0 && (q.len() == 0 || q.tasks < q.handshakes) {
			t := st.work.pop()
			st.runTask(now, &t)
			now = st.now()
			st.counters.RequestTime += now.Sub(began)
			q.tasks += now.Sub(began)
		} else {
			st.runHandshake(now)
			now = st.now()
			st.counters.HandshakeTime += now.Sub(began)
			q.handshakes += now.Sub(began)
		}
		if q.len() == 0 || st.work.len() == 0 {
			q.tasks, q.handshakes = 0, 0
		}
	}
	q.charge(now.Sub(start))
}

// runHandshake processes the oldest queued handshake packet.
func (st *shardState) runHandshake(now time.Time) {
	p := st.scheduler.pop()
	st.scheduler.observe(&p, now)
	if now.Sub(p.arrived) > staleAfter {
		st.counters.HandshakeStale++
		return
	}
	st.handleHandshakePacket(&rxContext{now: now, packet: p.data, from: p.from, header: p.header})
}
