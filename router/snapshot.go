package router

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"lewes/router/account"
	"lewes/router/handover"
	"lewes/state"
	"lewes/state/snapshot"
	"lewes/state/wire"
	"lewes/transport"
)

// Bounds of a snapshot.
const (
	maxTarget     = 300     // bytes of a flow's target
	maxBuffered   = 1 << 16 // bytes of a datagram that waits for a name lookup
	minItem       = 8       // bytes of a counted item
	maxItems      = 1 << 20
	sessionsFrame = 64 << 10 // bytes after which a Sessions frame is sent
	// maxClientBuffered bounds the buffered datagrams of one session, in bytes.
	maxClientBuffered = 8 << 20
)

// cookies are the system's identifiers of the sockets that were sent to a successor.
type cookies map[transport.Conn]uint64

// sendFrame sends a frame. It is safe for concurrent use.
type sendFrame func(kind handover.Kind, payload []byte) error

// writeState writes the shard and freezes its sessions. The shard is paused.
func (st *shardState) writeState(now time.Time, sockets cookies, send sendFrame) error {
	w := snapshot.NewWriter(make([]byte, 0, sessionsFrame), now)
	defer w.Wipe()
	flush := func(kind handover.Kind) error {
		err := send(kind, w.Bytes())
		w.Wipe()
		return err
	}
	w.Uint16(uint16(st.id))
	st.codeUpstreams(snapshot.Encode(w), codecSockets{sent: sockets})
	st.handshakes.Write(w)
	if err := flush(handover.Shard); err != nil {
		return err
	}
	var failed error
	st.eachClient(func(c *client) {
		if failed != nil {
			return
		}
		if w.Len() == 0 {
			w.Uint16(uint16(st.id))
		}
		c.session.Freeze()
		w.Part(func() {
			if failed = c.session.Write(w); failed == nil {
				key := c.account.Key()
				key.Snapshot(snapshot.Encode(w))
				st.codeClient(snapshot.Encode(w), c, codecSockets{sent: sockets})
			}
		})
		if failed == nil && w.Len() >= sessionsFrame {
			failed = flush(handover.Sessions)
		}
	})
	if failed == nil && w.Len() > 0 {
		failed = flush(handover.Sessions)
	}
	return failed
}

// thaw undoes the freezing of writeState.
func (st *shardState) thaw() { st.sessions.All((*state.Session).Thaw) }

// readShard reads a Shard frame.
func (st *shardState) readShard(r *snapshot.Reader, sockets *inheritedSockets) error {
	st.codeUpstreams(snapshot.Decode(r), codecSockets{inherited: sockets})
	if err := st.handshakes.Read(r); err != nil {
		return fmt.Errorf("shard %d: %w", st.id, err)
	}
	return r.End()
}

// readSessions reads a Sessions frame.
func (st *shardState) readSessions(r *snapshot.Reader, sockets *inheritedSockets) error {
	for r.Len() > 0 && r.Err() == nil {
		one := r.Part()
		session, err := state.ReadSession(one, st.handshakes.SessionConfig())
		if err != nil {
			return fmt.Errorf("shard %d: %w", st.id, err)
		}
		var key account.Key
		key.Snapshot(snapshot.Decode(one))
		c := st.newClient(st.now(), session, key)
		c.account.Force(account.Sessions)
		st.codeClient(snapshot.Decode(one), c, codecSockets{inherited: sockets})
		if err := one.End(); err != nil {
			return fmt.Errorf("shard %d: %w", st.id, err)
		}
		restored := false
		st.table.write(func() { restored = st.sessions.Restore(session) })
		if index := session.Current().Index(); st.steer.Shard(index) != st.id || !restored {
			return fmt.Errorf("shard %d: index %#x belongs to another session", st.id, index)
		}
	}
	return r.Err()
}

