package client

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"lewes/state"
	"lewes/transport"
	"lewes/transport/path"
	"lewes/transport/wire"
)

const (
	// readBatch is how many packets, trains of them mostly, one read takes.
	readBatch = 16
	// faultInterval is how often writers look into errors of the underlay.
	faultInterval = 100 * time.Millisecond
	// longestPause is how long reading waits when it brings nothing but errors.
	longestPause = 200 * time.Millisecond
)

// errDown is why a link that has ended, and was not yet replaced, sends nothing.
var errDown = errors.New("the session is being made anew")

// link is a session of the protocol: what a Session has one of, and while it is made
// anew for a moment two. Its packets go by one way at a time, of which each has a
// goroutine that reads.
//
// Its mutex guards the session's state. Writers do without it: they seal with the
// session's Sender and give the packet to the way's Conn.
type link struct {
	s   *Session
	way atomic.Pointer[way] // by which packets go

	mu      sync.Mutex
	client  *state.Client  // while the handshake is under way
	session *state.Session // set before anybody else knows the link, and never changed
	byIndex map[uint32]*state.Generation
	out     state.Output
	sending []transport.Packet
	changed chan struct{}                    // closed, and another made, at each event
	pongs   map[[8]byte]chan<- struct{}      // who waits for which Pong
	lane    *lane                            // told how the handshake goes, while it is under way; or nil
	silent  time.Time                        // when nothing had answered by any way; zero: it is heard
	ended   error                            // why the session is over
	fault   error                            // the last that the underlay said
	stats   struct{ dropped, faults uint64 } // packets of no use; errors of the underlay

	told      bool // a Reset came, or the like, and nothing authentic since
	forgotten bool // and Pings had no answer: the gateway knows the session no more
	policy    policy
	trials    []*way // by which the gateway was asked
	left      []*way // that are not used any more, but heard
	searches  uint64 // that are over
	opening   [2]int // goroutines that make trials, by transport
	polls     polls
	keepalive keepalive
	alarm     *time.Timer // nil while nobody has adopted the link
	alarmAt   time.Time

	watch       watch
	maxDatagram atomic.Int64 // largest packet that the gateway takes
	lastFault   atomic.Int64 // when a writer looked into an error
	quit        chan struct{}
	quitOnce    sync.Once
}

func newLink(s *Session, w *way) *link {
	l := &link{
		s:         s,
		byIndex:   make(map[uint32]*state.Generation),
		changed:   make(chan struct{}),
		pongs:     make(map[[8]byte]chan<- struct{}),
		keepalive: s.lastKeepalive(),
		quit:      make(chan struct{}),
	}
	l.way.Store(w)
	l.policy.udp, l.policy.tcp = s.uses()
	l.maxDatagram.Store(wire.MaxUDPPacket) // until the gateway says otherwise
	return l
}

// start begins what goes on beside reading, once the session uses the link.
func (l *link) start() {
	_ = l.with(func(now time.Time) {
		l.watch.timer = time.AfterFunc(time.Hour, l.look)
		l.watch.timer.Stop()
		l.alarm = time.AfterFunc(time.Hour, l.rang)
		l.policy.stand(now, l.way.Load().path.Transport)
	})
}

// rang does what is due by the alarm.
func (l *link) rang() {
	_ = l.with(func(now time.Time) {
		l.alarmAt = time.Time{}
		l.act(now, l.policy.tick(now, l.within()))
		l.keepalive.tick(now)
		l.session.SetKeepalive(now, l.keepalive.longest)
	})
}

// serve reads by a way until it is closed or the session is over.
func (l *link) serve(w *way) {
	pause := time.Duration(0)
	for {
		n, err := w.conn.ReadBatch(w.reading)
		l.mu.Lock()
		now := time.Now()
		l.take(now, w, w.reading[:n])
		if err != nil {
			l.wayFailed(now, w, err)
		}
		l.tick(now)
		l.settle(now)
		over, due := l.ended != nil, w.armed
		closed := over || errors.Is(err, net.ErrClosed)
		var ways []*way
		if over {
			ways = l.all()
		}
		l.mu.Unlock()
		for _, w := range ways {
			_ = w.conn.Close()
		}
		if over {
			l.s.troubled()
		}
		if closed {
			return
		}
		if pause = nextPause(pause, n, err); pause > 0 {
			wait(l.quit, pause, due)
		}
	}
}

// nextPause returns how long to wait before the next read, where reads bring
// errors and nothing else.
func nextPause(last time.Duration, n int, err error) time.Duration {
	switch {
	case err == nil || n > 0:
		return 0
	case errors.Is(err, os.ErrDeadlineExceeded):
		return last
	}
	return min(max(2*last, time.Millisecond), longestPause)
}

