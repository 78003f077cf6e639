package client

import (
	"fmt"
	"sync"

	"lewes/crypto/identity"
	"lewes/state/path"
)

// EventKind says what happened to a session.
type EventKind uint8

const (
	// Connected: the session stands for the first time.
	Connected EventKind = iota + 1
	// Rekeyed: the session has new keys, those of Event.Generation.
	Rekeyed
	// Reconnecting: the gateway seems to have lost the session, or has ended it, for
	// Event.Err. What is sent now may be lost.
	Reconnecting
	// Reconnected: the session carries datagrams again.
	Reconnected
	// Closed: the session has ended for good, for Event.Err.
	Closed
	// PathChanged: packets to the gateway go another way, from Event.From to Event.To
	// for Event.Reason. Where the two are one transport it is another local port. The
	// session, its flows and its keys are the same.
	PathChanged
)

var eventNames = [...]string{Connected: "connected", Rekeyed: "rekeyed", Reconnecting: "reconnecting", Reconnected: "reconnected", Closed: "closed", PathChanged: "path changed"}

func (k EventKind) String() string {
	if int(k) < len(eventNames) && eventNames[k] != "" {
		return eventNames[k]
	}
	return fmt.Sprintf("event %d", uint8(k))
}

// Event is something that happened to a session.
type Event struct {
	Kind EventKind
	// Gateway is the session's other end: Config.Gateway, or one of Config.Via.
	Gateway identity.PublicKey
	// Generation is that of the session's keys, counted from 0 in each handshake.
	Generation uint32
	// Err is why; nil where nothing went wrong.
	Err error
	// From and To are transports: To that of a session that is Connected or
	// Reconnected, both those of PathChanged. A session through other gateways has
	// that of the first.
	From, To path.Transport
	// Reason says in words why To is what it is; empty where it is the first choice.
	Reason string
}

// maxEvents bounds the Events that wait for a function that does not return: the
// oldest give way.
const maxEvents = 256

// events hands Events to a function, one at a time and in their order, without
// holding up who tells of them. Its goroutine lives while there are some.
type events struct {
	tell func(Event) // nil: nobody wants to know

	mu      sync.Mutex
	waiting []Event
	running bool
}

func (q *events) push(e Event) {
	if q.tell == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == maxEvents {
		q.waiting = q.waiting[1:]
	}
	q.waiting = append(q.waiting, e)
	if !q.running {
		q.running = true
		go q.run()
	}
}

func (q *events) run() {
	for {
		q.mu.Lock()
		if len(q.waiting) == 0 {
			q.running = false
			q.mu.Unlock()
			return
		}
		e := q.waiting[0]
		q.waiting = q.waiting[1:]
		q.mu.Unlock()
		q.tell(e)
	}
}