// codecSockets are the sockets of a snapshot by cookie: sent ones when encoding, inherited ones when
// decoding.
type codecSockets struct {
	sent      cookies
	inherited *inheritedSockets
}

// codeList codes n items. Decoding passes new items to code, which keeps the valid ones.
func codeList[T any](c *snapshot.Codec, n int, items iter.Seq[*T], code func(*T)) {
	n = c.Count(n, maxItems, minItem)
	if !c.Decoding() {
		for v := range items {
			code(v)
		}
		return
	}
	for range n {
		code(new(T))
	}
}

// codeUpstreams codes the upstreams. One without its socket is left out.
func (st *shardState) codeUpstreams(c *snapshot.Codec, s codecSockets) {
	all := st.forwarder.upstreams
	codeList(c, len(all), maps.Values(all), func(u *upstream) {
		cookie := s.sent[u.conn]
		c.Fixed(u.identity[:])
		c.AddrPort(&u.addr)
		c.Uint64(&cookie)
		if c.Decoding() && c.Err() == nil {
			u.env, u.bindings = st.shardEnv, make(map[uint32]*indexBinding)
			if u.conn = s.inherited.take(cookie, u); u.conn != nil {
				all[u.identity] = u
			}
		}
	})
}

// codeUpstream codes the identity of an upstream. Decoding sets nil for an unknown one.
func (st *shardState) codeUpstream(c *snapshot.Codec, u **upstream) {
	var id identityKey
	if *u != nil {
		id = (*u).identity
	}
	c.Fixed(id[:])
	if c.Decoding() {
		*u = st.forwarder.upstreams[id]
	}
}

// codeClient codes a client without flowClosed.
func (st *shardState) codeClient(c *snapshot.Codec, owner *client, s codecSockets) {
	room := maxClientBuffered
	codeList(c, len(owner.flows), maps.Values(owner.flows), func(f *flow) {
		f.client = owner
		st.codeFlow(c, f, s, &room)
	})
	codeList(c, len(owner.forwards), maps.Values(owner.forwards), func(f *forward) {
		c.Uint16(&f.id)
		st.codeUpstream(c, &f.upstream)
		if c.Decoding() && c.Err() == nil && f.upstream != nil && owner.forwards[f.id] == nil {
			owner.addForward(f)
			owner.account.Force(account.Forwards)
		}
	})
	codeList(c, len(owner.bindings), slices.Values(owner.bindings), func(b *indexBinding) {
		b.client = owner
		st.codeUpstream(c, &b.upstream)
		c.Uint32(&b.index)
		c.Uint16(&b.flowID)
		c.Time(&b.last)
		if c.Decoding() && c.Err() == nil && b.upstream != nil && b.upstream.bindings[b.index] == nil {
			b.timer.Value = b
			b.upstream.bindings[b.index] = b
			owner.addBinding(b)
			owner.account.Force(account.Claims)
			st.forwarder.timers.Set(&b.timer, b.last.Add(IndexBindingTTL))
		}
	})
	owner.stats.code(c)
	st.codeUnregistered(c, owner)
	st.codeRegistration(c, owner)
	if c.Decoding() && c.Err() == nil {
		st.requireRegistration(owner)
	}
	owner.codeRekey(c)
	owner.codeQueue(c)
}

// codeFlow codes a flow, with its buffered datagrams while there is room. One without its socket is
// left out: the client opens it again.
func (st *shardState) codeFlow(c *snapshot.Codec, f *flow, s codecSockets, room *int) {
	var target []byte
	cookie, down, waiting := s.sent[f.conn], f.returnedAt(), f.waiting
	if !c.Decoding() {
		target = f.target.Append(nil)
		for _, d := range waiting {
			*room -= len(d)
		}
		if *room < 0 {
			waiting = nil
		}
	}
	c.Uint16(&f.id)
	c.Blob(&target, maxTarget)
	snapshot.Byte(c, &f.step)
	c.Check(f.step < flowSteps, "flow at step %d", f.step)
	c.Uint64(&cookie)
	c.Time(&f.lastUp)
	c.Time(&down)
	n := c.Count(len(waiting), maxItems, 4)
	if !c.Decoding() {
		for i := range waiting {
			c.Blob(&waiting[i], maxBuffered)
		}
		return
	}
	for range n {
		var d []byte
		c.Blob(&d, maxBuffered)
		f.waiting = append(f.waiting, d)
	}
	st.restoreFlow(c, f, s.inherited, target, cookie, down)
}

