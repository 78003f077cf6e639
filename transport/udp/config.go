package udp

import (
	"fmt"
	"net/netip"
	"time"

	"lewes/transport"
)

const (
	// DefaultBuffer is the requested size of each socket buffer, in bytes.
	DefaultBuffer = 4 << 20
	// DefaultBatch is the maximum of messages per ReadBatch. With GRO each may be a
	// train of up to 64 KiB.
	DefaultBatch = 32
	// bufferSize holds the largest datagram or train.
	bufferSize = 64 << 10
	// pooledBatch bounds a ReadBatch of a Pooled Conn.
	pooledBatch = 8
	// maxBatch is the limit of recvmmsg.
	maxBatch = 1024
)

// Options apply to listening and connected sockets. The zero value suits a gateway's port.
type Options struct {
	// Batch is the maximum of messages per ReadBatch, 0 for DefaultBatch. The Conn owns a buffer of
	// 64 KiB for each. The maximum of a Pooled Conn is 8, adapted to the traffic.
	Batch int
	// Pooled takes receive buffers from a pool while there is something to read, instead
	// of holding them while ReadBatch waits: for many sockets that are mostly idle.
	Pooled bool

	// ReceiveBuffer and SendBuffer are the requested socket buffer sizes in bytes: 0
	// means DefaultBuffer, a negative value the system's default.
	ReceiveBuffer, SendBuffer int
	// SendWait is how long a WriteBatch may wait in total for room in the send buffer
	// before it drops datagrams. A gateway uses 0, because a wait delays all sessions.
	SendWait time.Duration

	// NoGSO and NoGRO disable the offloads.
	NoGSO, NoGRO bool
	// Portable uses golang.org/x/net, without offloads, as on systems other than Linux.
	Portable bool
	// Fragment allows IP fragmentation, for egress to hosts without path MTU discovery.
	Fragment bool

	// Ports chooses the local ports of Dial, with several sockets to a port; nil leaves them to the
	// system, as systems other than Linux do in any case.
	Ports Ports

	// Counters may be shared by several Conns; nil means the Conn's own.
	Counters *Counters
	// Notify receives events for the operator, each once. It must not block, and may be nil.
	Notify func(Event)
}

// Ports chooses the local ports of connected sockets. A pair is such a port and a target; no two
// sockets have the same. It is safe for concurrent use.
type Ports interface {
	// Take returns a port for a new socket to target. The pair is in use until Release.
	Take(target netip.AddrPort) (uint16, error)
	// Hold marks the pair of an inherited socket as in use.
	Hold(port uint16, target netip.AddrPort)
	// Release ends the use of a pair. After a connection, late datagrams of the target may follow.
	Release(port uint16, target netip.AddrPort, connected bool)
}

// Config configures Listen.
type Config struct {
	// Addrs are the addresses to bind; empty means every address of both families, as does an entry
	// without an address (netip.AddrPort{}). Entries with port 0 use Port.
	Addrs []netip.AddrPort
	// Port is the default port of Addrs. With 0 the system chooses one, the same for both families.
	Port uint16
	// Steer distributes datagrams over Steer.Shards sockets per address, or one socket
	// if that is below 2.
	Steer Steer

	Options
}

func (o *Options) batch() int {
	n := o.Batch
	if n <= 0 {
		n = DefaultBatch
	}
	if o.Pooled {
		return min(n, pooledBatch)
	}
	return min(n, maxBatch)
}

// bufferRequest returns the size to request, 0 for none.
func bufferRequest(option int) int {
	if option == 0 {
		return DefaultBuffer
	}
	return max(option, 0)
}

// Support describes the offloads of the kernel: nil if available, or the reason.
type Support struct {
	GSO, GRO error
}

// Handler processes what a Poller receives, in the goroutine of Poller.Run.
type Handler interface {
	// Received is called with a batch from the socket that was adopted with user. The
	// data may be read and changed until it returns.
	Received(user any, batch []transport.Packet)
	// Failed is called with an error reported on the socket, such as
	// transport.ErrRefused. The socket remains usable.
	Failed(user any, err error)
	// Done is called after all ready sockets were read, before the Poller waits again.
	Done()
}

// EventKind is the kind of an Event.
type EventKind uint8

const (
	// GSOOff: the system refused a train although it supports GSO. The socket sends
	// datagrams one by one from now on; nothing was lost.
	GSOOff EventKind = iota
	// BufferSmall: the system granted a smaller socket buffer than requested.
	BufferSmall
	// NotSteered: the kernel distributes datagrams by its own hash.
	NotSteered
	// MayFragment: the don't-fragment bit could not be set.
	MayFragment
)

var eventNames = [...]string{"GSO disabled", "socket buffer small", "not steered", "datagrams may be fragmented"}

func (k EventKind) String() string {
	if int(k) < len(eventNames) {
		return eventNames[k]
	}
	return fmt.Sprintf("event %d", uint8(k))
}

// Event is a condition of a socket that the operator should know about.
type Event struct {
	Kind  EventKind
	Local netip.AddrPort // of the socket
	Err   error          // of the system, if any
	// Detail describes the condition, its cost and the remedy.
	Detail string
}

func (e Event) String() string {
	s := fmt.Sprintf("udp %s: %s: %s", e.Local, e.Kind, e.Detail)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// deduplicate drops repeated setup events, which the sockets of one Listen have in
// common. GSOOff is always passed on.
func deduplicate(notify func(Event)) func(Event) {
	if notify == nil {
		return nil
	}
	type key struct {
		kind   EventKind
		detail string
	}
	seen := map[key]bool{} // setup runs in one goroutine
	return func(e Event) {
		if e.Kind != GSOOff { // which comes from any goroutine
			k := key{e.Kind, e.Detail}
			if seen[k] {
				return
			}
			seen[k] = true
		}
		notify(e)
	}
}
