package router

import (
	"bytes"
	"context"
	"errors"
	"time"

	"lewes/crypto/identity"
	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
)

// TraceKind is the kind of a TraceEvent, as it is named in a trace.
type TraceKind string

// The kinds of TraceEvents.
const (
	TraceMoved            TraceKind = "path_changed" // to TraceEvent.Path, of the same transport
	TraceTransportChanged TraceKind = "transport_changed"
	TraceRekeyed          TraceKind = "rekeyed"
	TraceUnresponsive     TraceKind = "peer_unresponsive"
	TraceFlowOpened       TraceKind = "flow_opened"
	TraceFlowRefused      TraceKind = "flow_refused"
	TraceFlowClosed       TraceKind = "flow_closed"
	TraceClosed           TraceKind = "session_closed" // for TraceEvent.Detail
)

// TraceEvent is a change of a traced session. It contains no payload.
type TraceEvent struct {
	Kind    TraceKind
	At      time.Time
	Path    path.Path // after the event
	KeySet  uint32    // the current one
	Flow    uint16
	Target  wire.Target        // of the flow; zero: none, or a gateway
	Gateway identity.PublicKey // that the flow goes to; zero: none
	Reason  wire.FlowReason    // 0: the client has closed the flow
	Rule    string             // of the egress policy
	Detail  string
	Lost    int // events before this one, as the reader was too slow
}

// maxTraceEvents bounds the events that wait for the reader of a Trace.
const maxTraceEvents = 256

// Errors of Gateway.Trace.
var (
	ErrNoSession    = errors.New("there is no such session")
	ErrManySessions = errors.New("there are several such sessions: name one by its handle, which lewes clients list --live prints")
	ErrTraced       = errors.New("the session is being traced already")
)

// Trace is the events of a session from the time of its start. Close ends it.
type Trace struct {
	Session SessionInfo // at the start
	At      time.Time   // of the start
	// Events is closed after the end of the session.
	Events <-chan TraceEvent

	client *client
	shard  *Shard

	// Guarded by the shard's lock.
	events chan TraceEvent
	lost   int
}

// Trace begins the trace of the session that matches.
func (g *Gateway) Trace(ctx context.Context, match func(client identity.PublicKey, handle [16]byte) bool) (*Trace, error) {
	var found []*client
	var owner *Shard
	for _, s := range g.shards {
		at := state.Start
		s.walk(ctx, func(st *shardState) int {
			session, ok := st.sessions.Walk(&at)
			if !ok || len(found) > 1 {
				return 0
			}
			if c, ok := session.User.(*client); ok && match(session.Peer(), session.Handle()) {
				found, owner = append(found, c), s
			}
			return visitUnits
		})
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case len(found) > 1:
		return nil, ErrManySessions
	case len(found) == 0:
		return nil, ErrNoSession
	}
	events := make(chan TraceEvent, maxTraceEvents)
	t := &Trace{Events: events, client: found[0], shard: owner, events: events}
	err := ErrNoSession
	owner.Do(func(now time.Time, _ *shardState) {
		switch {
		case t.client.dropped:
		case t.client.trace != nil:
			err = ErrTraced
		default:
			err = nil
			t.client.trace, t.Session, t.At = t, t.client.info(), now
		}
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// Close ends the trace.
func (t *Trace) Close() {
	t.shard.Do(func(time.Time, *shardState) {
		if t.client.trace == t {
			t.client.trace = nil
		}
	})
}

// add adds an event, or counts it if the reader is too slow.
func (t *Trace) add(e TraceEvent) {
	s := t.client.session
	e.At, e.Path, e.KeySet, e.Lost = t.client.env.now(), s.Path(), s.Current().Number(), t.lost
	e.Target.Name = bytes.Clone(e.Target.Name)
	select {
	case t.events <- e:
		t.lost = 0
	default:
		t.lost++
	}
}

// traceSession adds an event of the session itself to its trace, if there is one.
func traceSession(s *state.Session, kind TraceKind, reason error) {
	c, ok := s.User.(*client)
	if !ok || c.trace == nil {
		return
	}
	e := TraceEvent{Kind: kind}
	if reason != nil {
		e.Detail = reason.Error()
	}
	c.trace.add(e)
}

// traceFlow adds an event of a flow to the trace of its session, if there is one.
func (f *flow) traceFlow(kind TraceKind, reason wire.FlowReason, detail string) {
	if t := f.client.trace; t != nil {
		t.add(TraceEvent{Kind: kind, Flow: f.id, Target: f.target, Reason: reason, Detail: detail})
	}
}

func (f *forward) traceFlow(kind TraceKind, reason wire.FlowReason, detail string) {
	if t := f.client.trace; t != nil {
		t.add(TraceEvent{Kind: kind, Flow: f.id, Gateway: f.upstream.identity, Reason: reason, Detail: detail})
	}
}

// end ends the trace of a session that has ended.
func (t *Trace) end() {
	t.client.trace = nil
	close(t.events)
}
