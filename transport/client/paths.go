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

// linger is how long a path stays open after the session has left it, for packets in flight.
const linger = 3 * time.Second

// Exchanger is a Conn over TCP that uses one connection per packet. *tcp.Conn is one.
type Exchanger interface {
	transport.Conn
	// Send sends a packet that the gateway may answer only after wait, and calls ended
	// from another goroutine when its connection has ended.
	Send(packet []byte, wait time.Duration, ended func(answers int, err error)) error
	// Taken returns when the latest packet was sent whose connection the gateway closed in order,
	// sooner than one whose packet it drops.
	Taken() time.Time
}

// gatewayPath is an open path to the gateway.
type gatewayPath struct {
	conn     transport.Conn
	path     path.Path
	batch    []transport.Packet // for reading
	deadline time.Time          // the Conn's read deadline
}

func newGatewayPath(conn transport.Conn, p path.Path) *gatewayPath {
	return &gatewayPath{conn: conn, path: p, batch: make([]transport.Packet, readBatch)}
}

// openPath opens a path to an address of the gateway.
func (s *Session) openPath(ctx context.Context, t path.Transport, to netip.Addr) (*gatewayPath, error) {
	at := netip.AddrPortFrom(to, portFor(s.gateway, transportOf(t)))
	var p path.Path
	var conn transport.Conn
	var err error
	if t == path.TCP {
		p = path.NewTCP(at, netip.Addr{}, 0)
		conn, err = s.config.UnderlayTCP(ctx, at)
	} else {
		p = path.NewUDP(at, netip.Addr{}, 0)
		conn, err = s.config.Underlay(ctx, at)
	}
	if err != nil {
		return nil, err
	}
	return newGatewayPath(conn, p), nil
}

// transports reports which transports a session may use; an inner session uses neither.
func (s *Session) transports() (udp, tcp bool) {
	if s.outer != nil {
		return false, false
	}
	return s.config.Transport != TCP, s.config.Transport != UDP && s.config.UnderlayTCP != nil
}

// expired returns how many packets got no connection in time.
func (p *gatewayPath) expired() uint64 {
	if c, ok := p.conn.(*tcp.Conn); ok {
		return c.Stats().Dropped
	}
	return 0
}

// abort closes the path and drops packets that wait to be sent.
func (p *gatewayPath) abort() {
	if c, ok := p.conn.(interface{ Abort() error }); ok {
		_ = c.Abort()
		return
	}
	_ = p.conn.Close()
}

// pathSet holds the paths of a sessionConn other than the active one.
type pathSet struct {
	probes   []*gatewayPath // being validated
	left     []*gatewayPath // left, and still read
	searches uint64         // that have ended
	opening  [2]int         // goroutines that open probes, by transport
}

// apply carries out the policy's actions.
func (st *connState) apply(now time.Time, actions []action) {
	for _, a := range actions {
		switch a {
		case probeUDP:
			st.openProbes(path.UDP)
		case probeTCP:
			st.openProbes(path.TCP)
		case pingProbes:
			for _, p := range st.paths.probes {
				st.pingOn(now, p)
			}
		case pingActive:
			st.ping(now)
		case closeProbes:
			st.paths.searches++
			for _, p := range st.paths.probes {
				st.discard(p)
			}
			st.paths.probes = nil
		case reconnect:
			st.unresponsiveAt = now
			st.askBeside(now)
		}
	}
}

// openProbes opens probes over a transport to each address of the gateway: first to the known ones,
// since a name may not resolve while the network is down, then to those that it resolves to now.
func (st *connState) openProbes(t path.Transport) {
	c, search := st.c, st.paths.searches
	st.paths.opening[t]++
	st.s.running.Go(func() {
		known := *c.s.addrs.Load()
		c.openProbesTo(t, search, known)
		if found, err := c.s.resolve(c.s.ctx); err == nil {
			c.openProbesTo(t, search, slices.DeleteFunc(found, func(a netip.Addr) bool { return slices.Contains(known, a) }))
		}
		_ = c.update(func(st *connState, now time.Time) {
			st.paths.opening[t]--
			st.checkProbes(now, t)
		})
	})
}

