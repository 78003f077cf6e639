package client

import (
	"errors"
	"net"
	"os"
	"time"

	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

// connState is the part of a sessionConn that its lock guards.
type connState struct {
	c *sessionConn // the owner, for its immutable and atomic fields and its goroutines
	s *Session

	attempt attempt
	client  *state.Client // the handshake
	keySets map[uint32]*state.KeySet
	out     state.Output
	sending []transport.Packet
	changed chan struct{}               // closed and replaced at each event
	pongs   map[[8]byte]chan<- struct{} // waiting Pings, by token
	// registering receives the answer to a Register; nil: none waits. settled: the session is registered
	// or does without.
	registering chan<- *wire.RegisterResult
	settled     bool

	dials *dialQueue // observes the handshake; nil after it

	doubtedAt      time.Time // when a check had no answer; zero: something was answered since
	unresponsiveAt time.Time // when no path answered any more; zero: one does
	ended          error     // the reason for the end
	networkErr     error     // the socket's last
	discarded      uint64    // packets
	networkErrors  uint64

	policy    pathPolicy
	paths     pathSet
	poller    poller
	keepalive keepalive
	lastRTT   time.Duration // of the previous sessionConn; 0: unknown
	timer     *time.Timer   // nil before start
	timerAt   time.Time
}

// tick runs the timers of the protocol.
func (st *connState) tick(now time.Time) {
	session := st.c.session
	switch {
	case session == nil:
		st.client.Tick(now, &st.out)
	case st.ended == nil && !session.Deadline().IsZero() && !now.Before(session.Deadline()):
		if conn, ok := st.c.active.Load().conn.(Exchanger); ok {
			session.NoteTaken(conn.Taken())
		}
		session.Tick(now, &st.out)
	}
}

// flush handles the pending events, sends the pending packets and sets the deadlines.
// Every change of the session is followed by flush before the lock is released.
func (st *connState) flush(now time.Time) {
	for i := 0; i < len(st.out.Events); i++ { // handling one may add another
		st.handleEvent(now, st.out.Events[i])
	}
	if st.timer != nil {
		st.poll(now)
	}
	st.send(now)
	st.out.Reset()
	st.setReadDeadline(now)
	st.setTimer(now)
}

func (st *connState) handleEvent(now time.Time, e state.Event) {
	switch e.Kind {
	case state.IndexAdded:
		st.keySets[e.Index] = e.KeySet
	case state.IndexRemoved:
		if st.keySets[e.Index] == e.KeySet {
			delete(st.keySets, e.Index)
		}
	case state.Confirmed:
		st.ping(now) // measures the round trip
	case state.Rekeyed:
		st.s.count.rekeys.Add(1)
		st.s.emit(Event{Kind: Rekeyed, Generation: e.KeySet.Number()})
	case state.PeerUnresponsive:
		st.handleUnresponsive(now)
	case state.KeepaliveSent:
		st.handleKeepalive(now)
	case state.Registered:
		st.handleRegistered(e.Result)
	case state.Closed:
		if st.ended == nil {
			st.ended = e.Reason
		}
	}
	close(st.changed)
	st.changed = make(chan struct{})
}

// ping sends a Ping of the smallest size on the active path.
func (st *connState) ping(now time.Time) {
	st.c.session.Ping(now, wire.MinPingPacket, &st.out)
}

// handleUnresponsive handles a Ping without an answer in time: the client asks again, asks by a hello
// whether the gateway still holds the session, and tries other paths after a while.
func (st *connState) handleUnresponsive(now time.Time) {
	since := st.c.session.DoubtedSince()
	if outer := st.s.outer; outer != nil {
		outer.carries.Store(false)
		outer.conn.Load().checkLiveness()
	}
	why := unanswered
	if st.c.session.LastOpened().After(since) {
		why = oneWay
	}
	st.doubt(now, since, since.Add(max(minDoubt, 3*st.c.session.RTT())), why)
	st.askBeside(now)
}

// minDoubt is the shortest time that a client asks on the active path alone.
const minDoubt = time.Second

// doubt makes the policy ask on the active path, and on others from a time on.
func (st *connState) doubt(now, since, searchAt time.Time, why string) {
	st.apply(now, st.policy.doubt(now, since, searchAt, st.responseTime(), why))
}

// noteAnswered handles the proof that the gateway has received what was sent at a time on the active path.
func (st *connState) noteAnswered(now, sent time.Time) {
	if outer := st.s.outer; outer != nil {
		outer.carries.Store(true)
		outer.conn.Load().noteAnswered(sent)
	}
	st.apply(now, st.policy.answered(now, sent))
	if !st.policy.doubting() {
		st.endDoubt()
	}
}

// handleKeepalive expects an answer to a keepalive, and measures the NAT's timeout by it.
func (st *connState) handleKeepalive(now time.Time) {
	if st.timer == nil {
		return
	}
	idle := min(now.Sub(st.c.session.LastOpened()), st.keepalive.interval)
	if st.c.active.Load().path.Transport == path.UDP && st.s.outer == nil {
		st.keepalive.sent(now, idle, max(minResponse, st.responseTime()))
	}
}

// send sends the session's own packets.
func (st *connState) send(now time.Time) {
	for range 2 { // an error on sending may add Pings
		if len(st.out.Packets) == 0 {
			break
		}
		to := st.c.active.Load()
		for _, p := range st.out.Packets {
			st.sending = append(st.sending, transport.Packet{Data: p.Data, Path: to.path})
		}
		_, err := to.conn.WriteBatch(st.sending)
		clear(st.sending)
		st.sending = st.sending[:0]
		clear(st.out.Packets)
		st.out.Packets = st.out.Packets[:0]
		if err != nil {
			st.pathFailed(now, to, err)
		}
	}
	if st.c.session != nil {
		if most := st.c.session.Terms().MaxDatagram; most > 0 {
			st.c.maxDatagram.Store(int64(most))
		}
	}
}

// setReadDeadline makes the active path's reader return when the session has to tick.
func (st *connState) setReadDeadline(now time.Time) {
	var at time.Time
	switch {
	case st.ended != nil:
		at = now
	case st.c.session == nil:
		at = st.client.Deadline()
	default:
		at = st.c.session.Deadline()
	}
	if st.ended == nil && !at.IsZero() && !at.After(now) {
		at = now.Add(time.Millisecond) // tick has run already
	}
	if p := st.c.active.Load(); at != p.deadline {
		p.deadline = at
		_ = p.conn.SetReadDeadline(at)
	}
}

// setTimer sets the timer to the next deadline of the policy, the poller and the keepalive.
func (st *connState) setTimer(now time.Time) {
	if st.timer == nil {
		return
	}
	if st.ended != nil {
		st.timer.Stop()
		return
	}
	at := earliest(st.policy.deadline(), st.keepalive.checkAt)
	if st.poller.path == nil {
		at = earliest(at, st.poller.next)
	}
	if at == st.timerAt {
		return
	}
	if st.timerAt = at; at.IsZero() {
		st.timer.Stop()
		return
	}
	st.timer.Reset(max(at.Sub(now), time.Millisecond))
}

// pathFailed handles an error of a path's Conn.
func (st *connState) pathFailed(now time.Time, p *gatewayPath, err error) {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
	case p == st.c.active.Load():
		st.activePathFailed(now, err)
	case st.ended == nil && !isClosed(err):
		st.networkErrors++
		st.probeFailed(now, p, err)
	}
}