// wait waits for so long, but not longer than until due, unless that is zero.
func wait(quit <-chan struct{}, pause time.Duration, due time.Time) {
	if !due.IsZero() {
		pause = min(pause, time.Until(due))
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-quit:
	case <-timer.C:
	}
}

// take handles what came.
func (l *link) take(now time.Time, w *way, packets []transport.Packet) {
	for i := range packets {
		p := &packets[i]
		if p.Count() == 1 {
			l.handle(now, w, p.Data, p.Path)
			continue
		}
		for datagram := range p.Segments() {
			l.handle(now, w, datagram, p.Path)
		}
	}
}

// handle handles one packet. What it is of no use for, is dropped and counted.
func (l *link) handle(now time.Time, w *way, p []byte, from path.Path) {
	if len(p) > wire.MaxUDPPacket && w.path.Transport == path.UDP || l.accept(now, w, p, from) != nil {
		l.stats.dropped++
	}
}

func (l *link) accept(now time.Time, w *way, p []byte, from path.Path) error {
	if l.session == nil {
		err := l.client.Handle(now, p, &l.out)
		l.stand()
		return err
	}
	h, err := wire.ParseHeader(p)
	if err != nil {
		return err
	}
	switch h.Level {
	case wire.LevelTransport:
		g := l.byIndex[h.ReceiverIdx]
		if g == nil {
			return state.ErrStale
		}
		t, content, err := g.Open(now, p, from, &l.out)
		if err != nil {
			return err
		}
		l.heard(now, w)
		if t == wire.TypePing && l.leaving(w) {
			return nil
		}
		if t == wire.TypePing && len(p) == wire.MinPingPacket {
			l.keepalive.asked(now)
			l.session.SetKeepalive(now, l.keepalive.longest)
		}
		return l.message(now, g, t, content, from)
	case wire.LevelClear:
		return l.clear(now, h, p)
	}
	return state.ErrStale
}

// message handles what an opened packet holds.
func (l *link) message(now time.Time, g *state.Generation, t wire.Type, content []byte, from path.Path) error {
	switch t {
	case wire.TypeEncryptedData:
		m, err := wire.ParseEncryptedData(content)
		if err != nil {
			return err
		}
		if m.Flags != 0 {
			return wire.ErrFlags // no flow of another kind was opened
		}
		return l.deliver(now, m.FlowID, false, m.Payload)
	case wire.TypeForwardPacket:
		m, err := wire.ParseForwardPacket(content)
		if err != nil {
			return err
		}
		return l.deliver(now, m.FlowID, true, m.Inner)
	case wire.TypeFlowClosed:
		m, err := wire.ParseFlowClosed(content)
		if err != nil {
			return err
		}
		if f := l.s.flows.find(m.FlowID); f != nil {
			f.gatewayClosed(&m)
		}
		return nil
	case wire.TypePong:
		l.ponged(content)
	}
	return l.session.Control(now, g, t, content, from, &l.out)
}

// deliver gives a payload to its flow. A gateway that sends on a flow that is
// closed here is told so.
func (l *link) deliver(now time.Time, id uint16, forward bool, payload []byte) error {
	f := l.s.flows.find(id)
	if f == nil {
		if l.s.flows.straggler(id, l.s.at(now)) {
			_ = l.session.Send(wire.TypeFlowClosed, &wire.FlowClosed{FlowID: id, Reason: wire.FlowIdle}, &l.out)
		}
		return state.ErrStale
	}
	if f.to.forward() != forward {
		return state.ErrMisplaced
	}
	f.receive(l, now, payload)
	return nil
}

// clear handles a packet in clear. Once the session stands there is one that says
// anything, and it is a hint: Reset (section 11 of PROTOCOL.md).
func (l *link) clear(now time.Time, h wire.Header, p []byte) error {
	if !l.s.mac.Verify(p) {
		return state.ErrMAC1
	}
	t, content, err := wire.ParseBody(wire.Body(p))
	if err != nil {
		return err
	}
	if t != wire.TypeReset || h.ReceiverIdx != l.session.Current().Index() {
		return state.ErrStale
	}
	if _, err := wire.ParseReset(content); err != nil {
		return err
	}
	l.saidLost(now)
	return nil
}

// saidLost follows a hint that the gateway does not know the session: if Pings find it
// so, no other way is looked for.
func (l *link) saidLost(now time.Time) {
	if l.ended == nil && !l.forgotten {
		l.told = true
		l.session.Doubt(now, &l.out)
	}
}

// doubt asks the gateway for a sign of life, unless it is known to give none.
func (l *link) doubt(now time.Time) {
	if l.session != nil && l.ended == nil && l.silent.IsZero() && (l.policy.search == nil || !l.policy.search.broken) {
		l.session.Doubt(now, &l.out)
	}
}

