package state

import "lewes/state/path"

// Packet is one LP packet to send and the path it goes by. The receiver of the
// Packet owns Data.
type Packet struct {
	Data []byte
	Path path.Path
}

// Output collects what a call gives back. A caller keeps one, passes it to every
// call, and empties it with Reset when packets are sent and events are seen.
type Output struct {
	Packets []Packet
	Events  []Event
}

// Reset empties the output and keeps its memory.
func (o *Output) Reset() {
	clear(o.Packets)
	clear(o.Events)
	o.Packets, o.Events = o.Packets[:0], o.Events[:0]
}

func (o *Output) send(to path.Path, packet []byte) {
	o.Packets = append(o.Packets, Packet{Data: packet, Path: to})
}

func (o *Output) event(e Event) { o.Events = append(o.Events, e) }

// EventKind says what happened to a session.
type EventKind uint8

const (
	// IndexAdded: the session is now also named by Event.Index; packets for it
	// go to Event.Generation.
	IndexAdded EventKind = iota + 1
	// IndexRemoved: Event.Index names this session no more.
	IndexRemoved
	// Confirmed: the other end has the session's first keys, and its terms are known.
	Confirmed
	// Rekeyed: the session has moved to Event.Generation.
	Rekeyed
	// Moved: the session's packets now go to another path.
	Moved
	// Silent: nothing authentic came after a doubt; the session is probably lost.
	PeerUnresponsive
	// Closed: the session has ended, for Event.Reason.
	Closed
	// KeptAlive: a client has sent a Ping because it had sent nothing for so long.
	KeepaliveSent
)

// Event is something that the owner of a session has to know.
type Event struct {
	Kind    EventKind
	Session *Session
	KeySet  *KeySet
	Index   uint32
	Reason  error
}
