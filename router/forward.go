package router

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"lewes/crypto/identity"
	"lewes/state"
	"lewes/state/wire"
	"lewes/transport"
)

// nextGateway is a gateway that a shard forwards to: one socket for all sessions,
// and the claims that say whose each inner index is.
type nextGateway struct {
	shard    *Shard
	identity identity.PublicKey
	addr     netip.AddrPort
	conn     transport.Conn
	batch    []transport.Packet // to the gateway, in this turn

	// claims is changed in turns and read by what brings back, which takes the lock
	// once a batch.
	mu     sync.RWMutex
	claims map[uint32]*claim
}

// forward is a session's flow to another gateway.
type forward struct {
	next *nextGateway
}

// claim says that packets of an inner index belong to a session.
type claim struct {
	next   *nextGateway
	index  uint32
	client *client
	flowID uint16
	timer  state.Timer[*claim]
	last   time.Time
}

// turnForward handles a ForwardPacket.
func (s *Shard) turnForward(now time.Time, c *client, content []byte) {
	m, err := wire.ParseForwardPacket(content)
	if err != nil {
		s.counters.Malformed++
		return
	}
	f := c.forwards[m.FlowID]
	if f == nil {
		if f = s.turnOpenForward(now, c, &m); f == nil {
			return
		}
	} else if m.Flags != 0 && f.next.identity != m.Identity {
		c.tell(now, m.FlowID, wire.FlowOtherTarget, "this flow goes to another gateway")
		return
	}
	if !s.turnClaim(now, c, f, &m) {
		return
	}
	s.counters.Forwarded++
	if len(f.next.batch) == 0 {
		s.forwarded = append(s.forwarded, f.next)
	}
	f.next.batch = append(f.next.batch, transport.Packet{Data: m.Inner})
}

func (s *Shard) turnOpenForward(now time.Time, c *client, m *wire.ForwardPacket) *forward {
	refuse := func(reason wire.FlowReason, detail string) *forward {
		s.counters.FlowsRefused++
		c.tell(now, m.FlowID, reason, detail)
		return nil
	}
	switch {
	case m.Flags == 0:
		return refuse(wire.FlowIdle, "no flow with this id is open: send with the gateway's identity")
	case c.flows[m.FlowID] != nil:
		return refuse(wire.FlowOtherTarget, "this flow goes to a target")
	case c.flowCount() >= s.config.maxFlowsPerSession():
		return refuse(wire.FlowBound, "")
	}
	next, err := s.turnNext(m.Identity)
	if err != nil {
		return refuse(wire.FlowPolicy, err.Error())
	}
	if c.forwards == nil {
		c.forwards = make(map[uint16]*forward)
	}
	f := &forward{next: next}
	c.forwards[m.FlowID] = f
	delete(c.told, m.FlowID)
	return f
}

var (
	errNoDirectory = errors.New("that gateway is not in this gateway's directory")
	errNoWay       = errors.New("no way to that gateway")
)

// turnNext returns the way to a gateway of the directory.
func (s *Shard) turnNext(id identity.PublicKey) (*nextGateway, error) {
	addr, ok := s.config.Directory.Find(id)
	if !ok {
		return nil, errNoDirectory
	}
	n := s.nexts[id]
	if n != nil && n.addr == addr {
		return n, nil
	}
	conn, err := s.config.Egress.Dial(addr)
	if err != nil {
		return nil, errNoWay
	}
	if n == nil {
		n = &nextGateway{shard: s, identity: id, claims: make(map[uint32]*claim)}
		s.nexts[id] = n
	} else {
		_ = n.conn.Close() // it has moved; nothing comes back by the old socket
	}
	n.addr, n.conn = addr, conn
	s.turnReturn(conn, n)
	return n, nil
}

// turnClaim checks that the inner packet's index is the session's, or makes it
// so.
func (s *Shard) turnClaim(now time.Time, c *client, f *forward, m *wire.ForwardPacket) bool {
	index, hello, err := wire.ParseInner(m.Inner)
	if err != nil || len(m.Inner) > wire.MaxUDPPacket {
		s.counters.Malformed++
		return false
	}
	if hello && !c.mayGreet(now) {
		s.counters.Refused++
		return false
	}
	held := f.next.claims[index]
	if held != nil && held.client != c {
		if held.client.session.Peer() != c.session.Peer() || held.client.session.Started().After(c.session.Started()) {
			c.closed(m.FlowID, wire.FlowIndexCollision, "")
			return false
		}
		s.turnRelease(held)
		held = nil
	}
	if held == nil {
		if len(c.claims) >= s.config.maxClaims() {
			s.counters.FlowsRefused++
			c.tell(now, m.FlowID, wire.FlowBound, "too many sessions through this gateway")
			return false
		}
		held = &claim{next: f.next, index: index, client: c, flowID: m.FlowID}
		held.timer.Value = held
		f.next.mu.Lock()
		f.next.claims[index] = held
		f.next.mu.Unlock()
		c.claims = append(c.claims, held)
		s.claims.Set(&held.timer, now.Add(s.config.claimTTL()))
	}
	held.last = now
	return true
}

// turnRelease gives a claim up.
func (s *Shard) turnRelease(h *claim) {
	h.next.mu.Lock()
	if h.next.claims[h.index] == h {
		delete(h.next.claims, h.index)
	}
	h.next.mu.Unlock()
	if at := slices.Index(h.client.claims, h); at >= 0 {
		h.client.claims = slices.Delete(h.client.claims, at, at+1)
	}
	s.claims.Set(&h.timer, time.Time{})
}

// turnUnclaim gives up those claims of a session that which names.
func (s *Shard) turnUnclaim(c *client, which func(*claim) bool) {
	for _, h := range slices.Clone(c.claims) {
		if which(h) {
			s.turnRelease(h)
		}
	}
}

// turnIdleClaim looks at the claim whose time has come, and drops it if it was not used for
// long. It reports whether there was one.
func (s *Shard) turnIdleClaim(now time.Time) bool {
	h, ok := s.claims.Pop(now)
	if !ok {
		return false
	}
	if idleAt := h.last.Add(s.config.claimTTL()); now.Before(idleAt) {
		s.claims.Set(&h.timer, idleAt)
	} else {
		s.turnRelease(h)
	}
	return true
}

// flush sends the turn's packets to the gateway.
func (n *nextGateway) flush() {
	if sent, err := n.conn.WriteBatch(n.batch); err != nil {
		n.shard.counters.EgressFailed += uint64(len(n.batch) - sent)
	}
	clear(n.batch)
	n.batch = n.batch[:0]
}

// giveBack implements returning: what comes back belongs to the sessions that own the inner
// indexes.
func (n *nextGateway) giveBack(_ time.Time, w *writer, batch []transport.Packet) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	for i := range batch {
		for inner := range batch[i].Segments() {
			n.giveBackOne(w, inner)
		}
	}
}

// trouble implements returning. The socket's counters have it, and the clients' own
// repetitions find out.
func (n *nextGateway) trouble(error) {}

// giveBackOne seals an inner packet for the session that owns its index.
func (n *nextGateway) giveBackOne(w *writer, inner []byte) {
	h, err := wire.ParseHeader(inner)
	if err != nil {
		n.shard.counters.unclaimed.Add(1)
		return
	}
	held := n.claims[h.ReceiverIdx]
	if held == nil {
		n.shard.counters.unclaimed.Add(1)
		return
	}
	if w.flowPacket(n.shard, held.client.session, wire.TypeForwardPacket, held.flowID, inner) {
		n.shard.counters.returned.Add(1)
	}
}
