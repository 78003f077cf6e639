package router

import (
	"sync/atomic"
	"time"

	"lewes/crypto/identity"
	"lewes/router/account"
	"lewes/state"
	"lewes/state/wire"
)

// client is the state of a session beyond package state: its flows and index bindings. It is
// guarded by the shard's lock, except env, session, queue and registered.
type client struct {
	env     *shardEnv
	session *state.Session
	queue   atomic.Pointer[pollQueue] // while the session is on TCP; nil: never used

	flows    map[uint16]*flow
	forwards map[uint16]*forward
	bindings []*indexBinding // at other gateways

	stats      clientStats
	trace      *Trace // nil: none
	account    *account.Account
	registered atomic.Pointer[registration]
	dropped    bool           // it has left its account
	rekey      []rekeyMessage // queued, oldest first
	work       account.Budget // time of the shard
	// unregistered ends the wait for a required registration; nil: it is there, or not required.
	unregistered *state.Timer[*client]
	flowClosed   map[uint16]time.Time // time of the last FlowClosed for an unknown flow
}

// newClient gives a session its client and a place in the account of key.
func (st *shardState) newClient(now time.Time, session *state.Session, key account.Key) *client {
	c := &client{env: st.shardEnv, session: session, account: st.accounts.Join(now, key)}
	c.stats.first = session.Path().Transport
	c.stats.last = c.stats.first
	session.User = c
	return c
}

// replaceAfter is the time without an authentic packet after which a session gives way to a newer one
// of its client: a client that has lost its session begins another within that time (section 11).
const replaceAfter = 3 * time.Second

// addClient gives a new session its client, and reports whether its account has room for it. In a full
// account the session that its client has left, which nobody told the gateway of, gives way: at once
// in this shard, and in another before the client tries again.
func (st *shardState) addClient(now time.Time, session *state.Session) (fits bool) {
	peer := session.Peer()
	c := st.newClient(now, session, st.accountKey(session))
	if c.account.Take(account.Sessions) {
		return true
	}
	if st.replaceIdle(now, peer) && c.account.Take(account.Sessions) {
		return true
	}
	c.account.Force(account.Sessions) // until it is closed
	if st.config.standing(peer).Listed {
		go st.replaceElsewhere(peer, st.id)
	}
	return false
}

// replaceIdle closes the idlest session of a listed client if it has been idle for replaceAfter.
func (st *shardState) replaceIdle(now time.Time, peer identity.PublicKey) bool {
	s := st.sessions.Idlest(peer)
	if s == nil || now.Sub(s.LastOpened()) < replaceAfter || !st.config.standing(peer).Listed {
		return false
	}
	st.closeSession(s, wire.CloseBound, "a newer session of this client takes its place")
	return true
}

// replaceElsewhere closes an idle session of a listed client in one of the other shards.
func (g *Gateway) replaceElsewhere(peer identity.PublicKey, except int) {
	for _, s := range g.shards {
		replaced := false
		if s.id != except {
			s.Do(func(now time.Time, st *shardState) { replaced = st.replaceIdle(now, peer) })
		}
		if replaced {
			return
		}
	}
}

// accountKey returns the key of a new session's account: the client's identity if it is listed,
// else the source that the session is established from (section 12).
func (env *shardEnv) accountKey(session *state.Session) account.Key {
	if env.config.standing(session.Peer()).Listed {
		return account.Listed(session.Peer())
	}
	source := session.Path().Peer.Addr()
	return account.Source(source, env.config.Directory.Trusts(source))
}

// flowCount returns the number of flow ids in use: datagram flows and forwarding flows share one
// space and one bound.
func (c *client) flowCount() int { return len(c.flows) + len(c.forwards) }
