package client

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/tcp"
)

// linger is how long a way that is not used any more is listened on: packets may be
// on it still.
const linger = 3 * time.Second

// Exchanger is a Conn over TCP, where each packet has a connection of its own.
// *tcp.Conn is one.
type Exchanger interface {
	transport.Conn
	// Send sends one packet that the gateway may answer only after wait, and tells
	// from another goroutine when its connection is over.
	Send(packet []byte, wait time.Duration, ended func(answers int, err error)) error
}

// way is a Conn by which a link reaches the gateway, or may.
type way struct {
	conn    transport.Conn
	path    path.Path
	reading []transport.Packet
	armed   time.Time // the Conn's read deadline
}

func newWay(conn transport.Conn, at path.Path) *way {
	return &way{conn: conn, path: at, reading: make([]transport.Packet, readBatch)}
}

// reach makes a way to an address of the gateway.
func (s *Session) reach(ctx context.Context, t path.Transport, to netip.Addr) (*way, error) {
	if t == path.TCP {
		at := netip.AddrPortFrom(to, s.gateway.PortForTCP())
		conn, err := s.config.UnderlayTCP(ctx, at)
		if err != nil {
			return nil, err
		}
		return newWay(conn, path.NewTCP(at, netip.Addr{}, 0)), nil
	}
	at := netip.AddrPortFrom(to, s.gateway.Port)
	conn, err := s.config.Underlay(ctx, at)
	if err != nil {
		return nil, err
	}
	return newWay(conn, path.NewUDP(at, netip.Addr{}, 0)), nil
}

// uses reports which transports a session may use; one inside another uses neither.
func (s *Session) uses() (udp, tcp bool) {
	if s.outer != nil {
		return false, false
	}
	return s.config.Transport != TCP, s.config.Transport != UDP && s.config.UnderlayTCP != nil
}

// act does what the policy says.
func (l *link) act(now time.Time, acts []action) {
	for _, a := range acts {
		switch a {
		case tryUDP:
			l.try(path.UDP)
		case tryTCP:
			l.try(path.TCP)
		case pingTrials:
			for _, w := range l.trials {
				l.ask(now, w)
			}
		case pingWay:
			l.session.Ping(now, wire.MinPingPacket, &l.out)
		case abandon:
			l.searches++
			for _, w := range l.trials {
				l.discard(w)
			}
			l.trials = nil
		case giveUp:
			l.silent = now
			l.s.troubled()
		}
	}
}

// try opens ways over a transport, to each address that the gateway has: first to
// those that are known, since a name may not resolve where nothing passes, then to
// those that it resolves to now.
func (l *link) try(t path.Transport) {
	search := l.searches
	l.opening[t]++
	l.s.running.Go(func() {
		known := l.s.known()
		l.tryAt(t, search, known)
		if found, err := l.s.resolve(l.s.ctx); err == nil {
			l.tryAt(t, search, slices.DeleteFunc(found, func(a netip.Addr) bool { return slices.Contains(known, a) }))
		}
		_ = l.with(func(now time.Time) {
			l.opening[t]--
			l.tried(now, t)
		})
	})
}

func (l *link) tryAt(t path.Transport, search uint64, addrs []netip.Addr) {
	for _, a := range addrs {
		w, err := l.s.reach(l.s.ctx, t, a)
		taken := false
		_ = l.with(func(now time.Time) {
			switch {
			case l.searches != search:
			case err != nil:
				l.fault = err
			default:
				taken = true
				l.trials = append(l.trials, w)
				l.s.running.Go(func() { l.serve(w) })
				l.ask(now, w)
			}
		})
		if err == nil && !taken {
			w.abort()
		}
	}
}

// tried tells the policy where no try of a transport is left.
func (l *link) tried(now time.Time, t path.Transport) {
	if l.opening[t] == 0 && !slices.ContainsFunc(l.trials, func(w *way) bool { return w.path.Transport == t }) {
		l.act(now, l.policy.failed(now, t, l.within()))
	}
}