// restoreFlow adds a decoded flow to its client and to the table.
func (st *shardState) restoreFlow(c *snapshot.Codec, f *flow, sockets *inheritedSockets, target []byte, cookie uint64, down time.Time) {
	var err error
	f.target, _, err = wire.CutTarget(target) // target is a copy, so the name is the flow's own
	flows := f.client.flows
	c.Check(err == nil && flows[f.id] == nil, "flow %d: %v", f.id, err)
	if c.Err() != nil {
		return
	}
	if !down.IsZero() {
		f.lastDown.Store(down.UnixNano())
	}
	f.sent = 1 << 63 // answers may be due: never all answered
	f.cancel = func() {}
	if f.step == flowOpen {
		if f.conn = sockets.take(cookie, f); f.conn == nil {
			return
		}
	}
	if flows == nil {
		flows = make(map[uint16]*flow)
		f.client.flows = flows
	}
	flows[f.id] = f
	f.client.account.Force(account.Flows)
	st.flows.add(f, f.lastUp.Add(st.limits.Load().FlowIdle))
}

// codeQueue codes the packets that are queued for a session on TCP.
func (c *client) codeQueue(codec *snapshot.Codec) {
	n, q := 0, c.queue.Load()
	if q != nil {
		q.mu.Lock()
		n = len(q.packets)
		defer q.mu.Unlock()
	}
	for i := range codec.Count(n, maxItems, 4) {
		var packet []byte
		var flow bool
		if !codec.Decoding() {
			packet, flow = q.packets[i].Data, q.notes[i].flow
		}
		codec.Bool(&flow)
		codec.Blob(&packet, wire.MaxTCPPacket)
		if codec.Decoding() && packet != nil {
			c.pollQueue().push(packet, flow)
		}
	}
}

// codeRekey codes the queued messages of a client's rekey. Those of other keys than the current ones
// have no effect any more and are left out.
func (c *client) codeRekey(codec *snapshot.Codec) {
	current, messages := c.session.Current(), c.rekey[:0:0]
	for _, m := range c.rekey {
		if m.keys == current {
			messages = append(messages, m)
		}
	}
	codeList(codec, len(messages), pointers(messages), func(m *rekeyMessage) {
		codec.Uint16((*uint16)(&m.kind))
		codec.Blob(&m.content, wire.MaxTCPPacket)
		codec.Path(&m.from)
		if codec.Decoding() && codec.Err() == nil && len(c.rekey) < maxRekeyMessages {
			m.keys = current
			c.rekey = append(c.rekey, *m)
		}
	})
}

// pointers returns an iterator over pointers to the elements of a slice.
func pointers[T any](s []T) iter.Seq[*T] {
	return func(yield func(*T) bool) {
		for i := range s {
			if !yield(&s[i]) {
				return
			}
		}
	}
}

// resumeTasks queues the tasks that a predecessor did not get to, and starts its lookups again.
func (st *shardState) resumeTasks() {
	st.eachClient(func(c *client) {
		for range c.rekey {
			st.work.push(c, task{rekey: c})
		}
	})
	st.eachFlow(func(f *flow) {
		if f.step != flowOpen {
			f.step = flowQueued
			if f.target.Kind() == wire.TargetName {
				f.client.account.Force(account.Lookups)
			}
			st.work.push(f.client, task{flow: f})
		}
	})
}
