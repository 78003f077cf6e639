package router

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"lewes/router/handover"
	"lewes/state"
	"lewes/state/snapshot"
	"lewes/state/wire"
	"lewes/transport"
)

// Bounds of what is read.
const (
	maxTarget     = 300     // bytes of a flow's target
	maxDatagram   = 1 << 16 // bytes of one that waits for a name
	leastCounted  = 8       // bytes of anything that is counted
	maxCounted    = 1 << 20
	sessionsFrame = 64 << 10 // when a frame of sessions is sent
	// maxWaitingForm bounds the datagrams that go along with one session.
	maxWaitingForm = 8 << 20
)

// cookies names the sockets that go to a successor.
type cookies map[transport.Conn]uint64

// heirloom is a socket that came from a predecessor.
type heirloom struct {
	conn  transport.Conn
	owner *owner
}

// heirlooms are those that nobody has yet, by their names.
type heirlooms struct {
	mu       sync.Mutex
	byCookie map[uint64]heirloom
}

// take gives a socket to what comes back on it, nil if it is not there.
func (h *heirlooms) take(cookie uint64, to returning) transport.Conn {
	h.mu.Lock()
	defer h.mu.Unlock()
	one, ok := h.byCookie[cookie]
	if !ok {
		return nil
	}
	delete(h.byCookie, cookie)
	one.owner.returning = to
	return one.conn
}

// add takes a socket over, or closes it.
func (h *heirlooms) add(one heirloom) error {
	cookie, err := uint64(0), error(errors.ErrUnsupported)
	if named, ok := one.conn.(interface{ Cookie() (uint64, error) }); ok {
		cookie, err = named.Cookie()
	}
	if err != nil {
		_ = one.conn.Close()
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.byCookie[cookie] = one
	return nil
}

// close closes what nobody took.
func (h *heirlooms) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, one := range h.byCookie {
		_ = one.conn.Close()
	}
	clear(h.byCookie)
}

// frames takes frames away. It may be called by several goroutines.
type frames func(kind handover.Kind, payload []byte) error

func (s *Shard) turnEachClient(f func(*client)) {
	s.sessions.All(func(t *state.Session) {
		if c, ok := t.User.(*client); ok {
			f(c)
		}
	})
}

func (s *Shard) turnEachFlow(f func(*flow)) {
	s.turnEachClient(func(c *client) {
		for _, l := range c.flows {
			f(l)
		}
	})
}

// wipeSession forgets what a successor goes on with.
func wipeSession(t *state.Session) { t.Wipe() }

// turnWriteState writes the shard, as of now, and freezes its sessions. The shard is
// paused.
func (s *Shard) turnWriteState(now time.Time, sockets cookies, send frames) error {
	w := snapshot.NewWriter(make([]byte, 0, sessionsFrame), now)
	w.Uint16(uint16(s.id))
	w.Uint32(uint32(len(s.nexts)))
	for _, n := range s.nexts {
		w.Fixed(n.identity[:])
		w.AddrPort(n.addr)
		w.Uint64(sockets[n.conn])
	}
	s.handshakes.Write(w)
	if err := sendWritten(w, handover.Shard, send); err != nil {
		return err
	}
	var failed error
	s.turnEachClient(func(c *client) {
		if failed != nil {
			return
		}
		if w.Len() == 0 {
			w.Uint16(uint16(s.id))
		}
		c.session.Freeze()
		w.Part(func() {
			if failed = c.session.Write(w); failed == nil {
				c.write(w, sockets)
			}
		})
		if failed == nil && w.Len() >= sessionsFrame {
			failed = sendWritten(w, handover.Sessions, send)
		}
	})
	if failed == nil && w.Len() > 0 {
		failed = sendWritten(w, handover.Sessions, send)
	}
	w.Wipe()
	return failed
}

func sendWritten(w *snapshot.Writer, kind handover.Kind, send frames) error {
	err := send(kind, w.Bytes())
	w.Wipe()
	return err
}

// turnThaw undoes the freezing of turnWriteState.
func (s *Shard) turnThaw() { s.sessions.All((*state.Session).Thaw) }

// write writes what a shard keeps for a session, but for which flows it was told
// lately that they are not there.
func (c *client) write(w *snapshot.Writer, sockets cookies) {
	w.Time(c.hellos)
	w.Uint32(uint32(len(c.flows)))
	start := w.Len()
	for _, f := range c.flows {
		f.write(w, sockets, w.Len()-start < maxWaitingForm)
	}
	w.Uint32(uint32(len(c.forwards)))
	for id, f := range c.forwards {
		w.Uint16(id)
		w.Fixed(f.next.identity[:])
	}
	w.Uint32(uint32(len(c.claims)))
	for _, h := range c.claims {
		w.Fixed(h.next.identity[:])
		w.Uint32(h.index)
		w.Uint16(h.flowID)
		w.Time(h.last)
	}
	c.writeDownstream(w)
}