// activePathFailed handles an error of the active path, and checks the gateway's liveness
// if the error gives reason to.
func (st *connState) activePathFailed(now time.Time, err error) {
	st.networkErrors++
	var refused *FlowError
	switch {
	case isClosed(err):
		st.end(err)
		return
	case errors.Is(err, errOuterReplaced):
		if st.c.session != nil && st.ended == nil {
			st.ping(now) // makes the entry register the index again
		}
		return
	case errors.As(err, &refused):
		st.forwardRefused(now, refused)
		return
	}
	st.networkErr = err
	switch {
	case errors.Is(err, transport.ErrDenied): // by this machine: no packet can be lost or forged
		if st.c.session != nil && st.ended == nil && !st.policy.lost() {
			st.c.session.CheckLiveness(now, &st.out)
			st.doubt(now, now, now, denied)
		}
	case errors.Is(err, transport.ErrRefused) || errors.Is(err, transport.ErrUnreachable):
		st.checkLiveness(now)
	}
}

// forwardRefused handles an entry's FlowClosed for the flow that the session runs over.
// It is authentic.
func (st *connState) forwardRefused(now time.Time, refused *FlowError) {
	switch refused.Reason {
	case ReasonIndexCollision:
		switch {
		case st.c.session == nil || st.ended != nil:
		case !st.c.session.Confirmed(): // Handshake 3 did not pass: another attempt has another index
			st.askBeside(now)
		case !st.c.session.RejectIndex(now, &st.out):
			// The entry means the index in use, or repeats itself, or means that of a
			// handshake on the same flow: Pings decide.
			st.checkLiveness(now)
		}
	case ReasonUnreachable:
		st.networkErr = refused
		st.checkLiveness(now)
	default:
		st.end(refused)
	}
}

// checkLiveness probes the gateway, unless it is known to be unresponsive.
func (st *connState) checkLiveness(now time.Time) {
	if st.c.session != nil && st.ended == nil && st.unresponsiveAt.IsZero() && !st.policy.broken() {
		st.c.session.CheckLiveness(now, &st.out)
	}
}

// end ends the session on this side. The caller flushes.
func (st *connState) end(err error) {
	if st.ended != nil {
		return
	}
	st.ended = err
	if st.c.session != nil {
		st.c.session.Close(wire.CloseDone, "", &st.out)
	}
}

// responseTime is how long the gateway may take to answer.
func (st *connState) responseTime() time.Duration { return st.c.session.AnswerTime() }

func isClosed(err error) bool { return errors.Is(err, net.ErrClosed) }
