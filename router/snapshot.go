package router

import (
	"bytes"
	"fmt"
	"time"

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
	st.writeShard(w, sockets)
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
				c.write(w, sockets)
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

// writeShard writes a Shard frame: upstreams and handshakes.
func (st *shardState) writeShard(w *snapshot.Writer, sockets cookies) {
	w.Uint32(uint32(len(st.forwarder.upstreams)))
	for _, u := range st.forwarder.upstreams {
		w.Fixed(u.identity[:])
		w.AddrPort(u.addr)
		w.Uint64(sockets[u.conn])
	}
	st.handshakes.Write(w)
}

// readShard reads a Shard frame.
func (st *shardState) readShard(r *snapshot.Reader, sockets *inheritedSockets) error {
	for range r.Count(maxItems, minItem) {
		u := &upstream{env: st.shardEnv, bindings: make(map[uint32]*indexBinding)}
		r.Fixed(u.identity[:])
		u.addr = r.AddrPort()
		if u.conn = sockets.take(r.Uint64(), u); u.conn != nil && r.Err() == nil {
			st.forwarder.upstreams[u.identity] = u
		}
	}
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
		c := &client{env: st.shardEnv, session: session}
		session.User = c
		st.readClient(one, c, sockets)
		if err := one.End(); err != nil {
			return fmt.Errorf("shard %d: %w", st.id, err)
		}
		if index := session.Current().Index(); st.steer.Shard(index) != st.id || !st.sessions.Restore(session) {
			return fmt.Errorf("shard %d: index %#x belongs to another session", st.id, index)
		}
	}
	return r.Err()
}

// write writes a client without flowClosed.
func (c *client) write(w *snapshot.Writer, sockets cookies) {
	w.Time(c.hellos)
	w.Uint32(uint32(len(c.flows)))
	start := w.Len()
	for _, f := range c.flows {
		f.write(w, sockets, w.Len()-start < maxClientBuffered)
	}
	w.Uint32(uint32(len(c.forwards)))
	for id, f := range c.forwards {
		w.Uint16(id)
		w.Fixed(f.upstream.identity[:])
	}
	w.Uint32(uint32(len(c.bindings)))
	for _, b := range c.bindings {
		w.Fixed(b.upstream.identity[:])
		w.Uint32(b.index)
		w.Uint16(b.flowID)
		w.Time(b.last)
	}
	q := c.queue.Load()
	if q == nil {
		w.Uint32(0)
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	w.Uint32(uint32(len(q.packets)))
	for i := range q.packets {
		w.Bool(q.notes[i].flow)
		w.Blob(q.packets[i].Data)
	}
}

// readClient reads a client.
func (st *shardState) readClient(r *snapshot.Reader, c *client, sockets *inheritedSockets) {
	c.hellos = r.Time()
	flows := r.Count(maxItems, minItem)
	if flows > 0 {
		c.flows = make(map[uint16]*flow, min(flows, 64))
	}
	for range flows {
		st.readFlow(r, c, sockets)
	}
	forwards := r.Count(maxItems, minItem)
	if forwards > 0 {
		c.forwards = make(map[uint16]*forward)
	}
	for range forwards {
		var to identityKey
		id := r.Uint16()
		r.Fixed(to[:])
		if u := st.forwarder.upstreams[to]; u != nil && r.Err() == nil {
			c.forwards[id] = &forward{upstream: u}
		}
	}
	for range r.Count(maxItems, minItem) {
		st.readBinding(r, c)
	}
	for range r.Count(maxItems, 4) {
		flow := r.Bool()
		if packet := r.Blob(wire.MaxTCPPacket); packet != nil {
			c.pollQueue().push(packet, flow)
		}
	}
}

// write writes a flow, with its buffered datagrams if there is room.
func (f *flow) write(w *snapshot.Writer, sockets cookies, room bool) {
	w.Uint16(f.id)
	w.Blob(f.target.Append(nil))
	w.Bool(f.resolving)
	w.Uint64(sockets[f.conn])
	w.Time(f.lastUp)
	w.Time(f.returnedAt())
	if !room {
		w.Uint32(0)
		return
	}
	w.Uint32(uint32(len(f.waiting)))
	for _, d := range f.waiting {
		w.Blob(d)
	}
}

// readFlow reads a flow. One without its socket is left out: the client opens it again.
func (st *shardState) readFlow(r *snapshot.Reader, c *client, sockets *inheritedSockets) {
	f := &flow{id: r.Uint16(), client: c}
	target, _, err := wire.CutTarget(r.Blob(maxTarget))
	if err != nil {
		r.Fail("a flow's target: %v", err)
	}
	f.target = target
	f.target.Name = bytes.Clone(target.Name)
	f.resolving, f.cancel = r.Bool(), func() {}
	cookie := r.Uint64()
	f.lastUp = r.Time()
	if at := r.Time(); !at.IsZero() {
		f.lastDown.Store(at.UnixNano())
	}
	for range r.Count(maxItems, 4) {
		f.waiting = append(f.waiting, bytes.Clone(r.Blob(maxBuffered)))
	}
	if r.Err() != nil || c.flows[f.id] != nil {
		r.Fail("a flow")
		return
	}
	if !f.resolving {
		if f.conn = sockets.take(cookie, f); f.conn == nil {
			return
		}
	}
	c.flows[f.id] = f
	st.flows.open++
	f.timer.Value = f
	st.flows.timers.Set(&f.timer, f.lastUp.Add(st.limits.Load().FlowIdle))
}

// readBinding reads a binding of c.
func (st *shardState) readBinding(r *snapshot.Reader, c *client) {
	var to identityKey
	r.Fixed(to[:])
	b := &indexBinding{index: r.Uint32(), client: c, flowID: r.Uint16(), last: r.Time()}
	if b.upstream = st.forwarder.upstreams[to]; b.upstream == nil || r.Err() != nil || b.upstream.bindings[b.index] != nil {
		return
	}
	b.timer.Value = b
	b.upstream.bindings[b.index] = b
	c.bindings = append(c.bindings, b)
	st.forwarder.timers.Set(&b.timer, b.last.Add(st.limits.Load().ClaimTTL))
}

// resumeLookups starts the name lookups of flows again.
func (st *shardState) resumeLookups() {
	st.eachFlow(func(f *flow) {
		if f.resolving {
			st.startLookup(f)
		}
	})
}