// tick does what is due.
func (l *link) tick(now time.Time) {
	switch {
	case l.session == nil:
		l.client.Tick(now, &l.out)
	case l.ended == nil && !l.session.Deadline().IsZero() && !now.Before(l.session.Deadline()):
		l.session.Tick(now, &l.out)
	}
}

// settle follows the events that have come up, sends what there is to send and
// sees to it that the next read ends in time. Whoever has changed the session calls
// it before letting the mutex go.
func (l *link) settle(now time.Time) {
	for i := 0; i < len(l.out.Events); i++ { // an event may bring another
		l.follow(now, l.out.Events[i])
	}
	if l.alarm != nil {
		l.poll(now)
	}
	l.flush(now)
	l.out.Reset()
	l.arm(now)
}

func (l *link) follow(now time.Time, e state.Event) {
	switch e.Kind {
	case state.IndexAdded:
		l.byIndex[e.Index] = e.Generation
	case state.IndexRemoved:
		if l.byIndex[e.Index] == e.Generation {
			delete(l.byIndex, e.Index)
		}
	case state.Confirmed:
		l.session.Ping(now, wire.MinPingPacket, &l.out) // measures the round trip
	case state.Rekeyed:
		l.s.count.rekeys.Add(1)
		l.s.tell(Event{Kind: Rekeyed, Generation: e.Generation.Number()})
	case state.Silent:
		l.isSilent(now)
	case state.KeptAlive:
		l.keptAlive(now)
	case state.Closed:
		if l.ended == nil {
			l.ended = e.Reason
		}
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// isSilent looks for another way to the gateway, or for another session where the
// gateway has said that it knows this one no more.
func (l *link) isSilent(now time.Time) {
	if !l.told {
		l.act(now, l.policy.silent(now, l.within()))
		return
	}
	l.forgotten = true
	l.act(now, l.policy.forgotten(now))
	l.s.troubled()
}

// keptAlive sees to it that somebody notices where a Ping after a silence has no
// answer, and learns from what becomes of it.
func (l *link) keptAlive(now time.Time) {
	if l.alarm == nil {
		return
	}
	silence := min(now.Sub(l.session.LastOpened()), l.keepalive.longest)
	if l.way.Load().path.Transport == path.UDP && l.s.outer == nil {
		l.keepalive.pinged(now, silence, max(patience, l.within()))
	}
	l.await(l.s.at(now))
}

// flush sends the session's own packets.
func (l *link) flush(now time.Time) {
	for range 2 { // a refusal heard on sending may bring Pings
		if len(l.out.Packets) == 0 {
			break
		}
		w := l.way.Load()
		for _, p := range l.out.Packets {
			l.sending = append(l.sending, transport.Packet{Data: p.Data, Path: w.path})
		}
		_, err := w.conn.WriteBatch(l.sending)
		clear(l.sending)
		l.sending = l.sending[:0]
		clear(l.out.Packets)
		l.out.Packets = l.out.Packets[:0]
		if err != nil {
			l.wayFailed(now, w, err)
		}
	}
	if l.session != nil {
		if most := l.session.Terms().MaxDatagram; most > 0 {
			l.maxDatagram.Store(int64(most))
		}
	}
}

// arm sets the read deadline to when the session wants to be ticked.
func (l *link) arm(now time.Time) {
	var at time.Time
	switch {
	case l.ended != nil:
		at = now
	case l.session == nil:
		at = l.client.Deadline()
	default:
		at = l.session.Deadline()
	}
	if l.ended == nil && !at.IsZero() && !at.After(now) {
		at = now.Add(time.Millisecond) // whatever is due was done: not at once again
	}
	if w := l.way.Load(); at != w.armed {
		w.armed = at
		_ = w.conn.SetReadDeadline(at)
	}
	l.setAlarm(now)
}

// setAlarm sets the alarm to when the policy, a Poll or the keepalive wants it.
func (l *link) setAlarm(now time.Time) {
	if l.alarm == nil {
		return
	}
	if l.ended != nil {
		l.alarm.Stop()
		l.watch.timer.Stop()
		return
	}
	at := earliest(l.policy.deadline(), l.keepalive.judgeAt)
	if l.polls.way == nil {
		at = earliest(at, l.polls.next)
	}
	if at == l.alarmAt {
		return
	}
	if l.alarmAt = at; at.IsZero() {
		l.alarm.Stop()
		return
	}
	l.alarm.Reset(max(at.Sub(now), time.Millisecond))
}

// wayFailed notes what the Conn of a way said.
func (l *link) wayFailed(now time.Time, w *way, err error) {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
	case w == l.way.Load():
		l.underlayFailed(now, err)
	case l.ended == nil && !errors.Is(err, net.ErrClosed):
		l.stats.faults++
		l.trialFailed(now, w, err)
	}
}

// underlayFailed notes what the Conn said, and looks after the session where that
// gives reason to.
func (l *link) underlayFailed(now time.Time, err error) {
	l.stats.faults++
	var refused *FlowError
	switch {
	case errors.Is(err, net.ErrClosed):
		l.end(err)
		return
	case errors.Is(err, errMoved):
		if l.session != nil && l.ended == nil {
			l.session.Ping(now, wire.MinPingPacket, &l.out) // lets the entry know the session
		}
		return
	case errors.As(err, &refused):
		l.forwardRefused(now, refused)
		return
	}
	l.fault = err
	if errors.Is(err, transport.ErrRefused) || errors.Is(err, transport.ErrUnreachable) {
		l.doubt(now)
	}
}

// forwardRefused follows an entry's word about the flow that the session runs
// over. It came sealed: it may be believed.
func (l *link) forwardRefused(now time.Time, refused *FlowError) {
	switch refused.Reason {
	case wire.FlowIndexCollision:
		// Where no index is announced, the entry means the one in use, or says
		// again what is refused already: Pings tell which.
		if l.session != nil && l.ended == nil && !l.session.RefuseIndex(now, &l.out) {
			l.saidLost(now)
		}
	case wire.FlowUnreachable:
		l.fault = refused
		l.doubt(now)
	default:
		l.end(refused)
	}
}

// end makes the session end on this side. The caller settles.
func (l *link) end(why error) {
	if l.ended != nil {
		return
	}
	l.ended = why
	if l.session != nil {
		l.session.Close(wire.CloseDone, "", &l.out)
	}
}

// close ends the session, tells the gateway so, and ends serve.
func (l *link) close() {
	l.quitOnce.Do(func() { close(l.quit) })
	l.mu.Lock()
	l.end(ErrClosed)
	l.settle(time.Now())
	ways := l.all()
	l.mu.Unlock()
	for _, w := range ways {
		_ = w.conn.Close()
	}
}

// with calls f with the mutex held, if the session still stands, and settles. It
// returns why the session is over.
func (l *link) with(f func(now time.Time)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended != nil {
		return l.ended
	}
	now := time.Now()
	f(now)
	l.settle(now)
	return nil
}

// write seals a packet of a flow and sends it. It takes no lock.
func (l *link) write(p *outgoing) error {
	for tries := 0; ; tries++ {
		err := l.session.Sender().Seal(p.data)
		if err == nil {
			break
		}
		// The keys may have been replaced, and wiped, since they were taken.
		if tries > 0 || !errors.Is(err, state.ErrClosed) {
			return errDown
		}
	}
	l.sent()
	w := l.way.Load()
	if w.path.Transport == path.UDP && l.session.Unsearched(len(p.data)) {
		l.search(len(p.data))
	}
	p.batch[0] = transport.Packet{Data: p.data, Path: w.path}
	n, err := w.conn.WriteBatch(p.batch[:])
	if err == nil {
		return nil
	}
	l.writerFailed(w, err, len(p.data))
	if n == 1 {
		return nil // the error is about an earlier packet
	}
	return err
}

// search makes the session find out whether packets of size bytes pass.
func (l *link) search(size int) {
	_ = l.with(func(now time.Time) {
		l.session.Fits(size)
		l.session.Look(now, &l.out)
	})
}

// writerFailed lets the session know of an error that a writer met with a packet of
// size bytes: now and then, or always where it is about the size.
func (l *link) writerFailed(w *way, err error, size int) {
	if errors.Is(err, transport.ErrTooLarge) {
		_ = l.with(func(now time.Time) { l.session.TooLarge(now, size, &l.out) })
		return
	}
	now := int64(l.s.at(time.Now()))
	last := l.lastFault.Load()
	if last != 0 && now-last < int64(faultInterval) || !l.lastFault.CompareAndSwap(last, now) {
		return
	}
	_ = l.with(func(now time.Time) { l.wayFailed(now, w, err) })
}

// sendFlowClosed tells the gateway that a flow is not needed any more.
func (l *link) sendFlowClosed(id uint16) {
	p := outgoings.Get().(*outgoing)
	m := wire.FlowClosed{FlowID: id, Reason: wire.FlowIdle}
	b := wire.Begin(p.buf[:0], 0, wire.LevelTransport, 0, wire.TypeFlowClosed)
	p.data = wire.Finish(m.Append(b))
	_ = l.write(p)
	p.free()
}
