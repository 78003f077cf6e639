package client

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
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
	byIndex map[uint32]*state.KeySet
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
		byIndex:   make(map[uint32]*state.KeySet),
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

// saidLost follows a hint that the gateway does not know the session: if Pings find it
// so, no other way is looked for.
func (l *link) saidLost(now time.Time) {
	if l.ended == nil && !l.forgotten {
		l.told = true
		l.session.CheckLiveness(now, &l.out)
	}
}

// doubt asks the gateway for a sign of life, unless it is known to give none.
func (l *link) doubt(now time.Time) {
	if l.session != nil && l.ended == nil && l.silent.IsZero() && (l.policy.search == nil || !l.policy.search.broken) {
		l.session.CheckLiveness(now, &l.out)
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
		l.byIndex[e.Index] = e.KeySet
	case state.IndexRemoved:
		if l.byIndex[e.Index] == e.KeySet {
			delete(l.byIndex, e.Index)
		}
	case state.Confirmed:
		l.session.Ping(now, wire.MinPingPacket, &l.out) // measures the round trip
	case state.Rekeyed:
		l.s.count.rekeys.Add(1)
		l.s.tell(Event{Kind: Rekeyed, Generation: e.KeySet.Number()})
	case state.PeerUnresponsive:
		l.isSilent(now)
	case state.KeepaliveSent:
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
		if l.session != nil && l.ended == nil && !l.session.RejectIndex(now, &l.out) {
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