// writeDownstream writes what waits for a session that is on TCP.
func (c *client) writeDownstream(w *snapshot.Writer) {
	d := c.down.Load()
	if d == nil {
		w.Uint32(0)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	w.Uint32(uint32(len(d.packets)))
	for i := range d.packets {
		w.Bool(d.notes[i].flow)
		w.Blob(d.packets[i].Data)
	}
}

func (f *flow) write(w *snapshot.Writer, sockets cookies, room bool) {
	w.Uint16(f.id)
	w.Blob(f.target.Append(nil))
	w.Bool(f.resolving)
	w.Uint64(sockets[f.conn])
	w.Time(f.lastUp)
	w.Time(f.cameBack())
	if !room {
		w.Uint32(0)
		return
	}
	w.Uint32(uint32(len(f.waiting)))
	for _, d := range f.waiting {
		w.Blob(d)
	}
}

// turnRead takes a Shard frame over.
func (s *Shard) turnRead(r *snapshot.Reader, sockets *heirlooms) error {
	for range r.Count(maxCounted, leastCounted) {
		n := &nextGateway{shard: s, claims: make(map[uint32]*claim)}
		r.Fixed(n.identity[:])
		n.addr = r.AddrPort()
		if n.conn = sockets.take(r.Uint64(), n); n.conn != nil && r.Err() == nil {
			s.nexts[n.identity] = n
		}
	}
	if err := s.handshakes.Read(r); err != nil {
		return fmt.Errorf("shard %d: %w", s.id, err)
	}
	return r.End()
}

// turnReadSessions takes a Sessions frame over.
func (s *Shard) turnReadSessions(r *snapshot.Reader, sockets *heirlooms) error {
	for r.Len() > 0 && r.Err() == nil {
		one := r.Part()
		session, err := state.ReadSession(one, s.handshakes.SessionConfig())
		if err != nil {
			return fmt.Errorf("shard %d: %w", s.id, err)
		}
		c := &client{shard: s, session: session}
		session.User = c
		c.read(one, sockets)
		if err := one.End(); err != nil {
			return fmt.Errorf("shard %d: %w", s.id, err)
		}
		if index := session.Current().Index(); s.steer.Shard(index) != s.id || !s.sessions.Restore(session) {
			return fmt.Errorf("shard %d: index %#x belongs to another session", s.id, index)
		}
	}
	return r.Err()
}

func (c *client) read(r *snapshot.Reader, sockets *heirlooms) {
	c.hellos = r.Time()
	flows := r.Count(maxCounted, leastCounted)
	if flows > 0 {
		c.flows = make(map[uint16]*flow, min(flows, 64))
	}
	for range flows {
		c.readFlow(r, sockets)
	}
	forwards := r.Count(maxCounted, leastCounted)
	if forwards > 0 {
		c.forwards = make(map[uint16]*forward)
	}
	for range forwards {
		var to identityKey
		id := r.Uint16()
		r.Fixed(to[:])
		if n := c.shard.nexts[to]; n != nil && r.Err() == nil {
			c.forwards[id] = &forward{next: n}
		}
	}
	for range r.Count(maxCounted, leastCounted) {
		c.readClaim(r)
	}
	for range r.Count(maxCounted, 4) {
		flow := r.Bool()
		if packet := r.Blob(wire.MaxTCPPacket); packet != nil {
			c.downstream().push(packet, flow)
		}
	}
}

func (c *client) readFlow(r *snapshot.Reader, sockets *heirlooms) {
	s := c.shard
	f := &flow{id: r.Uint16(), client: c}
	target, _, err := wire.CutTarget(r.Blob(maxTarget))
	if err != nil {
		r.Fail("a flow's target: %v", err)
	}
	f.target = target
	f.target.Name = bytes.Clone(target.Name)
	f.resolving, f.forget = r.Bool(), func() {}
	cookie := r.Uint64()
	f.lastUp = r.Time()
	if at := r.Time(); !at.IsZero() {
		f.lastDown.Store(at.UnixNano())
	}
	for range r.Count(maxCounted, 4) {
		f.waiting = append(f.waiting, bytes.Clone(r.Blob(maxDatagram)))
	}
	if r.Err() != nil || c.flows[f.id] != nil {
		r.Fail("a flow")
		return
	}
	if !f.resolving {
		if f.conn = sockets.take(cookie, f); f.conn == nil {
			return // its socket did not come: the client opens it anew
		}
	}
	c.flows[f.id] = f
	s.flows++
	f.timer.Value = f
	s.flowTimes.Set(&f.timer, f.lastUp.Add(s.config.flowIdle()))
}

func (c *client) readClaim(r *snapshot.Reader) {
	var to identityKey
	r.Fixed(to[:])
	h := &claim{index: r.Uint32(), client: c, flowID: r.Uint16(), last: r.Time()}
	if h.next = c.shard.nexts[to]; h.next == nil || r.Err() != nil || h.next.claims[h.index] != nil {
		return
	}
	h.timer.Value = h
	h.next.claims[h.index] = h
	c.claims = append(c.claims, h)
	c.shard.claims.Set(&h.timer, h.last.Add(c.shard.config.claimTTL()))
}

// turnBegin starts what a shard that was read has to do: the names that are looked up
// begin again, and what is denied by now ends.
func (s *Shard) turnBegin(now time.Time) {
	s.turnEachFlow(func(f *flow) {
		if f.resolving {
			s.turnLookUp(f)
		}
	})
	s.turnRecheck()
}

// turnRecheck closes the flows that the egress policy does not allow any more.
func (s *Shard) turnRecheck() (closed int) {
	s.turnEachFlow(func(f *flow) {
		to, ok := f.conn.(interface{ RemoteAddrPort() netip.AddrPort })
		if !ok {
			return
		}
		if err := s.config.Policy.Check(to.RemoteAddrPort()); err != nil {
			s.turnClose(f, wire.FlowPolicy, reasonOf(err))
			closed++
		}
	})
	return closed
}
