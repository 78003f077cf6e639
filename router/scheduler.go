package router

import (
	"bytes"
	"time"
	"unsafe"

	"lewes/state"
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

// scheduler holds the queued handshake packets and the credit of handshakes. Sources that have proved
// their address have a queue of their own, and the queues take turns, so that spoofed packets do not
// displace or delay theirs.
type scheduler struct {
	queues [state.Classes]packetQueue
	turn   state.Class // whose packet is next
	limit  int         // packets of each queue

	creditedAt   time.Time
	credit       time.Duration // unused share
	spent        time.Duration // on handshakes in this batch
	backlogged   bool          // more packets arrive than are processed: no time is idle
	otherTime    time.Duration // spent on everything else since creditedAt
	lastDatagram time.Time     // arrival of the latest datagram of a session

	tasks, handshakes time.Duration // spent on each kind since both wait
	running           bool          // a packet that overtook its Handshake 3 may queue another
}

// packetQueue holds the handshake packets of one class of sources, oldest first.
type packetQueue struct {
	packets []queuedPacket
	head    int           // index of the oldest queued packet
	rate    time.Duration // recent wait per position in the queue
	memory  state.Share
}

type queuedPacket struct {
	header   wire.Header
	data     []byte
	from     path.Path
	arrived  time.Time
	position int // packets before it when it arrived
}

// size returns the memory that the packet takes, in bytes.
func (p *queuedPacket) size() int64 { return int64(len(p.data) + int(unsafe.Sizeof(*p))) }

func (q *packetQueue) len() int { return len(q.packets) - q.head }

func (q *packetQueue) push(p queuedPacket) {
	p.position = q.len()
	q.packets = append(q.packets, p)
	q.memory.Add(p.size())
}

func (q *packetQueue) pop() queuedPacket {
	p := q.packets[q.head]
	q.memory.Add(-p.size())
	q.packets[q.head] = queuedPacket{}
	q.head++
	if q.head*2 >= len(q.packets) {
		n := copy(q.packets, q.packets[q.head:])
		clear(q.packets[n:])
		q.packets, q.head = q.packets[:n], 0
	}
	return p
}

// rateWeight is the number of packets that rate averages.
const rateWeight = 16

// observe updates rate with the wait of a packet.
func (q *packetQueue) observe(p *queuedPacket, now time.Time) {
	if p.position > 0 {
		q.rate += (now.Sub(p.arrived)/time.Duration(p.position) - q.rate) / rateWeight
	}
}

func (q *scheduler) init(limit int, budgets *state.GatewayBudgets) {
	q.limit = limit
	for class := range q.queues {
		q.queues[class].memory = budgets.QueueShare(state.Class(class))
	}
}

func (q *scheduler) len() int { return q.queues[state.Unproved].len() + q.queues[state.Proved].len() }

// push queues a copy of a packet. At the bound of its queue, in packets or bytes, the oldest ones there
// give way. It returns their number.
func (q *scheduler) push(rx *rxContext, class state.Class) (dropped int) {
	p := queuedPacket{header: rx.header, data: bytes.Clone(rx.packet), from: rx.from, arrived: rx.now}
	queue := &q.queues[class]
	for queue.len() > 0 && (queue.len() >= q.limit || queue.memory.Full(p.size())) {
		queue.pop()
		dropped++
	}
	queue.push(p)
	return dropped
}

// pop returns the oldest packet of the queue whose turn it is. There is one.
func (q *scheduler) pop(now time.Time) queuedPacket {
	class := q.turn
	if q.queues[class].len() == 0 {
		class = state.Proved - class
	}
	q.turn = state.Proved - class
	p := q.queues[class].pop()
	q.queues[class].observe(&p, now)
	return p
}

// delay estimates the wait of a packet of a class that arrives now.
func (q *scheduler) delay(class state.Class) time.Duration {
	return time.Duration(q.queues[class].len()) * q.queues[class].rate
}

// crowded reports whether the queue of sources that may be spoofed is more than half full.
func (q *scheduler) crowded() bool { return q.queues[state.Unproved].len() > q.limit/2 }

// allowance returns the time that handshakes may still take in this batch. Where no datagram arrives, the
// time is idle otherwise and costs no credit.
func (q *scheduler) allowance(now time.Time) time.Duration {
	if now.Sub(q.lastDatagram) >= busyFor {
		q.credit, q.creditedAt, q.otherTime = slice, now, 0
		return slice - q.spent
	}
	gain := now.Sub(q.creditedAt) / shareOf
	if q.backlogged {
		gain = min(gain, q.otherTime/(shareOf-1))
	}
	q.credit = min(maxCredit, q.credit+gain)
	q.creditedAt, q.otherTime = now, 0
	return min(slice-q.spent, q.credit)
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
	p := st.scheduler.pop(now)
	if now.Sub(p.arrived) > staleAfter {
		st.counters.HandshakeStale++
		return
	}
	st.handleHandshakePacket(&rxContext{now: now, packet: p.data, from: p.from, header: p.header})
}