func (c *sessionConn) openProbesTo(t path.Transport, search uint64, addrs []netip.Addr) {
	for _, a := range addrs {
		p, err := c.s.openPath(c.s.ctx, t, a)
		taken := false
		_ = c.update(func(st *connState, now time.Time) {
			switch {
			case st.paths.searches != search:
			case err != nil:
				st.networkErr = err
			default:
				taken = true
				st.paths.probes = append(st.paths.probes, p)
				c.s.running.Go(func() { c.serve(p) })
				st.pingOn(now, p)
			}
		})
		if err == nil && !taken {
			p.abort()
		}
	}
}

// checkProbes reports to the policy when no probe of a transport is left.
func (st *connState) checkProbes(now time.Time, t path.Transport) {
	if st.paths.opening[t] == 0 && !slices.ContainsFunc(st.paths.probes, func(p *gatewayPath) bool { return p.path.Transport == t }) {
		st.apply(now, st.policy.failed(now, t, st.responseTime()))
	}
}

// pingOn sends a Ping on a probe. It needs the session's keys to answer, and shows the
// gateway the client's new address.
func (st *connState) pingOn(now time.Time, p *gatewayPath) {
	var out state.Output
	st.c.session.Ping(now, wire.MinPingPacket, &out)
	for _, packet := range out.Packets {
		if _, err := p.conn.WriteBatch([]transport.Packet{{Data: packet.Data, Path: p.path}}); err != nil {
			st.networkErr = err
		}
	}
}

// probeFailed removes a probe whose Conn has failed.
func (st *connState) probeFailed(now time.Time, p *gatewayPath, err error) {
	i := slices.Index(st.paths.probes, p)
	if i < 0 {
		return
	}
	st.networkErr = err
	st.paths.probes = slices.Delete(st.paths.probes, i, i+1)
	st.discard(p)
	st.checkProbes(now, p.path.Transport)
}

// discard closes a probe.
func (st *connState) discard(p *gatewayPath) { st.s.running.Go(p.abort) }

// noteAuthentic handles the arrival of an authentic packet, before its message is handled,
// so that an answer takes the path on which the packet came.
func (st *connState) noteAuthentic(now time.Time, p *gatewayPath) {
	st.keepalive.answered = true
	switch {
	case p == st.c.active.Load():
		st.apply(now, st.policy.arrived(now, st.responseTime()))
	case slices.Contains(st.paths.probes, p): // the gateway answers there, and nothing else arrives
		st.migrate(now, p)
	}
	if !st.policy.doubting() {
		st.endDoubt()
	}
}

// migrate makes a probe the active path.
func (st *connState) migrate(now time.Time, p *gatewayPath) {
	old := st.c.active.Load()
	st.paths.probes = slices.DeleteFunc(st.paths.probes, func(other *gatewayPath) bool { return other == p })
	if old.path.Transport == path.UDP && p.path.Transport == path.UDP {
		st.keepalive.rebound(now)
		st.c.session.SetKeepalive(now, st.keepalive.interval)
	}
	st.s.count.expired.Add(old.expired())
	reason, actions := st.policy.migrated(now, p.path.Transport)
	st.c.active.Store(p)
	st.c.session.SetPath(now, p.path, &st.out)
	st.c.session.NoteAnswered(now)
	st.ping(now) // measures the round trip
	st.apply(now, actions)
	st.noteAnswered(now, now)
	st.poller = poller{}
	st.leave(old, now)
	st.s.pathChanged(old.path.Transport, p.path.Transport, reason)
}

// isLeaving reports whether the session has left p or is about to. A gateway that sees its
// client at a new address challenges the old one; an answer from there would revert the
// migration (section 6 of PROTOCOL.md).
func (st *connState) isLeaving(p *gatewayPath) bool {
	return p != st.c.active.Load() || st.policy.upgrading()
}

