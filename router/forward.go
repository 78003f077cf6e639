package router

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"lewes/crypto/identity"
	"lewes/router/account"
	"lewes/router/meter"
	"lewes/state"
	"lewes/state/wire"
	"lewes/transport"
)

// upstream is another gateway that a shard forwards to: one socket for all sessions, and the
// bindings of inner indexes to sessions.
type upstream struct {
	env      *shardEnv
	identity identity.PublicKey
	addr     netip.AddrPort
	outlet
	forwards   state.Bag[*forward]
	unanswered time.Time    // the first packet that was sent after the last answer, or after a pause
	lastUp     time.Time    // the last packet that was sent
	lastDown   atomic.Int64 // the last answer, in Unix nanoseconds

	// bindings is written under the shard's lock as well, so batches read it without mu. The
	// return path holds mu for a lookup, never while it seals or sends.
	mu       sync.RWMutex
	bindings map[uint32]*indexBinding
}

// maxUpstreamPause is longer than the pauses between the packets of a handshake that repeats.
const maxUpstreamPause = 3 * time.Second

// sent notes a packet, and reports whether the address has left those of a second unanswered.
func (u *upstream) sent(now time.Time) bool {
	if u.lastDown.Load() >= u.unanswered.UnixNano() || now.Sub(u.lastUp) > maxUpstreamPause {
		u.unanswered = now
	}
	u.lastUp = now
	if now.Sub(u.unanswered) < silence {
		return false
	}
	u.unanswered = now
	return true
}

// forward is a session's flow to another gateway.
type forward struct {
	id       uint16
	client   *client
	upstream *upstream
	slot     state.Slot[*forward] // in upstream.forwards
}

// indexBinding assigns an inner receiver index to a session. Its upstream, index, client and flowID
// are immutable.
type indexBinding struct {
	upstream *upstream
	index    uint32
	client   *client
	flowID   uint16
	timer    state.Timer[*indexBinding]
	last     time.Time
	place    int // in client.bindings; -1: released
}

// forwarder holds a shard's upstreams and the timers of its bindings.
type forwarder struct {
	upstreams map[identityKey]*upstream
	timers    state.Deadlines[*indexBinding]
}

// handleForward handles a ForwardPacket.
func (st *shardState) handleForward(rx *rxContext, c *client, content []byte) {
	now := rx.now
	m, err := wire.ParseForwardPacket(content)
	if err != nil {
		st.counters.Malformed++
		return
	}
	if !st.mayCarry(now, c, m.FlowID) {
		return
	}
	if !c.account.Pass(now, len(m.Inner)) {
		st.counters.OverRate++
		return
	}
	f := c.forwards[m.FlowID]
	if f == nil {
		if rx.keys.Demoted() {
			st.counters.Misplaced++
			return
		}
		if f = st.openForward(now, c, &m); f == nil {
			return
		}
	} else if m.Flags != 0 && f.upstream.identity != m.Identity {
		st.rejectFlow(now, c, m.FlowID, wire.FlowOtherTarget, "this flow goes to another gateway")
		return
	}
	if !st.bindIndex(rx, c, f, &m) {
		return
	}
	switch c.charge(len(m.Inner)) {
	case meter.UsedUp:
		st.counters.UsedUp++
		st.closeForward(f, wire.FlowBandwidth, "")
		return
	case meter.Stopped:
		st.counters.NotRecorded++
		return
	}
	if f.upstream.sent(now) {
		st.config.Directory.demote(now, f.upstream.identity, f.upstream.addr.Addr())
		_, _, _ = st.upstreamFor(f.upstream.identity) // at its next address, if it has another
	}
	st.counters.Forwarded++
	c.stats.addUp(len(m.Inner))
	st.outbound.add(&f.upstream.outlet, m.Inner)
}

