package router

import (
	"context"
	"math/bits"
	"time"

	"lewes/state"
	"lewes/state/wire"
)

// Shutdown rejects hellos, closes every session, notifies the clients, and stops serving. The most
// recently active clients come first: when ctx ends, the others are not notified. It returns the
// numbers of sessions closed with a notification and of all.
func (g *Gateway) Shutdown(ctx context.Context) (notified, sessions int) {
	notified, sessions = g.closeSessions(ctx)
	g.Close()
	return notified, sessions
}

func (g *Gateway) closeSessions(ctx context.Context) (notified, sessions int) {
	for _, s := range g.shards {
		s.Do(func(_ time.Time, st *shardState) {
			st.closing = true
			sessions += st.sessions.Len()
		})
	}
	return g.walk(ctx, closeByAge), sessions
}

// closeByAge closes a shard's sessions, the most recently active first.
func closeByAge(closed *int) step {
	var order sessionsByAge
	collect, close := order.collect(), order.close(closed)
	return func(st *shardState) int {
		if units := collect(st); units > 0 {
			return units
		}
		return close(st)
	}
}

// sessionsByAge are a shard's sessions by the time since their last packet: bucket i holds those of
// less than 2^i milliseconds.
type sessionsByAge [64]sessionList

// sessionList is a stack of sessions in pieces, none of which is copied when it grows.
type sessionList [][]*state.Session

const sessionPiece = 1024

func (l *sessionList) push(s *state.Session) {
	if n := len(*l); n == 0 || len((*l)[n-1]) == sessionPiece {
		*l = append(*l, make([]*state.Session, 0, sessionPiece))
	}
	last := &(*l)[len(*l)-1]
	*last = append(*last, s)
}

func (l *sessionList) pop() *state.Session {
	n := len(*l)
	if n == 0 {
		return nil
	}
	last := &(*l)[n-1]
	s := (*last)[len(*last)-1]
	if *last = (*last)[:len(*last)-1]; len(*last) == 0 {
		*l = (*l)[:n-1]
	}
	return s
}

// collect returns the step that collects a shard's sessions.
func (a *sessionsByAge) collect() step {
	at := state.Start
	return func(st *shardState) int {
		session, ok := st.sessions.Walk(&at)
		if !ok {
			return 0
		}
		age := max(0, st.now().Sub(session.LastOpened()))
		a[bits.Len64(uint64(age.Milliseconds()))].push(session)
		return visitUnits
	}
}

// close returns the step that closes the collected sessions.
func (a *sessionsByAge) close(closed *int) step {
	bucket := 0
	return func(st *shardState) int {
		for ; bucket < len(a); bucket++ {
			session := a[bucket].pop()
			if session == nil {
				continue
			}
			if session.Phase() == state.Ended {
				return visitUnits
			}
			*closed++
			return st.closeShuttingDown(session)
		}
		return 0
	}
}

// closeShuttingDown closes a session because the gateway shuts down.
func (st *shardState) closeShuttingDown(session *state.Session) (units int) {
	return st.closeSession(session, wire.CloseShuttingDown, "the gateway is shutting down")
}
