package router

import (
	"context"
	"encoding/hex"
	"errors"
	"maps"
	"net/netip"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"lewes/crypto/identity"
	"lewes/router/policy"
	"lewes/state"
	"lewes/state/path"
	"lewes/state/snapshot"
	"lewes/state/wire"
)

// SessionInfo describes a session at the moment.
type SessionInfo struct {
	Handle   [16]byte
	Identity identity.PublicKey // of the client
	Started  time.Time
	Last     time.Time // of the last authentic packet
	// Up and Down count the datagrams, and inner packets for and from other gateways, since the start.
	Up, Down Traffic
	Path     path.Path
	First    path.Transport // of the start
	Moved    time.Time      // last change of the path; zero: none
	RTT      time.Duration  // 0: not measured
	// MaxPacket is the path MTU without IP and UDP headers, in bytes; 0: not probed, or TCP.
	MaxPacket int
	Flows     int // to targets
	Forwards  int // to other gateways
	// Mode is what the session is registered for; zero: it is not. Left is what its account has left, in bytes,
	// or wire.Unlimited.
	Mode wire.Mode
	Left uint64
	// Entry is the gateway of the directory that the session comes through; zero: none that is known.
	Entry identity.PublicKey
}

// infoUnits is the work of a SessionInfo in units of a walk: its fields are in several cache lines.
const infoUnits = 4

// Sessions passes all sessions to yield, in slices between which the shards serve others, and stops at
// the first error. The slice is reused after the call. Sessions that start or end meanwhile may be
// missing.
func (g *Gateway) Sessions(ctx context.Context, yield func([]SessionInfo) error) error {
	some := make([]SessionInfo, 0, sliceUnits/infoUnits)
	for _, s := range g.shards {
		at := state.Start
		for more := true; more; {
			more = false
			s.Do(func(_ time.Time, st *shardState) { some, more = st.sessionInfos(&at, some[:0]) })
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := yield(some); err != nil {
				return err
			}
		}
	}
	return nil
}

// Bounds of MeasureRTT.
const (
	maxMeasured  = 256
	measureEvery = time.Second
	measureIdle  = 30 * time.Second
)

// MeasureRTT sends a Ping on up to 256 sessions that received a packet in the last 30 s, so that their
// next SessionInfo has the round trip, and returns how many of them had none. It does nothing within a
// second of the last call.
func (g *Gateway) MeasureRTT(ctx context.Context) (unmeasured int) {
	now := g.config.Clock().UnixNano()
	last := g.measured.Load()
	if last != 0 && now-last < int64(measureEvery) || !g.measured.CompareAndSwap(last, now) {
		return 0
	}
	return g.walk(ctx, func(unmeasured *int) step {
		at, left := state.Start, maxMeasured/len(g.shards)
		return func(st *shardState) int {
			session, ok := st.sessions.Walk(&at)
			if !ok || left <= 0 {
				return 0
			}
			if now := st.now(); now.Sub(session.LastOpened()) < measureIdle {
				left--
				if session.RTT() == 0 {
					*unmeasured++
				}
				session.Ping(now, wire.MinPingPacket, &st.output)
				return closeUnits
			}
			return visitUnits
		}
	})
}

// sessionInfos fills the capacity of some from a walk, and reports whether there may be more.
func (st *shardState) sessionInfos(at *state.Cursor, some []SessionInfo) ([]SessionInfo, bool) {
	for len(some) < cap(some) {
		session, ok := st.sessions.Walk(at)
		if !ok {
			return some, false
		}
		if c, ok := session.User.(*client); ok {
			some = append(some, c.info())
		}
	}
	return some, true
}

func (c *client) info() SessionInfo {
	s := c.session
	i := SessionInfo{
		Handle: s.Handle(), Identity: s.Peer(), Started: s.Started(), Last: s.LastOpened(),
		Up: c.stats.up, Down: c.stats.downTraffic(), Path: s.Path(), First: c.stats.first, Moved: c.stats.moved,
		RTT: s.RTT(), Flows: len(c.flows), Forwards: len(c.forwards),
	}
	if i.Path.Transport == path.UDP && !s.NeedsMTUProbe(wire.MaxUDPPacket) {
		i.MaxPacket = s.MaxPacket()
	}
	if r := c.registered.Load(); r != nil {
		i.Mode, i.Left = r.mode, r.share.Left()
		if r.share.Unlimited() {
			i.Left = wire.Unlimited
		}
	}
	i.Entry = c.env.config.Directory.at(i.Path.Peer.Addr())
	return i
}

// clientStats are counters of one session.
type clientStats struct {
	up    Traffic        // guarded by the shard's lock
	first path.Transport // of the start
	last  path.Transport // of the current path
	moved time.Time      // last change of the path; zero: none

	datagrams, bytes atomic.Uint64 // to the client, by the return path
}

func (s *clientStats) addUp(bytes int) {
	s.up.Packets++
	s.up.Bytes += uint64(bytes)
}

func (s *clientStats) addDown(datagrams, bytes uint64) {
	s.datagrams.Add(datagrams)
	s.bytes.Add(bytes)
}

func (s *clientStats) downTraffic() Traffic { return Traffic{s.datagrams.Load(), s.bytes.Load()} }

func (s *clientStats) code(c *snapshot.Codec) {
	down := s.downTraffic()
	for _, n := range [...]*uint64{&s.up.Packets, &s.up.Bytes, &down.Packets, &down.Bytes} {
		c.Uint64(n)
	}
	snapshot.Byte(c, &s.first)
	c.Time(&s.moved)
	if c.Decoding() {
		s.datagrams.Store(down.Packets)
		s.bytes.Store(down.Bytes)
	}
}

