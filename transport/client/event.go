package client

import (
	"context"
	"errors"
	"log/slog"
	"sync"
)

// EventKind is the kind of an Event.
type EventKind uint8

const (
	// Connected: the session is established for the first time.
	Connected EventKind = iota + 1
	// Rekeyed: the session has new keys, those of Event.Generation.
	Rekeyed
	// Reconnecting: the gateway has lost or ended the session, or stopped responding,
	// because of Event.Err. Datagrams may be lost.
	Reconnecting
	// Reconnected: the session carries datagrams again.
	Reconnected
	// Closed: the session has ended for good, because of Event.Err.
	Closed
	// PathChanged: packets to the gateway take another path, from Event.From to
	// Event.To because of Event.Reason. If From equals To, the local port is new.
	PathChanged
	// Registered: the session has registered by itself, or the gateway reports a change of the account:
	// Event.Registration. Event.Err is not nil if the registration does not stand.
	Registered
)

var eventNames = [...]string{Connected: "connected", Rekeyed: "rekeyed", Reconnecting: "reconnecting", Reconnected: "reconnected", Closed: "closed", PathChanged: "path changed", Registered: "registered"}

func (k EventKind) String() string {
	return nameOf(eventNames[:], "event", uint8(k))
}

// Event is a change of a session's condition.
type Event struct {
	Kind EventKind
	// Gateway is the session's other end: Config.Gateway, or one of Config.Via.
	Gateway PublicKey
	// Generation is that of the session's keys, counted from 0 in each handshake.
	Generation uint32
	// Err is the cause; nil where nothing failed.
	Err error
	// To is the transport of a session that is Connected or Reconnected; From and To
	// are those of PathChanged. A session through Via has that of the first gateway.
	From, To Transport
	// Reason explains To; it is empty for the preferred transport.
	Reason string
	// Registration is that of Registered, else nil.
	Registration *RegisterResult
}

// maxEvents bounds the Events that wait while OnEvent runs; the oldest are dropped.
const maxEvents = 256

// events delivers Events to a function, one at a time and in order, without blocking the
// sender. Its goroutine runs while there are some.
type events struct {
	onEvent func(Event) // nil: discard

	mu      sync.Mutex
	queue   []Event
	running bool
}

func (q *events) push(e Event) {
	if q.onEvent == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queue) == maxEvents {
		q.queue = q.queue[1:]
	}
	q.queue = append(q.queue, e)
	if !q.running {
		q.running = true
		go q.run()
	}
}

func (q *events) run() {
	for {
		q.mu.Lock()
		if len(q.queue) == 0 {
			q.running = false
			q.mu.Unlock()
			return
		}
		e := q.queue[0]
		q.queue = q.queue[1:]
		q.mu.Unlock()
		q.onEvent(e)
	}
}

// emit delivers an event to Config.OnEvent and the log.
func (s *Session) emit(e Event) {
	e.Gateway = s.gateway.Identity
	s.events.push(e)
	level := slog.LevelInfo
	var attrs []slog.Attr
	switch e.Kind {
	case Rekeyed:
		level, attrs = slog.LevelDebug, append(attrs, slog.Uint64("generation", uint64(e.Generation)))
	case Connected, Reconnected, PathChanged:
		attrs = append(attrs, slog.String("transport", e.To.String()))
		if e.Kind == PathChanged && e.From != e.To {
			level, attrs = slog.LevelWarn, append(attrs, slog.String("from", e.From.String()))
		}
		if e.Reason != "" {
			attrs = append(attrs, slog.String("reason", e.Reason))
		}
	case Registered:
		if e.Registration.Remaining != Unlimited {
			attrs = append(attrs, slog.Uint64("remaining_bytes", e.Registration.Remaining))
		}
		if e.Err != nil {
			level, attrs = slog.LevelWarn, append(attrs, slog.String("error", e.Err.Error()))
		}
	case Reconnecting, Closed:
		if !errors.Is(e.Err, ErrClosed) {
			level, attrs = slog.LevelWarn, append(attrs, slog.String("error", e.Err.Error()))
		}
	}
	message := e.Kind.String()
	if e.Kind == Registered && e.Err != nil {
		message = "not registered"
	}
	s.log.LogAttrs(context.Background(), level, message, attrs...)
}

// emitTransport emits an event with what carries the session now.
func (s *Session) emitTransport(kind EventKind) {
	over, reason := s.carrier()
	s.emit(Event{Kind: kind, To: over, Reason: reason})
}
