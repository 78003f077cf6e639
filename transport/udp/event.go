package udp

import (
	"fmt"
	"net/netip"
)

// EventKind says what an Event is about.
type EventKind uint8

const (
	// GSOOff: the system refused a train that it had said it could send; the socket
	// sends datagrams one by one from here on. Nothing was lost by it.
	GSOOff EventKind = iota
	// BufferSmall: the system granted a smaller socket buffer than was asked for.
	BufferSmall
	// NotSteered: the kernel spreads datagrams over the shards by its own hash.
	NotSteered
	// MayFragment: the don't-fragment bit could not be set.
	MayFragment
)

func (k EventKind) String() string {
	switch k {
	case GSOOff:
		return "segmentation offload off"
	case BufferSmall:
		return "socket buffer small"
	case NotSteered:
		return "not steered"
	case MayFragment:
		return "datagrams may be fragmented"
	}
	return fmt.Sprintf("event %d", uint8(k))
}

// Event is something that an operator should know about a socket.
type Event struct {
	Kind EventKind
	// Local is the socket's own address.
	Local netip.AddrPort
	// Err is what the system said; nil where it said nothing.
	Err error
	// Detail says what was found, what it costs and what to do.
	Detail string
}

func (e Event) String() string {
	s := fmt.Sprintf("udp %s: %s: %s", e.Local, e.Kind, e.Detail)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// onceEach passes on an event that says the same as one before only once: the sockets
// of one Listen have their setup in common. A socket that stops segmenting is a
// story of its own and always passes.
func onceEach(notify func(Event)) func(Event) {
	if notify == nil {
		return nil
	}
	type saying struct {
		kind   EventKind
		detail string
	}
	said := map[saying]bool{} // setup runs in one goroutine
	return func(e Event) {
		if e.Kind == GSOOff {
			notify(e)
			return
		}
		if what := (saying{e.Kind, e.Detail}); !said[what] {
			said[what] = true
			notify(e)
		}
	}
}