// CloseSessions closes the sessions that match, notifies their clients, and returns their number.
func (g *Gateway) CloseSessions(ctx context.Context, match func(client identity.PublicKey, handle [16]byte) bool) (closed int) {
	return g.walk(ctx, func(closed *int) step {
		at := state.Start
		return func(st *shardState) int {
			session, ok := st.sessions.Walk(&at)
			switch {
			case !ok:
				return 0
			case !match(session.Peer(), session.Handle()):
				return visitUnits
			}
			*closed++
			return st.closeSession(session, wire.CloseDone, "closed by the gateway's operator")
		}
	})
}

// ErrHandedOver means that a successor serves instead of this gateway.
var ErrHandedOver = errors.New("a successor has taken over; try again")

// Drain makes the gateway, and its successors, refuse new sessions as one that shuts down, or admit them
// again. Present sessions go on. After ErrHandedOver it may have no effect.
func (g *Gateway) Drain(on bool) error {
	g.draining.Store(on)
	served := 0
	for _, s := range g.shards {
		s.Do(func(_ time.Time, st *shardState) {
			st.closing = on
			served++
		})
	}
	if served < len(g.shards) {
		return ErrHandedOver
	}
	return nil
}

// Draining reports whether Drain is in effect.
func (g *Gateway) Draining() bool { return g.draining.Load() }

// Refusal is a reason for refusing flows.
type Refusal struct {
	Reason wire.FlowReason
	Rule   string // of the egress policy: a rule or a range; may be empty
}

// maxRefusals bounds the kinds of refusals that a shard counts: reloads replace the rules.
const maxRefusals = 256

// noteRefusal counts a refused flow.
func (st *shardState) noteRefusal(reason wire.FlowReason, rule string) {
	st.counters.FlowsRefused++
	r := Refusal{reason, rule}
	if _, ok := st.refusals[r]; !ok && len(st.refusals) >= maxRefusals {
		r.Rule = ""
	}
	if st.refusals == nil {
		st.refusals = make(map[Refusal]uint64)
	}
	st.refusals[r]++
}

// refuseFlow counts a refused flow, logs it, and answers with the reason. to is nil for a flow to a gateway.
func (st *shardState) refuseFlow(now time.Time, c *client, id uint16, to *wire.Target, reason wire.FlowReason, rule, detail string) {
	st.noteRefusal(reason, rule)
	level := zap.InfoLevel
	if reason == wire.FlowIdle {
		level = zap.DebugLevel // usual after a flow was closed
	}
	if line := st.config.Logger.Check(level, "refused a flow"); line != nil {
		line.Write(c.handleField(), zap.Stringer("reason", reason), zap.String("rule", rule), zap.String("detail", detail))
	}
	if c.trace != nil {
		e := TraceEvent{Kind: TraceFlowRefused, Flow: id, Reason: reason, Rule: rule, Detail: detail}
		if to != nil {
			e.Target = *to
		}
		c.trace.add(e)
	}
	st.rejectFlow(now, c, id, reason, detail)
}

// handleField names the session in a line of the log.
func (c *client) handleField() zap.Field {
	handle := c.session.Handle()
	return zap.String("session", hex.EncodeToString(handle[:]))
}

// noteMoved logs that a session sends to another path.
func (st *shardState) noteMoved(c *client) {
	to := c.session.Path()
	message, kind := "a client has another address", TraceMoved
	switch {
	case to.Transport == c.stats.last:
	case to.Transport == path.TCP:
		message, kind = "a client fell back to TCP", TraceTransportChanged
	default:
		message, kind = "a client returned to UDP", TraceTransportChanged
	}
	c.stats.last, c.stats.moved = to.Transport, st.now()
	if line := st.config.Logger.Check(zap.InfoLevel, message); line != nil {
		line.Write(c.handleField(), zap.String("source", path.MaskAddr(to.Peer.Addr())))
	}
	if c.trace != nil {
		c.trace.add(TraceEvent{Kind: kind})
	}
}

// Refusals returns how many flows were refused since the start, by reason and rule.
func (g *Gateway) Refusals() map[Refusal]uint64 {
	sum := make(map[Refusal]uint64)
	for _, s := range g.shards {
		s.mu.Lock()
		one := maps.Clone(s.st.refusals)
		s.mu.Unlock()
		for r, n := range one {
			sum[r] += n
		}
	}
	return sum
}

// denialRule returns the rule or range by which the policy denied a target.
func denialRule(err error) string {
	var denied *policy.DeniedError
	if errors.As(err, &denied) {
		return denied.Rule()
	}
	return ""
}

// at returns the gateway of the directory at an address, or zero.
func (d *Directory) at(addr netip.Addr) identity.PublicKey {
	if d == nil {
		return identity.PublicKey{}
	}
	return d.known.Load().trusted[addr.Unmap()]
}

// DirectoryEntry is a gateway of the directory.
type DirectoryEntry struct {
	Identity identity.PublicKey
	Host     string
	Addr     netip.AddrPort // in use; zero if the name was not resolved yet
}

// Directory returns the gateways that this one forwards to.
func (g *Gateway) Directory() (all []DirectoryEntry) {
	d := g.config.Directory
	if d == nil {
		return nil
	}
	for _, gateway := range *d.gateways.Load() {
		addr, _ := d.Find(gateway.Identity)
		all = append(all, DirectoryEntry{gateway.Identity, gateway.Host, addr})
	}
	return all
}
