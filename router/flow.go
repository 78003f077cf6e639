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
	"lewes/transport"
)

// flow is one client's conversation with one target (section 8 of PROTOCOL.md):
// a socket connected to it, and what brings back what it answers.
type flow struct {
	id     uint16
	client *client
	target wire.Target // the name, if it has one, is the flow's own copy
	conn   transport.Conn

	resolving bool
	forget    context.CancelFunc // of the name, once nobody waits for it
	waiting   [][]byte           // datagrams, until the name is resolved
	batch     []transport.Packet // to the target, in this turn

	timer    state.Timer[*flow]
	lastUp   time.Time
	lastDown atomic.Int64 // Unix nanoseconds, by what brings back; 0: nothing came yet
	dropped  atomic.Bool  // its id may be another flow's
}

// maxFlowBatch bounds what a flow gathers in a turn, and so the room that it keeps
// for that: a client may have many flows.
const maxFlowBatch = 128

// turnData handles an EncryptedData.
func (s *Shard) turnData(now time.Time, c *client, content []byte) {
	d, err := wire.ParseEncryptedData(content)
	if err != nil {
		s.counters.Malformed++
		return
	}
	f := c.flows[d.FlowID]
	if f == nil {
		if f = s.turnOpen(now, c, &d); f == nil {
			return
		}
	} else if d.Flags != 0 && !f.target.Equal(&d.Target) {
		c.tell(now, d.FlowID, wire.FlowOtherTarget, "this flow goes to "+f.target.String())
		return
	}
	f.lastUp = now
	s.counters.Up.Packets++
	s.counters.Up.Bytes += uint64(len(d.Payload))
	if f.resolving {
		if len(f.waiting) < s.config.maxWaiting() {
			f.waiting = append(f.waiting, bytes.Clone(d.Payload))
		} else {
			s.counters.EgressFailed++
		}
		return
	}
	if len(f.batch) == maxFlowBatch {
		f.flush()
	}
	if len(f.batch) == 0 {
		s.written = append(s.written, f)
	}
	f.batch = append(f.batch, transport.Packet{Data: d.Payload})
}

// turnOpen opens the flow that d names, or says why it does not.
func (s *Shard) turnOpen(now time.Time, c *client, d *wire.EncryptedData) *flow {
	refuse := func(reason wire.FlowReason, detail string) *flow {
		s.counters.FlowsRefused++
		c.tell(now, d.FlowID, reason, detail)
		return nil
	}
	switch {
	case d.Flags == 0:
		return refuse(wire.FlowIdle, "no flow with this id is open: send with the target")
	case d.Flags != wire.FlagTarget:
		return refuse(wire.FlowPolicy, "this gateway opens flows to one target only")
	case c.forwards[d.FlowID] != nil:
		return refuse(wire.FlowOtherTarget, "this flow goes to a gateway")
	case c.flowCount() >= s.config.maxFlowsPerSession() || s.flows >= max(1, s.config.maxFlows()/max(1, s.steer.Shards)):
		return refuse(wire.FlowBound, "")
	}
	f := &flow{id: d.FlowID, client: c, target: d.Target, lastUp: now}
	f.target.Name = bytes.Clone(f.target.Name)
	if f.target.Kind() == wire.TargetName {
		if s.lookups >= max(1, s.config.maxLookups()/max(1, s.steer.Shards)) {
			return refuse(wire.FlowBound, "too many names are being looked up")
		}
		s.turnLookUp(f)
	} else if reason, detail := s.turnConnect(f, f.target.AddrPort()); reason != 0 {
		return refuse(reason, detail)
	}
	if c.flows == nil {
		c.flows = make(map[uint16]*flow)
	}
	c.flows[f.id] = f
	delete(c.told, f.id)
	s.flows++
	s.counters.FlowsOpened++
	f.timer.Value = f
	s.flowTimes.Set(&f.timer, now.Add(s.config.flowIdle()))
	return f
}

// turnConnect opens the flow's socket if the egress policy allows it.
func (s *Shard) turnConnect(f *flow, target netip.AddrPort) (wire.FlowReason, string) {
	if err := s.config.Policy.Check(target); err != nil {
		return wire.FlowPolicy, reasonOf(err)
	}
	conn, err := s.config.Egress.Dial(target)
	if err != nil {
		return wire.FlowUnreachable, "no way to the target"
	}
	f.conn = conn
	s.turnReturn(conn, f)
	return 0, ""
}