// openForward opens the flow that m names, or answers with the reason why not.
func (st *shardState) openForward(now time.Time, c *client, m *wire.ForwardPacket) *forward {
	refuse := func(reason wire.FlowReason, detail string) *forward {
		st.refuseFlow(now, c, m.FlowID, nil, reason, "", detail)
		return nil
	}
	unpaid, detail := c.mayOpen(len(m.Inner))
	switch {
	case m.Flags == 0:
		return refuse(wire.FlowIdle, "no flow with this id is open: send with the gateway's identity")
	case !c.mayForward():
		return refuse(wire.FlowPolicy, onlyMixNode)
	case c.flows[m.FlowID] != nil:
		return refuse(wire.FlowOtherTarget, "this flow goes to a target")
	case unpaid != 0:
		return refuse(unpaid, detail)
	case c.flowCount() >= st.limits.Load().MaxFlowsPerSession:
		return refuse(wire.FlowBound, "")
	case st.needsDial(m.Identity) && !st.charge(now, c, costFlow):
		return refuse(wire.FlowBound, tooManyAtOnce)
	case !c.account.Take(account.Forwards):
		return refuse(wire.FlowBound, "")
	}
	u, reason, detail := st.upstreamFor(m.Identity)
	if u == nil {
		c.account.Release(account.Forwards)
		return refuse(reason, detail)
	}
	f := &forward{id: m.FlowID, upstream: u}
	c.addForward(f)
	delete(c.flowClosed, m.FlowID)
	f.traceFlow(TraceFlowOpened, 0, "")
	return f
}

// addForward adds a flow, whose id is not in use.
func (c *client) addForward(f *forward) {
	if c.forwards == nil {
		c.forwards = make(map[uint16]*forward)
	}
	c.forwards[f.id] = f
	f.client, f.slot.Value = c, f
	f.upstream.forwards.Add(&f.slot)
}

// closeForward ends a flow, notifies the client, and returns the work in units of a walk.
func (st *shardState) closeForward(f *forward, reason wire.FlowReason, detail string) (units int) {
	units = closeUnits + dropUnits*len(f.client.bindings)
	f.traceFlow(TraceFlowClosed, reason, detail)
	st.sendFlowClosed(f.client, f.id, reason, detail)
	st.dropForward(f)
	return units
}

// dropForward ends a flow and releases its index bindings.
func (st *shardState) dropForward(f *forward) {
	st.unbindAll(f.client, func(b *indexBinding) bool { return b.flowID == f.id })
	f.upstream.forwards.Remove(&f.slot)
	delete(f.client.forwards, f.id)
	f.client.account.Release(account.Forwards)
}

const notInDirectory = "that gateway is not in this gateway's directory"

// needsDial reports whether upstreamFor opens a socket to a gateway.
func (st *shardState) needsDial(id identity.PublicKey) bool {
	addr, ok := st.config.Directory.Find(id)
	u := st.forwarder.upstreams[id]
	return ok && (u == nil || u.addr != addr)
}

// upstreamFor returns the upstream of a gateway in the directory, or the reason why there is none.
func (st *shardState) upstreamFor(id identity.PublicKey) (*upstream, wire.FlowReason, string) {
	addr, ok := st.config.Directory.Find(id)
	switch {
	case !ok && st.config.Directory.unresolved(id):
		return nil, wire.FlowNameNotFound, "the name of that gateway cannot be resolved yet"
	case !ok:
		return nil, wire.FlowPolicy, notInDirectory
	}
	u := st.forwarder.upstreams[id]
	if u != nil && u.addr == addr {
		return u, 0, ""
	}
	conn, err := st.config.Egress.Dial(addr, account.Key{})
	if err != nil {
		reason, detail := st.dialFailed(err)
		return nil, reason, detail
	}
	if u == nil {
		u = &upstream{env: st.shardEnv, identity: id, bindings: make(map[uint32]*indexBinding)}
		st.forwarder.upstreams[id] = u
	} else {
		_ = u.conn.Close() // the gateway has moved
	}
	u.addr, u.conn = addr, conn
	st.startReturn(conn, u)
	return u, 0, ""
}

