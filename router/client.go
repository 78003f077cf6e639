package router

import (
	"sync/atomic"
	"time"

	"lewes/state"
	"lewes/state/wire"
)

// client is what a shard keeps for one session: its flows, and the indexes that
// it has claimed at other gateways.
type client struct {
	shard   *Shard
	session *state.Session

	flows    map[uint16]*flow
	forwards map[uint16]*forward
	claims   []*claim // held at other gateways, at most Config.MaxClaims

	hellos time.Time            // when the budget of inner hellos is full again
	told   map[uint16]time.Time // when FlowClosed was last sent for an unknown flow

	down atomic.Pointer[downstream] // what waits while the session is on TCP; nil: nothing ever did
}

// maxTold bounds the flow ids whose last FlowClosed is remembered.
const maxTold = 256

// flowCount returns how many flow ids the session uses: datagram flows and
// forwarding share one space and one bound.
func (c *client) flowCount() int { return len(c.flows) + len(c.forwards) }

// tell answers on a flow that is not there, at most once a second.
func (c *client) tell(now time.Time, id uint16, reason wire.FlowReason, detail string) {
	if at, ok := c.told[id]; ok && now.Sub(at) < time.Second {
		return
	}
	if c.told == nil || len(c.told) >= maxTold {
		c.told = make(map[uint16]time.Time)
	}
	c.told[id] = now
	c.closed(id, reason, detail)
}

// closed sends a FlowClosed.
func (c *client) closed(id uint16, reason wire.FlowReason, detail string) {
	m := wire.FlowClosed{FlowID: id, Reason: reason, Detail: wire.Detail(detail)}
	_ = c.session.Send(wire.TypeFlowClosed, &m, &c.shard.output) // a closed session is told already
}

// mayGreet takes a token of the session's budget of inner hellos.
func (c *client) mayGreet(now time.Time) bool {
	interval := time.Duration(float64(time.Second) / c.shard.config.helloRate())
	full := now
	if c.hellos.After(now) {
		full = c.hellos
	}
	full = full.Add(interval)
	if full.Sub(now) > interval*time.Duration(c.shard.config.helloBurst()) {
		return false
	}
	c.hellos = full
	return true
}

// turnForget drops what a session that has ended still holds.
func (s *Shard) turnForget(t *state.Session) {
	c, ok := t.User.(*client)
	if !ok {
		return
	}
	for _, f := range c.flows {
		s.turnDrop(f)
	}
	s.turnUnclaim(c, func(*claim) bool { return true })
	c.forwards = nil
	s.turnLastWords(c)
}
