package router

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/udp"
)

const (
	// flowPrefix is what stands before a payload on its way to a client.
	flowPrefix = wire.HeaderSize + wire.PrefixSize + wire.FlowHeaderSize
	// flowOverhead is what a payload's packet has more than the payload.
	flowOverhead = flowPrefix + wire.TrailerSize
	// pumpBatch is how many trains a pump reads at once.
	pumpBatch = 8
	// troubleWait is how long a pump waits after an error, so that a target which
	// keeps refusing costs little.
	troubleWait = 10 * time.Millisecond
)

// returning is what packets come back to: a flow, or the way to another gateway.
type returning interface {
	// giveBack seals what came at now for clients. It takes no turn: it seals with the
	// session's Sender.
	giveBack(now time.Time, w *writer, batch []transport.Packet)
	// trouble is told of what ICMP says of the other end.
	trouble(err error)
}

// turnReturn has what comes on conn brought back until it is closed: by the shard's loop, or by
// a pump where the system has none.
func (s *Shard) turnReturn(conn transport.Conn, r returning) {
	if u, ok := conn.(*udp.Conn); ok && s.returns != nil && s.returns.poller.Adopt(u, r) == nil {
		return
	}
	if !s.paused { // or else the end of the pause comes back to it
		s.pumps.Add(1)
		go s.pump(conn, r)
	}
}

// returnLoop brings back what comes on all of a shard's sockets towards targets and other
// gateways. It is the udp.Handler of their Poller.
type returnLoop struct {
	shard  *Shard
	poller *udp.Poller
	writer *writer
	now    time.Time // of this round; zero until it is asked for
}

func newReturnLoop(s *Shard) (*returnLoop, error) {
	poller, err := udp.NewPoller()
	if err != nil {
		return nil, err
	}
	return &returnLoop{shard: s, poller: poller, writer: newWriter()}, nil
}

// run is over when the Poller is stopped.
func (l *returnLoop) run() error { return l.poller.Run(l) }

// Received implements udp.Handler.
func (l *returnLoop) Received(user any, batch []transport.Packet) {
	if l.now.IsZero() {
		l.now = l.shard.now()
	}
	user.(returning).giveBack(l.now, l.writer, batch)
}

// Failed implements udp.Handler.
func (l *returnLoop) Failed(user any, err error) { user.(returning).trouble(err) }

// Done implements udp.Handler.
func (l *returnLoop) Done() {
	l.writer.flush(l.shard)
	l.now = time.Time{}
}

// pump brings back what comes on one socket, until it is closed or the gateway
// pauses.
func (s *Shard) pump(conn transport.Conn, r returning) {
	defer s.pumps.Done()
	var batch [pumpBatch]transport.Packet
	for {
		n, err := conn.ReadBatch(batch[:])
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil {
			r.trouble(err)
			time.Sleep(troubleWait)
			continue
		}
		w := writers.Get().(*writer)
		r.giveBack(s.now(), w, batch[:n])
		w.flush(s)
		writers.Put(w)
	}
}

// giveBack implements returning.
func (f *flow) giveBack(now time.Time, w *writer, batch []transport.Packet) {
	if f.dropped.Load() {
		for i := range batch {
			f.client.shard.counters.clientFailed.Add(uint64(batch[i].Count()))
		}
		return
	}
	f.lastDown.Store(now.UnixNano())
	for i := range batch {
		for payload := range batch[i].Segments() {
			w.data(f.client.shard, f.client.session, f.id, payload)
		}
	}
}

// trouble implements returning.
func (f *flow) trouble(err error) {
	s := f.client.shard
	s.Turn(func(time.Time) { s.turnTrouble(f, err) })
}

// turnTrouble closes a flow whose target cannot be reached, as ICMP says.
func (s *Shard) turnTrouble(f *flow, err error) {
	if f.client.flows[f.id] != f {
		return
	}
	switch {
	case errors.Is(err, transport.ErrRefused):
		s.turnClose(f, wire.FlowUnreachable, "the target refuses: nothing listens on that port")
	case errors.Is(err, transport.ErrUnreachable):
		s.turnClose(f, wire.FlowUnreachable, "the target cannot be reached")
	default:
		s.counters.EgressFailed++
	}
}

// writer seals packets for clients into one buffer, so that those of one session
// lie beside each other and leave as one train.
type writer struct {
	buffer  []byte
	packets []transport.Packet
	held    []*downstream // of sessions on TCP, that something was added to
}

// writerSize holds the largest train and its packets' overhead.
const writerSize = 96 << 10

var writers = sync.Pool{New: func() any { return newWriter() }}

func newWriter() *writer { return &writer{buffer: make([]byte, 0, writerSize)} }

// data seals a payload of a flow for its client.
func (w *writer) data(s *Shard, session *state.Session, id uint16, payload []byte) {
	if w.flowPacket(s, session, wire.TypeEncryptedData, id, payload) {
		s.counters.downPackets.Add(1)
		s.counters.downBytes.Add(uint64(len(payload)))
	}
}

// flowPacket seals one packet of a flow: payload is a datagram or an inner
// packet.
func (w *writer) flowPacket(s *Shard, session *state.Session, t wire.Type, id uint16, payload []byte) bool {
	size := flowOverhead + len(payload)
	if !fits(session, t, size) {
		s.counters.tooLarge.Add(1)
		return false
	}
	if len(w.buffer)+size > cap(w.buffer) {
		w.flush(s)
	}
	sender := session.Sender()
	start := len(w.buffer)
	b := wire.Begin(w.buffer, sender.Index(), wire.LevelTransport, 0, t)
	b = append(b, byte(id), byte(id>>8), 0)
	b = wire.Finish(append(b, payload...))
	packet := b[start:len(b):len(b)]
	if sender.Seal(packet) != nil { // the session has ended
		s.counters.clientFailed.Add(1)
		return false
	}
	to := session.PathFor(size)
	if to.Transport == path.TCP {
		if s.down.out == nil { // a predecessor served it
			s.counters.clientFailed.Add(1)
			return false
		}
		d := session.User.(*client).downstream()
		d.push(packet, true)
		w.held = append(w.held, d)
		return true
	}
	w.buffer = b
	w.packets = append(w.packets, transport.Packet{Data: packet, Path: to})
	return true
}

// fits reports whether a packet of a flow reaches the client whole. Over TCP any
// does, but that inner packets are datagrams somewhere on their way.
func fits(session *state.Session, t wire.Type, size int) bool {
	switch {
	case session.Path().Transport != path.TCP:
		return session.Fits(size)
	case t == wire.TypeForwardPacket:
		return size <= wire.MaxUDPPacket
	}
	return size <= wire.MaxTCPPacket
}

// flush sends what was sealed, each run of packets by the socket of its path.
func (w *writer) flush(s *Shard) {
	s.counters.clientFailed.Add(writeRuns(s.out, w.packets))
	for _, d := range w.held {
		d.deliver()
	}
	clear(w.packets)
	clear(w.held)
	w.buffer, w.packets, w.held = w.buffer[:0], w.packets[:0], w.held[:0]
}