// ask sends a Ping by a way on trial: whoever answers it has the session's keys, and
// sees by it that the client is there.
func (l *link) ask(now time.Time, w *way) {
	var out state.Output
	l.session.Ping(now, wire.MinPingPacket, &out)
	for _, p := range out.Packets {
		if _, err := w.conn.WriteBatch([]transport.Packet{{Data: p.Data, Path: w.path}}); err != nil {
			l.fault = err
		}
	}
}

// trialFailed forgets a way on trial of which its Conn says that it leads nowhere.
func (l *link) trialFailed(now time.Time, w *way, err error) {
	i := slices.Index(l.trials, w)
	if i < 0 {
		return
	}
	l.fault = err
	l.trials = slices.Delete(l.trials, i, i+1)
	l.discard(w)
	l.tried(now, w.path.Transport)
}

// discard closes a way that nothing was sent by but questions.
func (l *link) discard(w *way) {
	l.s.running.Go(w.abort)
}

// expired returns how many packets found no connection in time.
func (w *way) expired() uint64 {
	if c, ok := w.conn.(*tcp.Conn); ok {
		return c.Stats().Dropped
	}
	return 0
}

// abort closes a way without waiting for what was written.
func (w *way) abort() {
	if c, ok := w.conn.(interface{ Abort() error }); ok {
		_ = c.Abort()
		return
	}
	_ = w.conn.Close()
}

// heard is told of each authentic packet, before it is looked into: so what it asks
// for is answered by the way on which it came.
func (l *link) heard(now time.Time, w *way) {
	l.told, l.keepalive.heard = false, true
	switch {
	case w == l.way.Load():
		l.act(now, l.policy.heard(now))
	case slices.Contains(l.trials, w):
		l.move(now, w)
	default: // a way that was left: late
		return
	}
	if !l.silent.IsZero() {
		l.silent, l.forgotten = time.Time{}, false
		l.s.troubled() // no longer
	}
}

// move makes a way on trial the one by which packets go.
func (l *link) move(now time.Time, w *way) {
	old := l.way.Load()
	l.trials = slices.DeleteFunc(l.trials, func(t *way) bool { return t == w })
	if old.path.Transport == path.UDP && w.path.Transport == path.UDP {
		l.keepalive.reopened(now)
		l.session.SetKeepalive(now, l.keepalive.longest)
	}
	l.s.count.expired.Add(old.expired())
	why, acts := l.policy.moved(now, w.path.Transport)
	l.way.Store(w)
	l.session.SetPath(now, w.path, &l.out)
	l.session.Ping(now, wire.MinPingPacket, &l.out) // measures the round trip
	l.act(now, acts)
	l.polls = polls{}
	l.leave(old, now)
	l.s.pathChanged(old.path.Transport, w.path.Transport, why)
}

// leaving reports whether w is a way that the session has left, or tries to leave. A
// gateway that sees its client somewhere new asks where it was: an answer from there
// would call it back (section 6 of PROTOCOL.md).
func (l *link) leaving(w *way) bool {
	return w != l.way.Load() || l.policy.search != nil && !l.policy.search.broken
}

// leave closes a way that is not used any more, after a while.
func (l *link) leave(w *way, now time.Time) {
	if w.path.Transport == path.TCP && l.way.Load().path.Transport == path.UDP {
		l.polls.drain, l.polls.drainUntil = w, now.Add(linger)
	}
	_ = w.conn.SetReadDeadline(time.Time{})
	l.left = append(l.left, w)
	time.AfterFunc(linger, func() {
		_ = w.conn.Close()
		l.mu.Lock()
		defer l.mu.Unlock()
		l.left = slices.DeleteFunc(l.left, func(old *way) bool { return old == w })
	})
}

// all returns every way that is open, and takes those away that are not in use.
func (l *link) all() []*way {
	ways := append(append([]*way{l.way.Load()}, l.trials...), l.left...)
	l.trials, l.left = nil, nil
	return ways
}

// within is how long the gateway may take for an answer.
func (l *link) within() time.Duration {
	return max(300*time.Millisecond, 4*l.session.RTT())
}
