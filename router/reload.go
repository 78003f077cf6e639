package router

import (
	"context"
	"maps"
	"net/netip"
	"slices"

	"lewes/crypto/identity"
	"lewes/state"
	"lewes/state/wire"
)

// SetLimits changes the gateway's bounds. Sessions, flows and bindings beyond a lower bound stay
// until they end, and none is added before there is room (section 12).
func (g *Gateway) SetLimits(l Limits) { g.limits.Store(l.withDefaults()) }

// ReapplyPolicy closes the flows to targets that the egress policy no longer allows, notifies their
// clients, and returns their number. The owner calls it when the policy has changed. A flow that
// opens meanwhile, or whose name is still being resolved, meets the changed policy by itself.
func (g *Gateway) ReapplyPolicy() (closed int) {
	return g.walk(context.Background(), reapplyPolicy)
}

func reapplyPolicy(closed *int) step {
	at := state.Start
	return func(st *shardState) int {
		f, ok := st.flows.all.Next(&at)
		if !ok {
			return 0
		}
		to, ok := f.conn.(interface{ RemoteAddrPort() netip.AddrPort })
		if !ok {
			return visitUnits
		}
		err := st.config.Policy.Check(to.RemoteAddrPort())
		if err == nil {
			return visitUnits
		}
		st.closeFlow(f, wire.FlowPolicy, denialReason(err))
		*closed++
		return closeUnits
	}
}

// ReapplyClients applies a change of the list of clients that Config.Access already has. It closes
// the sessions, and removes the handshakes, of removed clients that are no longer admitted, and
// returns the number of sessions. The limits of changed clients take effect. The sessions of other
// clients are not looked at.
func (g *Gateway) ReapplyClients(removed, changed []identity.PublicKey) (closed int) {
	for some := range slices.Chunk(changed, sliceUnits) {
		g.accounts.Refresh(some)
	}
	if g.config.Access == nil || len(removed) == 0 {
		return 0
	}
	return g.walk(context.Background(), func(closed *int) step { return removeClients(removed, closed) })
}

func removeClients(removed []identity.PublicKey, closed *int) step {
	return func(st *shardState) int {
		if len(removed) == 0 {
			return 0
		}
		client := removed[0]
		if !st.config.standing(client).Admitted {
			if session := st.sessions.OfPeer(client); session != nil {
				*closed++
				return st.closeRemoved(session)
			}
			if st.handshakes.RemoveOf(client) {
				return visitUnits
			}
		}
		removed = removed[1:]
		return visitUnits
	}
}

// ReapplyAccess closes the sessions, and removes the handshakes, of all clients that Config.Access
// no longer admits, and returns the number of sessions. The owner calls it when it does not know
// which clients were removed. A session that starts meanwhile meets the changed rule by itself.
func (g *Gateway) ReapplyAccess() (closed int) {
	if g.config.Access == nil {
		return 0
	}
	return g.walk(context.Background(), reapplyAccess)
}

func reapplyAccess(closed *int) step {
	atSession, atHandshake := state.Start, state.Start
	return func(st *shardState) int {
		session, ok := st.sessions.Walk(&atSession)
		if ok && !st.config.standing(session.Peer()).Admitted {
			*closed++
			return st.closeRemoved(session)
		}
		if ok || st.handshakes.Reapply(&atHandshake) {
			return visitUnits
		}
		return 0
	}
}

// closeRemoved closes the session of a client that is no longer admitted.
func (st *shardState) closeRemoved(session *state.Session) (units int) {
	return st.closeSession(session, wire.CloseDone, "this identity is no longer listed")
}

// ReapplyDirectory closes the flows to gateways that have left the directory, releases their index
// bindings, and returns the number of flows. Flows to a gateway whose address has changed go to the
// new one. The owner calls it when the directory has changed.
func (g *Gateway) ReapplyDirectory() (closed int) {
	if g.config.Directory == nil {
		return 0
	}
	return g.walk(context.Background(), reapplyDirectory)
}

func reapplyDirectory(closed *int) step {
	var upstreams, removed []*upstream
	started := false
	return func(st *shardState) int {
		if !started {
			started = true
			upstreams = slices.Collect(maps.Values(st.forwarder.upstreams))
			return visitUnits + len(upstreams)
		}
		if n := len(upstreams); n > 0 {
			u := upstreams[n-1]
			upstreams = upstreams[:n-1]
			if st.forwarder.upstreams[u.identity] != u {
				return visitUnits // another walk has removed it
			}
			if st.config.Directory.lists(u.identity) {
				_, _, _ = st.upstreamFor(u.identity) // connects it again if it has moved
			} else {
				delete(st.forwarder.upstreams, u.identity)
				_ = u.conn.Close() // nothing passes from now on
				removed = append(removed, u)
			}
			return closeUnits
		}
		for len(removed) > 0 {
			last := state.Start
			if f, ok := removed[0].forwards.Next(&last); ok {
				*closed++
				return st.closeForward(f, wire.FlowPolicy, notInDirectory)
			}
			removed = removed[1:]
		}
		return 0
	}
}

// eachClient calls f for every session's client.
func (st *shardState) eachClient(f func(*client)) {
	st.sessions.All(func(t *state.Session) {
		if c, ok := t.User.(*client); ok {
			f(c)
		}
	})
}

// eachFlow calls f for every flow. f may end the flow that it is called with.
func (st *shardState) eachFlow(f func(*flow)) { st.flows.all.All(f) }
