package router

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"lewes/router/policy"
	"lewes/state"
	"lewes/state/wire"
)

// flow connects one client to one target (section 8 of PROTOCOL.md) by a connected socket.
type flow struct {
	id     uint16
	client *client
	target wire.Target // owns its name
	outlet

	resolving bool
	cancel    context.CancelFunc // of the name lookup
	waiting   [][]byte           // datagrams buffered during the lookup

	timer    state.Timer[*flow]
	lastUp   time.Time
	lastDown atomic.Int64 // Unix nanoseconds; 0: nothing was returned yet

	dropped     atomic.Bool // its id may belong to another flow
	errorQueued atomic.Bool // it is in shardEnv.errors
}

// flowTable holds the counts and timers of a shard's flows.
type flowTable struct {
	open    int
	lookups int // names being resolved
	timers  state.Deadlines[*flow]
}

// handleData handles an EncryptedData.
func (st *shardState) handleData(now time.Time, c *client, content []byte) {
	d, err := wire.ParseEncryptedData(content)
	if err != nil {
		st.counters.Malformed++
		return
	}
	f := c.flows[d.FlowID]
	if f == nil {
		if f = st.openFlow(now, c, &d); f == nil {
			return
		}
	} else if d.Flags != 0 && !f.target.Equal(&d.Target) {
		st.rejectFlow(now, c, d.FlowID, wire.FlowOtherTarget, "this flow goes to "+f.target.String())
		return
	}
	f.lastUp = now
	st.counters.Up.Packets++
	st.counters.Up.Bytes += uint64(len(d.Payload))
	if f.resolving {
		if len(f.waiting) < st.limits.Load().MaxWaiting {
			f.waiting = append(f.waiting, bytes.Clone(d.Payload))
		} else {
			st.counters.EgressFailed++
		}
		return
	}
	st.outbound.add(&f.outlet, d.Payload)
}

// openFlow opens the flow that d names, or answers with the reason why not.
func (st *shardState) openFlow(now time.Time, c *client, d *wire.EncryptedData) *flow {
	refuse := func(reason wire.FlowReason, detail string) *flow {
		st.counters.FlowsRefused++
		st.rejectFlow(now, c, d.FlowID, reason, detail)
		return nil
	}
	limits, shards := st.limits.Load(), max(1, st.steer.Shards)
	switch {
	case d.Flags == 0:
		return refuse(wire.FlowIdle, "no flow with this id is open: send with the target")
	case d.Flags != wire.FlagTarget:
		return refuse(wire.FlowPolicy, "this gateway opens flows to one target only")
	case c.forwards[d.FlowID] != nil:
		return refuse(wire.FlowOtherTarget, "this flow goes to a gateway")
	case c.flowCount() >= limits.MaxFlowsPerSession || st.flows.open >= max(1, limits.MaxFlows/shards):
		return refuse(wire.FlowBound, "")
	}
	f := &flow{id: d.FlowID, client: c, target: d.Target, lastUp: now}
	f.target.Name = bytes.Clone(f.target.Name)
	if f.target.Kind() == wire.TargetName {
		if st.flows.lookups >= max(1, limits.MaxLookups/shards) {
			return refuse(wire.FlowBound, "too many names are being looked up")
		}
		st.startLookup(f)
	} else if reason, detail := st.connectFlow(f, f.target.AddrPort()); reason != 0 {
		return refuse(reason, detail)
	}
	if c.flows == nil {
		c.flows = make(map[uint16]*flow)
	}
	c.flows[f.id] = f
	delete(c.flowClosed, f.id)
	st.flows.open++
	st.counters.FlowsOpened++
	f.timer.Value = f
	st.flows.timers.Set(&f.timer, now.Add(limits.FlowIdle))
	return f
}

// connectFlow opens the flow's socket if the egress policy allows the target.
func (st *shardState) connectFlow(f *flow, target netip.AddrPort) (wire.FlowReason, string) {
	if err := st.config.Policy.Check(target); err != nil {
		return wire.FlowPolicy, denialReason(err)
	}
	conn, err := st.config.Egress.Dial(target)
	if err != nil {
		return wire.FlowUnreachable, "no way to the target"
	}
	f.conn = conn
	st.startReturn(conn, f)
	return 0, ""
}

