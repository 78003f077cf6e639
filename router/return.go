package router

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"lewes/router/meter"
	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/udp"
)

const (
	// flowPrefix is the number of bytes before the payload of a packet to a client.
	flowPrefix = wire.HeaderSize + wire.PrefixSize + wire.FlowHeaderSize
	// flowOverhead is the number of bytes that a packet adds to its payload.
	flowOverhead = flowPrefix + wire.TrailerSize
	// readLoopBatch is the number of packets or GSO trains that a readLoop reads at once.
	readLoopBatch = 8
	// errorPause is the pause of a readLoop after an error, which bounds the cost of a target
	// that keeps refusing.
	errorPause = 10 * time.Millisecond
)

// returnPath receives the packets of a socket towards a target or another gateway.
type returnPath interface {
	// handleReturn seals packets that arrived at now for clients. It does not take the shard's
	// lock: it seals with the session's Sender.
	handleReturn(now time.Time, w *writer, batch []transport.Packet)
	// handleSocketError handles an ICMP error reported on the socket.
	handleSocketError(err error)
}

// startReturn passes the packets of conn to r until conn is closed: in the shard's return loop, or
// in a goroutine where the system has no poller.
func (st *shardState) startReturn(conn transport.Conn, r returnPath) {
	if u, ok := conn.(*udp.Conn); ok && st.returns != nil && st.returns.poller.Adopt(u, r) == nil {
		return
	}
	if !st.paused { // otherwise resume starts it
		env := st.shardEnv
		env.returnLoops.Go(func() { env.readLoop(conn, r) })
	}
}

// returnLoop reads all of a shard's sockets towards targets and other gateways. It is the
// udp.Handler of their Poller.
type returnLoop struct {
	env    *shardEnv
	poller *udp.Poller
	writer *writer
	now    time.Time // of this round; zero until it is read
}

// addReturnLoop creates a shard's return loop where the system supports it.
func (g *Gateway) addReturnLoop(s *Shard) {
	poller, err := udp.NewPoller()
	if err == nil {
		s.returns = &returnLoop{env: s.shardEnv, poller: poller, writer: newWriter()}
	} else if !errors.Is(err, errors.ErrUnsupported) {
		g.log.Warn("no poller for the sockets of flows; each gets a goroutine", zap.Int("shard", s.id), zap.Error(err))
	}
}

// startReturnLoop runs a shard's return loop until its poller is stopped.
func (g *Gateway) startReturnLoop(s *Shard) {
	if s.returns == nil {
		return
	}
	g.returnLoops.Go(func() {
		if err := s.returns.poller.Run(s.returns); err != nil {
			g.log.Error("shard return loop stopped", zap.Int("shard", s.id), zap.Error(err))
		}
	})
}

// Received implements udp.Handler.
func (l *returnLoop) Received(user any, batch []transport.Packet) {
	if l.now.IsZero() {
		l.now = l.env.now()
	}
	user.(returnPath).handleReturn(l.now, l.writer, batch)
}

// Failed implements udp.Handler.
func (l *returnLoop) Failed(user any, err error) { user.(returnPath).handleSocketError(err) }

// Done implements udp.Handler.
func (l *returnLoop) Done() {
	l.writer.flush(l.env)
	l.now = time.Time{}
}

// readLoop reads one socket until it is closed or the gateway pauses.
func (env *shardEnv) readLoop(conn transport.Conn, r returnPath) {
	var batch [readLoopBatch]transport.Packet
	for {
		n, err := conn.ReadBatch(batch[:])
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil {
			r.handleSocketError(err)
			time.Sleep(errorPause)
			continue
		}
		w := writers.Get().(*writer)
		r.handleReturn(env.now(), w, batch[:n])
		w.flush(env)
		writers.Put(w)
	}
}

// handleReturn implements returnPath.
func (f *flow) handleReturn(now time.Time, w *writer, batch []transport.Packet) {
	env := f.client.env
	if f.dropped.Load() {
		for i := range batch {
			env.returned.failed.Add(uint64(batch[i].Count()))
		}
		return
	}
	f.lastDown.Store(now.UnixNano())
	var datagrams, bytes uint64
	for i := range batch {
		f.answered.Add(uint64(batch[i].Count()))
		for payload := range batch[i].Segments() {
			if !f.client.account.Pass(now, len(payload)) {
				env.returned.overRate.Add(1)
			} else if w.flowPacket(f.client, wire.TypeEncryptedData, f.id, payload) {
				datagrams++
				bytes += uint64(len(payload))
			}
		}
	}
	env.returned.datagrams.Add(datagrams)
	env.returned.bytes.Add(bytes)
	f.client.stats.addDown(datagrams, bytes)
}

// handleSocketError implements returnPath. The shard's next batch handles the error.
func (f *flow) handleSocketError(err error) {
	if f.errorQueued.CompareAndSwap(false, true) {
		f.client.env.errors.push(socketError{f, err})
	}
}

// socketError is an ICMP error reported on a flow's socket.
type socketError struct {
	flow *flow
	err  error
}

// socketErrors passes errors from the return loop to the shard, at most one per flow.
type socketErrors struct {
	wake   func() // runs a batch
	queued atomic.Bool

	mu   sync.Mutex
	list []socketError
}

// push queues an error. The first one wakes the shard, in a goroutine of its own, after a pause
// in which a busy shard handles it with its next batch.
func (q *socketErrors) push(e socketError) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.list = append(q.list, e)
	if q.queued.CompareAndSwap(false, true) {
		time.AfterFunc(slice, q.wake)
	}
}

