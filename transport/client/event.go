package client

import (
	"fmt"
	"sync"

	"lewes/crypto/identity"
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
)

var eventNames = [...]string{Connected: "connected", Rekeyed: "rekeyed", Reconnecting: "reconnecting", Reconnected: "reconnected", Closed: "closed"}

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
