package router

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"lewes/router/account"
	"lewes/router/meter"
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

	step    flowStep
	cancel  context.CancelFunc // of the name lookup
	found   []netip.Addr       // by the lookup, and not tried yet
	inUse   netip.Addr         // of those
	since   time.Time          // inUse is
	failure string             // why it found none
	waiting [][]byte           // datagrams buffered until the flow is open

	timer    state.Timer[*flow]
	lastUp   time.Time
	lastDown atomic.Int64  // Unix nanoseconds; 0: nothing was returned yet
	sent     uint64        // datagrams of the client
	answered atomic.Uint64 // datagrams of the target

	icmp failure

	dropped     atomic.Bool // its id may belong to another flow
	errorQueued atomic.Bool // it is in shardEnv.errors
}

// flowStep is how far a flow is.
type flowStep uint8

const (
	flowQueued    flowStep = iota // its task waits
	flowResolving                 // its name is being looked up
	flowOpen
	flowSteps
)

// maxAddresses bounds the addresses of a name that a flow tries.
const maxAddresses = 4

// flowTable holds a shard's flows and their timers.
type flowTable struct {
	all    state.Bag[*flow]
	timers state.Deadlines[*flow]
}

// add adds a flow that is looked at again at a time.
func (t *flowTable) add(f *flow, at time.Time) {
	f.timer.Value = f
	t.all.Add(&f.timer.Slot)
	t.timers.Set(&f.timer, at)
}

func (t *flowTable) remove(f *flow) {
	t.all.Remove(&f.timer.Slot)
	t.timers.Set(&f.timer, time.Time{})
}

// handleData handles an EncryptedData.
func (st *shardState) handleData(rx *rxContext, c *client, content []byte) {
	now := rx.now
	d, err := wire.ParseEncryptedData(content)
	if err != nil {
		st.counters.Malformed++
		return
	}
	if !st.mayCarry(now, c, d.FlowID) {
		return
	}
	if !c.account.Pass(now, len(d.Payload)) {
		st.counters.OverRate++
		return
	}
	f := c.flows[d.FlowID]
	if f == nil {
		if rx.keys.Demoted() {
			st.counters.Misplaced++
			return
		}
		if f = st.openFlow(now, c, &d); f == nil {
			return
		}
	} else if d.Flags != 0 && !f.target.Equal(&d.Target) {
		st.rejectFlow(now, c, d.FlowID, wire.FlowOtherTarget, "this flow goes to "+f.target.String())
		return
	}
	f.lastUp = now
	f.sent++
	if f.step != flowOpen {
		if f.mayWait(len(d.Payload), st.limits.Load().MaxWaiting) {
			f.waiting = append(f.waiting, bytes.Clone(d.Payload))
		} else {
			st.loseUp(d.Payload)
		}
		return
	}
	if len(f.found) > 0 && now.Sub(f.since) >= silence {
		st.tryNext(now, f)
	}
	f.icmp.sent(now)
	st.sendUp(f, d.Payload)
}

// sendUp charges a datagram, sends it to the target of an open flow, and counts it. It closes the flow if
// its account is used up.
func (st *shardState) sendUp(f *flow, payload []byte) {
	switch f.client.charge(len(payload)) {
	case meter.UsedUp:
		st.counters.UsedUp++
		st.closeFlow(f, wire.FlowBandwidth, "")
		return
	case meter.Stopped:
		st.counters.NotRecorded++
		return
	}
	st.counters.Up.Packets++
	st.counters.Up.Bytes += uint64(len(payload))
	f.client.stats.addUp(len(payload))
	st.outbound.add(&f.outlet, payload)
}

// loseUp counts a datagram that found no room in its flow, or whose flow ended before it was open.
func (st *shardState) loseUp(payload []byte) {
	st.counters.Up.Packets++
	st.counters.Up.Bytes += uint64(len(payload))
	st.counters.EgressFailed++
}

const tooManyAtOnce = "too many flows were opened at once: try again in a second"

// maxWaitingBytes bounds the datagrams that wait until a flow is open, where there are several.
const maxWaitingBytes = 32 << 10

// mayWait reports whether another datagram may wait until the flow is open.
func (f *flow) mayWait(size, most int) bool {
	for _, d := range f.waiting {
		size += len(d)
	}
	return len(f.waiting) < most && (len(f.waiting) == 0 || size <= maxWaitingBytes)
}