// leave closes a path after linger.
func (st *connState) leave(p *gatewayPath, now time.Time) {
	c := st.c
	if p.path.Transport == path.TCP && c.active.Load().path.Transport == path.UDP {
		st.poller.drain, st.poller.drainUntil = p, now.Add(linger)
	}
	_ = p.conn.SetReadDeadline(time.Time{})
	st.paths.left = append(st.paths.left, p)
	time.AfterFunc(linger, func() {
		_ = p.conn.Close()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.st.paths.left = slices.DeleteFunc(c.st.paths.left, func(old *gatewayPath) bool { return old == p })
	})
}

// takePaths returns all open paths, and removes those that are not active.
func (st *connState) takePaths() []*gatewayPath {
	all := append(append([]*gatewayPath{st.c.active.Load()}, st.paths.probes...), st.paths.left...)
	st.paths.probes, st.paths.left = nil, nil
	return all
}

const (
	// pollWait is how long a Poll may wait at the gateway (section 10 of PROTOCOL.md),
	// drainWait how long on a path that the session has left.
	pollWait  = 10 * time.Second
	drainWait = time.Second
	// firstPollPause and maxPollPause pace Polls that the gateway does not hold.
	firstPollPause = 100 * time.Millisecond
	maxPollPause   = 2 * time.Second
)

// poller keeps one Poll waiting at the gateway, for packets to arrive over TCP.
type poller struct {
	path   *gatewayPath // that a Poll waits on; nil: none waits
	sent   time.Time
	next   time.Time // when the next Poll may be sent; zero: at once
	pause  time.Duration
	failed bool // the last Poll failed, and liveness was checked

	drain      *gatewayPath // that the session has left for UDP, and still polls
	drainUntil time.Time
}

// poll sends a Poll if the session is on TCP and none waits.
//
// After a return to UDP, TCP is polled for a while, for the packets that the gateway sends
// there until it trusts the new address. Such a Poll must not be the newest packet, or it
// would revert the migration; so a Ping that is sealed after it overtakes it over UDP.
func (st *connState) poll(now time.Time) {
	q, p, wait := &st.poller, st.c.active.Load(), pollWait
	if p.path.Transport != path.TCP && q.drain != nil {
		if p, wait = q.drain, drainWait; !now.Before(q.drainUntil) {
			q.drain, q.next = nil, time.Time{}
			return
		}
	}
	conn, ok := p.conn.(Exchanger)
	if !ok || st.ended != nil || q.path == p || now.Before(q.next) {
		return
	}
	var out state.Output
	if st.c.session.Send(wire.TypePoll, &wire.Poll{WaitMillis: uint16(wait / time.Millisecond)}, &out) != nil || len(out.Packets) == 0 {
		return
	}
	if p == q.drain {
		st.ping(now)
		st.send(now)
	}
	c := st.c
	err := conn.Send(out.Packets[0].Data, wait, func(answers int, err error) { c.pollEnded(p, wait, answers, err) })
	if err == nil {
		q.path, q.sent, q.next = p, now, time.Time{}
	}
}

// pollEnded is called when a Poll's connection has ended.
func (c *sessionConn) pollEnded(p *gatewayPath, wait time.Duration, answers int, err error) {
	_ = c.update(func(st *connState, now time.Time) {
		q := &st.poller
		if q.path != p {
			return
		}
		q.path = nil
		if st.policy.upgrading() {
			// The gateway may have received a Ping over UDP. Another Poll now would be
			// the newest packet and revert the migration.
			q.next = now.Add(st.responseTime())
			return
		}
		if err == nil && (answers > 0 || now.Sub(q.sent) >= wait*9/10) {
			q.pause, q.failed = 0, false
			c.session.NoteTaken(q.sent)
			return
		}
		q.pause = min(max(2*q.pause, firstPollPause), maxPollPause)
		q.next = now.Add(q.pause)
		if !q.failed && p != q.drain {
			q.failed = true
			st.checkLiveness(now)
		}
	})
}