// take returns the queued errors.
func (q *socketErrors) take() []socketError {
	if !q.queued.Load() {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	list := q.list
	q.list = nil
	q.queued.Store(false)
	return list
}

// minFailure is how long a target that has answered before must fail before ICMP ends its flow.
const minFailure = time.Second

// failure is what ICMP has reported of a flow's target since the last answer. Anyone can forge it, so
// that one error proves nothing.
type failure struct {
	first time.Time // zero: none was reported
	asked time.Time // the first datagram sent after it; zero: none
}

// reported handles an error. It reports whether the target is unreachable: datagrams were sent after
// another error and drew this one, and no answer. A flow that had answers gets time for one.
func (e *failure) reported(now, lastAnswer time.Time) bool {
	if e.first.IsZero() || lastAnswer.After(e.first) {
		*e = failure{first: now}
		return false
	}
	return !e.asked.IsZero() && (lastAnswer.IsZero() || now.Sub(e.asked) >= minFailure)
}

// sent notes a datagram.
func (e *failure) sent(now time.Time) {
	if !e.first.IsZero() && e.asked.IsZero() {
		e.asked = now
	}
}

// handleSocketErrors closes the flows whose target is unreachable according to ICMP.
func (st *shardState) handleSocketErrors(now time.Time) {
	for _, e := range st.errors.take() {
		f := e.flow
		f.errorQueued.Store(false)
		if f.client.flows[f.id] != f {
			continue
		}
		refused, unreachable := errors.Is(e.err, transport.ErrRefused), errors.Is(e.err, transport.ErrUnreachable)
		switch {
		case (refused || unreachable) && st.tryNext(now, f):
			f.icmp = failure{}
		case (refused || unreachable) && !f.icmp.reported(now, f.returnedAt()):
		case refused:
			st.closeFlow(f, wire.FlowUnreachable, "the target refuses: nothing listens on that port")
		case unreachable:
			st.closeFlow(f, wire.FlowUnreachable, "the target cannot be reached")
		default:
			st.counters.EgressFailed++
		}
	}
}

// writer seals packets for clients into one buffer, so that the packets of one session are adjacent
// and leave as one GSO train.
type writer struct {
	buffer  []byte
	packets []transport.Packet
	queues  []*pollQueue    // of sessions on TCP, with new packets
	owners  []*indexBinding // scratch of upstream.handleReturn
}

// writerSize holds the largest GSO train with its packets' overhead.
const writerSize = 96 << 10

var writers = sync.Pool{New: func() any { return newWriter() }}

func newWriter() *writer { return &writer{buffer: make([]byte, 0, writerSize)} }

// flowPacket charges and seals a packet of a flow: payload is a datagram or an inner packet. It returns
// false, and counts the reason, if the packet is dropped.
func (w *writer) flowPacket(c *client, t wire.Type, id uint16, payload []byte) bool {
	env, session, size := c.env, c.session, flowOverhead+len(payload)
	if !fits(session, t, size) {
		env.returned.tooLarge.Add(1)
		return false
	}
	to, ok := session.PathFor(size)
	switch {
	case !ok:
		env.returned.unvalidated.Add(1)
		return false
	case to.Transport == path.TCP && env.queues.out == nil: // a predecessor served TCP
		env.returned.failed.Add(1)
		return false
	}
	switch c.charge(len(payload)) { // last: what is charged is sent unless the session has just closed
	case meter.UsedUp:
		env.returned.usedUp.Add(1)
		return false
	case meter.Stopped:
		env.returned.notRecorded.Add(1)
		return false
	}
	if len(w.buffer)+size > cap(w.buffer) {
		w.flush(env)
	}
	sender := session.Sender()
	start := len(w.buffer)
	b := wire.Begin(w.buffer, sender.Index(), wire.LevelTransport, 0, t)
	b = append(b, byte(id), byte(id>>8), 0)
	b = wire.Finish(append(b, payload...))
	packet := b[start:len(b):len(b)]
	if sender.Seal(packet) != nil { // the session is closed
		env.returned.failed.Add(1)
		return false
	}
	if to.Transport == path.TCP {
		q := c.pollQueue()
		q.push(packet, true)
		w.queues = append(w.queues, q)
		return true
	}
	w.buffer = b
	w.packets = append(w.packets, transport.Packet{Data: packet, Path: to})
	return true
}

// fits reports whether a packet of a flow reaches the client whole. TCP carries any packet, but an
// inner packet is a datagram somewhere on its way.
func fits(session *state.Session, t wire.Type, size int) bool {
	switch {
	case session.Path().Transport != path.TCP:
		return session.Fits(size)
	case t == wire.TypeForwardPacket:
		return size <= wire.MaxUDPPacket
	}
	return size <= wire.MaxTCPPacket
}

// flush sends the sealed packets, each run of them by the socket of its path.
func (w *writer) flush(env *shardEnv) {
	for _, q := range w.queues {
		q.deliver()
		w.followToUDP(env, q)
	}
	env.returned.failed.Add(writeRuns(env.out, w.packets))
	clear(w.packets)
	clear(w.queues)
	w.buffer, w.packets, w.queues = w.buffer[:0], w.packets[:0], w.queues[:0]
}

// followToUDP takes the packets of a session that has left TCP since they were queued: the batch that
// redirects a queue may have found it empty.
func (w *writer) followToUDP(env *shardEnv, q *pollQueue) {
	if q.client == nil {
		return
	}
	if to, ok := q.client.session.PathFor(wire.MaxTCPPacket); !ok || to.Transport == path.TCP {
		return
	}
	q.redirect(func(packet []byte, to path.Path) {
		if q.client.session.Fits(len(packet)) {
			w.packets = append(w.packets, transport.Packet{Data: packet, Path: to})
		} else {
			env.returned.tooLarge.Add(1)
		}
	})
}