// openFlow adds the flow that d names and opens it when it is its account's turn, or answers with
// the reason why not. It returns nil if the flow does not stand.
func (st *shardState) openFlow(now time.Time, c *client, d *wire.EncryptedData) *flow {
	refuse := func(reason wire.FlowReason, detail string) *flow {
		st.refuseFlow(now, c, d.FlowID, &d.Target, reason, "", detail)
		return nil
	}
	limits, named := st.limits.Load(), d.Target.Kind() == wire.TargetName
	unpaid, detail := c.mayOpen(len(d.Payload))
	cost := costFlow
	if named {
		cost = costLookup
	}
	switch {
	case d.Flags == 0:
		return refuse(wire.FlowIdle, "no flow with this id is open: send with the target")
	case d.Flags != wire.FlagTarget:
		return refuse(wire.FlowPolicy, "this gateway opens flows to one target only")
	case c.forwards[d.FlowID] != nil:
		return refuse(wire.FlowOtherTarget, "this flow goes to a gateway")
	case unpaid != 0:
		return refuse(unpaid, detail)
	case c.flowCount() >= limits.MaxFlowsPerSession:
		return refuse(wire.FlowBound, "")
	case !st.charge(now, c, cost):
		return refuse(wire.FlowBound, tooManyAtOnce)
	case !c.account.Take(account.Flows):
		return refuse(wire.FlowBound, "")
	case named && !c.account.Take(account.Lookups):
		c.account.Release(account.Flows)
		return refuse(wire.FlowBound, "too many names are being looked up")
	}
	f := &flow{id: d.FlowID, client: c, target: d.Target, lastUp: now}
	f.target.Name = bytes.Clone(f.target.Name)
	if c.flows == nil {
		c.flows = make(map[uint16]*flow)
	}
	c.flows[f.id] = f
	st.flows.add(f, now.Add(f.idleTime(limits.FlowIdle)))
	st.work.push(c, task{flow: f})
	st.runQueued()
	if c.flows[f.id] != f {
		return nil
	}
	return f
}

// runFlow is the task that opens a flow: it connects, or starts the name lookup.
func (st *shardState) runFlow(now time.Time, f *flow) {
	switch {
	case f.client.flows[f.id] != f: // closed while it was queued
	case f.target.Kind() == wire.TargetName && f.step == flowQueued:
		st.startLookup(f)
	default:
		st.finishOpening(now, f)
	}
}

// finishOpening connects a flow to the first address that the policy allows, and sends what waits.
// The policy applies to resolved addresses, never to names.
func (st *shardState) finishOpening(now time.Time, f *flow) {
	reason, detail, rule := wire.FlowNameNotFound, f.failure, ""
	if f.target.Kind() != wire.TargetName {
		f.found = []netip.Addr{f.target.Addr}
	}
	for len(f.found) > 0 {
		if reason, detail, rule = st.connectNext(now, f); reason == 0 {
			break
		}
	}
	if reason != 0 {
		f.waiting = nil // the refusal counts, as it does where no datagram waits
		st.dropFlow(f)
		st.refuseFlow(now, f.client, f.id, &f.target, reason, rule, detail)
		return
	}
	st.counters.FlowsOpened++
	delete(f.client.flowClosed, f.id)
	f.step = flowOpen
	f.traceFlow(TraceFlowOpened, 0, "")
	waiting := f.waiting
	f.waiting = nil
	for _, payload := range waiting {
		if !f.dropped.Load() {
			st.sendUp(f, payload)
		}
	}
}

// connectNext connects a flow to the next of its addresses.
func (st *shardState) connectNext(now time.Time, f *flow) (reason wire.FlowReason, detail, rule string) {
	f.inUse, f.since, f.found = f.found[0].Unmap(), now, f.found[1:]
	reason, detail, rule = st.connectFlow(f, netip.AddrPortFrom(f.inUse, f.target.Port))
	if reason == wire.FlowUnreachable && len(f.found) > 0 {
		st.silent.add(now, string(f.target.Name), f.inUse)
	}
	return reason, detail, rule
}

// tryNext connects a flow whose address does not answer to the name's next one, if there is any and none
// has answered.
func (st *shardState) tryNext(now time.Time, f *flow) bool {
	if f.lastDown.Load() != 0 {
		f.found = nil
	}
	for len(f.found) > 0 {
		if !st.charge(now, f.client, costFlow) {
			return false
		}
		st.silent.add(now, string(f.target.Name), f.inUse)
		st.outbound.flushOutlet(&f.outlet)
		last := f.conn
		if reason, _, _ := st.connectNext(now, f); reason == 0 {
			st.discard(last)
			return true
		}
	}
	return false
}