// denialReason returns the policy's reason without the target's address.
func denialReason(err error) string {
	var denied *policy.DeniedError
	if errors.As(err, &denied) {
		return denied.Why()
	}
	return err.Error()
}

// startLookup resolves the flow's name in a goroutine, which ends with a batch of its own.
func (st *shardState) startLookup(f *flow) {
	ctx, cancel := context.WithTimeout(context.Background(), LookupTimeout)
	f.resolving, f.cancel = true, cancel
	st.flows.lookups++
	env := st.shardEnv
	go func() {
		addrs, err := env.config.Resolver.LookupNetIP(ctx, "ip", string(f.target.Name))
		env.do(func(_ time.Time, st *shardState) {
			f.cancel()
			st.flows.lookups--
			st.finishLookup(f, addrs, err)
		})
	}()
}

// finishLookup connects to the first address that the policy allows: the policy applies to
// resolved addresses, never to names.
func (st *shardState) finishLookup(f *flow, addrs []netip.Addr, err error) {
	if f.client.flows[f.id] != f {
		return // closed during the lookup
	}
	reason, detail := wire.FlowNameNotFound, "the gateway cannot resolve the name"
	if err != nil {
		var dns *net.DNSError
		if errors.As(err, &dns) && !dns.IsNotFound {
			detail = wire.DetailResolverTimeout
		}
	}
	for _, addr := range addrs {
		if reason, detail = st.connectFlow(f, netip.AddrPortFrom(addr.Unmap(), f.target.Port)); reason == 0 {
			break
		}
	}
	if reason != 0 {
		st.counters.FlowsRefused++
		st.closeFlow(f, reason, detail)
		return
	}
	f.resolving = false
	for _, payload := range f.waiting {
		st.outbound.add(&f.outlet, payload)
	}
	f.waiting = nil
}

// returnedAt returns when the latest datagram arrived from the target; zero means never.
func (f *flow) returnedAt() time.Time {
	if at := f.lastDown.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

// expireFlow closes a flow whose deadline has passed if it is idle, or sets its next deadline. It
// reports whether there was one.
func (st *shardState) expireFlow(now time.Time) bool {
	f, ok := st.flows.timers.Pop(now)
	if !ok {
		return false
	}
	last := f.lastUp
	if down := f.returnedAt(); down.After(last) {
		last = down
	}
	idle := st.limits.Load().FlowIdle
	if idleAt := last.Add(idle); now.Before(idleAt) {
		st.flows.timers.Set(&f.timer, idleAt)
	} else {
		st.closeFlow(f, wire.FlowIdle, "nothing passed for "+idle.String())
	}
	return true
}

// handleFlowClosed handles a client's FlowClosed.
func (st *shardState) handleFlowClosed(c *client, content []byte) {
	m, err := wire.ParseFlowClosed(content)
	if err != nil {
		st.counters.Malformed++
		return
	}
	if f := c.flows[m.FlowID]; f != nil {
		st.dropFlow(f)
	}
	if c.forwards[m.FlowID] != nil {
		st.unbindAll(c, func(b *indexBinding) bool { return b.flowID == m.FlowID })
		delete(c.forwards, m.FlowID)
	}
}

// closeFlow drops a flow and notifies the client.
func (st *shardState) closeFlow(f *flow, reason wire.FlowReason, detail string) {
	st.sendFlowClosed(f.client, f.id, reason, detail)
	st.dropFlow(f)
}

// dropFlow ends a flow.
func (st *shardState) dropFlow(f *flow) {
	if f.client.flows[f.id] != f {
		return
	}
	delete(f.client.flows, f.id)
	f.dropped.Store(true)
	st.flows.open--
	st.flows.timers.Set(&f.timer, time.Time{})
	if f.cancel != nil {
		f.cancel()
	}
	st.counters.EgressFailed += uint64(len(f.waiting))
	f.waiting = nil
	st.outbound.flushOutlet(&f.outlet)
	if f.conn != nil {
		st.discard(f.conn)
	}
}