// reasonOf says why the policy denies a target, without its address.
func reasonOf(err error) string {
	var denied *policy.DeniedError
	if errors.As(err, &denied) {
		return denied.Why()
	}
	return err.Error()
}

// turnLookUp begins to look the flow's name up.
func (s *Shard) turnLookUp(f *flow) {
	ctx, cancel := context.WithTimeout(context.Background(), s.config.resolveTimeout())
	f.resolving, f.forget = true, cancel
	s.lookups++
	go s.resolve(ctx, f)
}

// resolve looks the flow's name up and comes back with a turn.
func (s *Shard) resolve(ctx context.Context, f *flow) {
	addrs, err := s.config.Resolver.LookupNetIP(ctx, "ip", string(f.target.Name))
	s.Turn(func(now time.Time) {
		f.forget()
		s.lookups--
		s.turnResolved(now, f, addrs, err)
	})
}

// turnResolved connects to the first address that the policy allows; the policy
// is applied to what the name stands for, never to the name.
func (s *Shard) turnResolved(now time.Time, f *flow, addrs []netip.Addr, err error) {
	if f.client.flows[f.id] != f {
		return // closed meanwhile
	}
	reason, why := wire.FlowNameNotFound, "the gateway cannot resolve the name"
	if err != nil {
		var dns *net.DNSError
		if errors.As(err, &dns) && !dns.IsNotFound {
			why = wire.DetailResolverTimeout
		}
	}
	for _, addr := range addrs {
		if reason, why = s.turnConnect(f, netip.AddrPortFrom(addr.Unmap(), f.target.Port)); reason == 0 {
			break
		}
	}
	if reason != 0 {
		s.counters.FlowsRefused++
		s.turnClose(f, reason, why)
		return
	}
	f.resolving = false
	for _, payload := range f.waiting {
		f.batch = append(f.batch, transport.Packet{Data: payload})
	}
	f.waiting = nil
	if len(f.batch) > 0 {
		s.written = append(s.written, f)
	}
}

// flush sends the turn's datagrams to the target.
func (f *flow) flush() {
	if f.conn != nil && len(f.batch) > 0 {
		if n, err := f.conn.WriteBatch(f.batch); err != nil {
			f.client.shard.counters.EgressFailed += uint64(len(f.batch) - n)
		}
	}
	clear(f.batch)
	f.batch = f.batch[:0]
}

// cameBack returns when something came from the target last; zero: never.
func (f *flow) cameBack() time.Time {
	at := f.lastDown.Load()
	if at == 0 {
		return time.Time{}
	}
	return time.Unix(0, at)
}

// turnIdleFlow looks at the flow whose time has come, and closes it if it is idle. It reports
// whether there was one.
func (s *Shard) turnIdleFlow(now time.Time) bool {
	f, ok := s.flowTimes.Pop(now)
	if !ok {
		return false
	}
	last := f.lastUp
	if down := f.cameBack(); down.After(last) {
		last = down
	}
	if idleAt := last.Add(s.config.flowIdle()); now.Before(idleAt) {
		s.flowTimes.Set(&f.timer, idleAt)
	} else {
		s.turnClose(f, wire.FlowIdle, "nothing passed for "+s.config.flowIdle().String())
	}
	return true
}

// turnFlowClosed handles a client's FlowClosed.
func (s *Shard) turnFlowClosed(c *client, content []byte) {
	m, err := wire.ParseFlowClosed(content)
	if err != nil {
		s.counters.Malformed++
		return
	}
	if f := c.flows[m.FlowID]; f != nil {
		s.turnDrop(f)
	}
	if c.forwards[m.FlowID] != nil {
		s.turnUnclaim(c, func(h *claim) bool { return h.flowID == m.FlowID })
		delete(c.forwards, m.FlowID)
	}
}

// turnClose ends a flow and tells the client.
func (s *Shard) turnClose(f *flow, reason wire.FlowReason, detail string) {
	f.client.closed(f.id, reason, detail)
	s.turnDrop(f)
}

// turnDrop ends a flow.
func (s *Shard) turnDrop(f *flow) {
	if f.client.flows[f.id] != f {
		return
	}
	delete(f.client.flows, f.id)
	f.dropped.Store(true)
	s.flows--
	s.flowTimes.Set(&f.timer, time.Time{})
	if f.forget != nil {
		f.forget()
	}
	s.counters.EgressFailed += uint64(len(f.waiting))
	f.waiting = nil
	f.flush()
	if f.conn != nil {
		s.turnDiscard(f.conn)
	}
}