// connectFlow opens the flow's socket if the egress policy allows the target. Otherwise it returns the
// reason, and the rule that denied it.
func (st *shardState) connectFlow(f *flow, target netip.AddrPort) (reason wire.FlowReason, detail, rule string) {
	if !f.client.mayReach(target) {
		return wire.FlowPolicy, onlyMixNode, ""
	}
	if err := st.config.Policy.Check(target); err != nil {
		return wire.FlowPolicy, denialReason(err), denialRule(err)
	}
	conn, err := st.config.Egress.Dial(target, f.client.account.Key())
	if err != nil {
		reason, detail = st.dialFailed(err)
		return reason, detail, ""
	}
	f.conn = conn
	st.startReturn(conn, f)
	return 0, "", ""
}

// denialReason returns the policy's reason without the target's address.
func denialReason(err error) string {
	var denied *policy.DeniedError
	if errors.As(err, &denied) {
		return denied.Why()
	}
	return err.Error()
}

// startLookup resolves the flow's name in a goroutine, which ends with a batch of its own. The flow
// waits for its account's turn once more before it connects.
func (st *shardState) startLookup(f *flow) {
	ctx, cancel := context.WithTimeout(context.Background(), LookupTimeout)
	f.step, f.cancel = flowResolving, cancel
	env := st.shardEnv
	go func() {
		addrs, err := env.config.Resolver.LookupNetIP(ctx, "ip", string(f.target.Name))
		env.do(func(now time.Time, st *shardState) {
			cancel()
			f.client.account.Release(account.Lookups)
			addrs = st.silent.order(now, string(f.target.Name), addrs)
			f.found, f.failure = addrs[:min(len(addrs), maxAddresses)], lookupFailure(err)
			st.work.push(f.client, task{flow: f})
		})
	}()
}

// lookupFailure returns the reason of a name without addresses, for the client.
func lookupFailure(err error) string {
	var dns *net.DNSError
	if errors.As(err, &dns) && !dns.IsNotFound {
		return wire.DetailResolverTimeout
	}
	return "the gateway cannot resolve the name"
}

// returnedAt returns when the latest datagram arrived from the target; zero means never.
func (f *flow) returnedAt() time.Time {
	if at := f.lastDown.Load(); at != 0 {
		return time.Unix(0, at)
	}
	return time.Time{}
}

const (
	dnsPort = 53
	// AnsweredIdle is the idle time of a flow to port 53 whose every datagram was answered.
	AnsweredIdle = 10 * time.Second
)

// idleTime returns the time after which the flow is closed if nothing passes.
func (f *flow) idleTime(limit time.Duration) time.Duration {
	if f.target.Port == dnsPort && f.sent == f.answered.Load() {
		return min(limit, AnsweredIdle)
	}
	return limit
}

// checkAt returns when to look whether the flow is idle, now that it is not before idleAt: the last
// answer may bring that forward.
func (f *flow) checkAt(now, idleAt time.Time) time.Time {
	if at := now.Add(AnsweredIdle); f.target.Port == dnsPort && at.Before(idleAt) {
		return at
	}
	return idleAt
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
	idle := f.idleTime(st.limits.Load().FlowIdle)
	if idleAt := last.Add(idle); now.Before(idleAt) {
		st.flows.timers.Set(&f.timer, f.checkAt(now, idleAt))
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
		f.traceFlow(TraceFlowClosed, 0, "")
		st.dropFlow(f)
	}
	if f := c.forwards[m.FlowID]; f != nil {
		f.traceFlow(TraceFlowClosed, 0, "")
		st.dropForward(f)
	}
}

// closeFlow drops a flow and notifies the client.
func (st *shardState) closeFlow(f *flow, reason wire.FlowReason, detail string) {
	f.traceFlow(TraceFlowClosed, reason, detail)
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
	st.flows.remove(f)
	f.client.account.Release(account.Flows)
	if f.step == flowQueued && f.target.Kind() == wire.TargetName {
		f.client.account.Release(account.Lookups)
	}
	if f.cancel != nil {
		f.cancel()
	}
	for _, payload := range f.waiting {
		st.loseUp(payload)
	}
	f.waiting = nil
	st.outbound.flushOutlet(&f.outlet)
	if f.conn != nil {
		st.discard(f.conn)
	}
}
