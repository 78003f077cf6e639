package udp

import (
	"net/netip"
	"time"
)

const (
	// DefaultBuffer is the size asked for each socket buffer, in bytes.
	DefaultBuffer = 4 << 20
	// DefaultBatch is how many messages a ReadBatch takes at most. With GRO each
	// is a train of up to 64 KiB.
	DefaultBatch = 32
	// bufferSize holds the largest datagram or train that there is.
	bufferSize = 64 << 10
	// pooledBatch bounds a ReadBatch of a Pooled Conn.
	pooledBatch = 8
	// maxBatch bounds Options.Batch: recvmmsg takes no more at once.
	maxBatch = 1024
)

// Options are what a listening and a connected socket have in common. The zero
// value is right for a gateway's port.
type Options struct {
	// Batch is how many messages one ReadBatch takes at most; the Conn owns a
	// buffer of 64 KiB for each. 0 means DefaultBatch. A Pooled Conn takes at most
	// 8 and asks for as many as lately came.
	Batch int
	// Pooled makes the Conn hold no receive buffer while ReadBatch waits: buffers
	// come from a pool once something is there, and go back when ReadBatch finds
	// nothing more. For sockets in large number that are mostly idle.
	Pooled bool

	// ReceiveBuffer and SendBuffer are the sizes asked for the socket's buffers, in
	// bytes. 0 means DefaultBuffer, less than 0 leaves what the system gives.
	ReceiveBuffer, SendBuffer int
	// SendWait is how long a WriteBatch waits, in all, for room in a full send
	// buffer before it drops what does not fit. 0 drops at once: right for a
	// gateway, where a wait would hold up everyone else.
	SendWait time.Duration

	// NoGSO sends every datagram as a message of its own, NoGRO receives them so.
	NoGSO, NoGRO bool
	// Portable goes through golang.org/x/net instead of this system's own calls; no
	// offload then. There is nothing else on systems other than Linux.
	Portable bool
	// Fragment lets the system fragment datagrams on their way, for egress to hosts
	// that know nothing of path MTU.
	Fragment bool

	// Counters is where the Conn counts; several may share one. nil gives the Conn
	// its own.
	Counters *Counters
	// Notify is told what an operator should know about a socket, once each, from
	// the goroutine that found out. It must not block. nil is silence.
	Notify func(Event)
}

// Config says what Listen binds.
type Config struct {
	// Addrs are the addresses to bind. None means every address of both families;
	// so does an entry without an address (netip.AddrPort{}). An entry with port 0
	// takes Port.
	Addrs []netip.AddrPort
	// Port is for the entries that name none. 0 lets the system choose one, the
	// same for both families.
	Port uint16
	// Steer.Shards sockets are bound to each address, and the kernel gives each
	// datagram to the one that Steer names. Below 2 there is one socket an address.
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

// bufferAsked returns the size to ask for, 0 for none.
func bufferAsked(option int) int {
	if option == 0 {
		return DefaultBuffer
	}
	return max(option, 0)
}