// bindIndex checks that the inner packet's index is bound to the session, or binds it.
func (st *shardState) bindIndex(rx *rxContext, c *client, f *forward, m *wire.ForwardPacket) bool {
	now := rx.now
	index, hello, err := wire.ParseInner(m.Inner)
	if err != nil || len(m.Inner) > wire.MaxUDPPacket {
		st.counters.Malformed++
		return false
	}
	if hello && !st.takeHello(now, c.account) {
		st.counters.Refused++
		return false
	}
	b := f.upstream.bindings[index]
	if (b == nil || b.client != c) && rx.keys.Demoted() {
		st.counters.Misplaced++
		return false
	}
	if b != nil && b.client != c {
		if b.client.session.Peer() != c.session.Peer() || b.client.session.Started().After(c.session.Started()) {
			st.sendFlowClosed(c, m.FlowID, wire.FlowIndexCollision, "")
			return false
		}
		st.unbind(b)
		b = nil
	}
	if b == nil {
		if !c.account.Take(account.Claims) {
			st.refuseFlow(now, c, m.FlowID, nil, wire.FlowBound, "", "too many sessions through this gateway")
			return false
		}
		b = &indexBinding{upstream: f.upstream, index: index, client: c, flowID: m.FlowID}
		b.timer.Value = b
		f.upstream.mu.Lock()
		f.upstream.bindings[index] = b
		f.upstream.mu.Unlock()
		c.addBinding(b)
		st.forwarder.timers.Set(&b.timer, now.Add(IndexBindingTTL))
	}
	b.last = now
	return true
}

// addBinding adds a binding, whose claim its account has taken.
func (c *client) addBinding(b *indexBinding) {
	b.place = len(c.bindings)
	c.bindings = append(c.bindings, b)
}

// takeHello takes a token from the account's budget of inner hellos.
func (st *shardState) takeHello(now time.Time, a *account.Account) bool {
	limits := st.limits.Load()
	interval := time.Duration(float64(time.Second) / limits.HelloRate)
	return a.Hellos.Take(now, interval, interval*time.Duration(limits.HelloBurst))
}

// unbind releases a binding.
func (st *shardState) unbind(b *indexBinding) {
	b.upstream.mu.Lock()
	if b.upstream.bindings[b.index] == b {
		delete(b.upstream.bindings, b.index)
	}
	b.upstream.mu.Unlock()
	if c := b.client; b.place >= 0 {
		last := len(c.bindings) - 1
		c.bindings[b.place] = c.bindings[last]
		c.bindings[b.place].place = b.place
		c.bindings[last] = nil
		c.bindings, b.place = c.bindings[:last], -1
		c.account.Release(account.Claims)
	}
	st.forwarder.timers.Set(&b.timer, time.Time{})
}

// unbindAll releases the matching bindings of a session.
func (st *shardState) unbindAll(c *client, match func(*indexBinding) bool) {
	for i := len(c.bindings) - 1; i >= 0; i-- { // the last one takes the place of a released one
		if b := c.bindings[i]; match(b) {
			st.unbind(b)
		}
	}
}

// expireBinding releases a binding whose deadline has passed if it is idle, or sets its next
// deadline. It reports whether there was one.
func (st *shardState) expireBinding(now time.Time) bool {
	b, ok := st.forwarder.timers.Pop(now)
	if !ok {
		return false
	}
	if idleAt := b.last.Add(IndexBindingTTL); now.Before(idleAt) {
		st.forwarder.timers.Set(&b.timer, idleAt)
	} else {
		st.unbind(b)
	}
	return true
}

// handleReturn implements returnPath: an inner packet goes to the session that owns its index.
func (u *upstream) handleReturn(now time.Time, w *writer, batch []transport.Packet) {
	u.lastDown.Store(now.UnixNano())
	for i := range batch {
		u.findOwners(w, &batch[i])
		n := 0
		for inner := range batch[i].Segments() {
			b := w.owners[n]
			n++
			if b == nil {
				u.env.returned.unbound.Add(1)
			} else if !b.client.account.Pass(now, len(inner)) {
				u.env.returned.overRate.Add(1)
			} else if w.flowPacket(b.client, wire.TypeForwardPacket, b.flowID, inner) {
				u.env.returned.forwarded.Add(1)
				b.client.stats.addDown(1, uint64(len(inner)))
			}
		}
		clear(w.owners)
	}
}

// findOwners looks up the bindings of a packet's segments, nil for unknown indexes.
func (u *upstream) findOwners(w *writer, p *transport.Packet) {
	w.owners = w.owners[:0]
	u.mu.RLock()
	defer u.mu.RUnlock()
	for inner := range p.Segments() {
		var b *indexBinding
		if h, err := wire.ParseHeader(inner); err == nil {
			b = u.bindings[h.ReceiverIdx]
		}
		w.owners = append(w.owners, b)
	}
}

// handleSocketError implements returnPath. The socket counts the error, and clients retransmit.
func (u *upstream) handleSocketError(error) {}
