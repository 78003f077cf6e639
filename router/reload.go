package router

import (
	"net/netip"
	"time"

	"lewes/state"
	"lewes/state/wire"
)

// SetLimits changes the gateway's bounds. Sessions, flows and bindings beyond a lower bound stay
// until they end.
func (g *Gateway) SetLimits(l Limits) { g.limits.Store(l.withDefaults()) }

// ReapplyPolicy closes the flows to targets that the egress policy no longer allows, notifies their
// clients, and returns their number. The owner calls it when the policy has changed.
func (g *Gateway) ReapplyPolicy() (closed int) {
	for _, s := range g.shards {
		s.Do(func(_ time.Time, st *shardState) { closed += st.reapplyPolicy() })
	}
	return closed
}

func (st *shardState) reapplyPolicy() (closed int) {
	st.eachFlow(func(f *flow) {
		to, ok := f.conn.(interface{ RemoteAddrPort() netip.AddrPort })
		if !ok {
			return
		}
		if err := st.config.Policy.Check(to.RemoteAddrPort()); err != nil {
			st.closeFlow(f, wire.FlowPolicy, denialReason(err))
			closed++
		}
	})
	return closed
}

// ReapplyAccess closes the sessions of clients that are no longer admitted, and returns their
// number. The owner calls it when the set of admitted clients has changed.
func (g *Gateway) ReapplyAccess() (closed int) {
	if g.config.Access == nil {
		return 0
	}
	for _, s := range g.shards {
		closed += s.CloseUnless(func(t *state.Session) bool { return g.config.Access(t.Peer()).Admitted })
	}
	return closed
}

// eachClient calls f for every session's client.
func (st *shardState) eachClient(f func(*client)) {
	st.sessions.All(func(t *state.Session) {
		if c, ok := t.User.(*client); ok {
			f(c)
		}
	})
}

// eachFlow calls f for every flow.
func (st *shardState) eachFlow(f func(*flow)) {
	st.eachClient(func(c *client) {
		for _, l := range c.flows {
			f(l)
		}
	})
}
