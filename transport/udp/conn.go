package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"lewes/state/path"
	"lewes/transport"
)

// Conn is a UDP socket as a transport.Conn. Listen and Dial make it.
type Conn struct {
	udp  *net.UDPConn // nil once a Poller has it
	sock socket
	raw  syscall.RawConn
	io   batcher

	local netip.AddrPort
	v6    bool
	// peer is the Path of everything that a connected socket receives; nil
	// otherwise.
	peer *path.Path
	// checkPeer: what was received may be another's all the same.
	checkPeer bool

	counters *Counters
	notify   func(Event)
	sendWait time.Duration

	receiveBuffer, sendBuffer Buffer

	gro    Offload
	gso    atomic.Bool
	gsoOff atomic.Pointer[string] // why gso is false
}

var _ transport.Conn = (*Conn)(nil)

// socket is what holds the system's socket open: a *net.UDPConn, or what a Poller made of
// it.
type socket interface {
	SetReadDeadline(time.Time) error
	LocalAddr() net.Addr
	Close() error
}

// batcher is a system's way to move batches.
type batcher interface {
	read(p []transport.Packet) (int, error)
	write(p []transport.Packet) (int, error)
}

// newConn takes over u, a socket of one family that was prepared with prepare.
func newConn(u *net.UDPConn, peer netip.AddrPort, o *Options, s setup) (*Conn, error) {
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, err
	}
	local := u.LocalAddr().(*net.UDPAddr).AddrPort()
	local = netip.AddrPortFrom(local.Addr().Unmap(), local.Port())
	c := &Conn{
		udp:           u,
		sock:          u,
		raw:           raw,
		local:         local,
		v6:            local.Addr().Is6(),
		counters:      o.Counters,
		notify:        o.Notify,
		sendWait:      o.SendWait,
		receiveBuffer: s.receiveBuffer,
		sendBuffer:    s.sendBuffer,
	}
	if peer.IsValid() {
		p := path.NewUDP(peer, local.Addr(), 0)
		c.peer = &p
	}
	if c.counters == nil {
		c.counters = new(Counters)
	}
	c.tellOfSetup(s)
	c.io, err = newBatcher(c, o)
	return c, err
}

// setup is what prepare found when it set a socket's options.
type setup struct {
	receiveBuffer, sendBuffer Buffer
	mayFragment               error // why the don't-fragment bit is not set
}

func (c *Conn) tellOfSetup(s setup) {
	for _, b := range []struct {
		name, sysctl string
		Buffer
	}{
		{"receive", "net.core.rmem_max", s.receiveBuffer},
		{"send", "net.core.wmem_max", s.sendBuffer},
	} {
		if b.Granted < b.Requested {
			c.tell(BufferSmall, nil, fmt.Sprintf("%s buffer is %d bytes, %d wanted: bursts are dropped sooner; raise the system's limit (Linux: sysctl -w %s=%d)",
				b.name, b.Granted, b.Requested, b.sysctl, b.Requested))
		}
	}
	if s.mayFragment != nil {
		c.tell(MayFragment, s.mayFragment, "packets larger than the path may arrive in fragments or not at all")
	}
}

func (c *Conn) tell(k EventKind, err error, detail string) {
	if c.notify != nil {
		c.notify(Event{Kind: k, Local: c.local, Err: err, Detail: detail})
	}
}

// ReadBatch implements transport.Conn.
func (c *Conn) ReadBatch(p []transport.Packet) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return c.io.read(p)
}

// WriteBatch implements transport.Conn. A packet with a Segment is sent as the train
// that it is, in pieces where it is longer than the system takes.
func (c *Conn) WriteBatch(p []transport.Packet) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return c.io.write(p)
}

// SetReadDeadline implements transport.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return plain(c.sock.SetReadDeadline(t)) }

// LocalAddr implements transport.Conn; it is a *net.UDPAddr.
func (c *Conn) LocalAddr() net.Addr { return c.sock.LocalAddr() }

// LocalAddrPort returns the address that the socket is bound to.
func (c *Conn) LocalAddrPort() netip.AddrPort { return c.local }

// Close implements transport.Conn. In a group of shards, close all sockets
// together: the kernel fills the gap with the last of them, which the
// steering does not know.
func (c *Conn) Close() error { return plain(c.sock.Close()) }

// Stats returns what was counted, over all Conns that share the Counters, and this
// socket's buffers and offloads.
func (c *Conn) Stats() Stats {
	s := c.counters.Stats()
	s.ReceiveBuffer, s.SendBuffer = c.receiveBuffer, c.sendBuffer
	s.GRO = c.gro
	s.GSO.On = c.gso.Load()
	if why := c.gsoOff.Load(); why != nil && !s.GSO.On {
		s.GSO.Reason = *why
	}
	return s
}

// withoutGSO notes why the socket sends no trains.
func (c *Conn) withoutGSO(why string) {
	c.gsoOff.Store(&why)
	c.gso.Store(false)
}

// readError is what ReadBatch returns for an error of the system's that tells of a
// datagram sent earlier, and leaves the socket as it was.
func (c *Conn) readError(e syscall.Errno) error {
	if c.peer != nil {
		return fmt.Errorf("udp: receive from %s: %w", c.peer, cause(e))
	}
	return fmt.Errorf("udp: receive on %s: %w", c.local, cause(e))
}

// plain takes the errors of package net that callers ask for out of their wrapping,
// which names addresses.
func plain(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, net.ErrClosed):
		return net.ErrClosed
	case errors.Is(err, os.ErrDeadlineExceeded):
		return os.ErrDeadlineExceeded
	}
	return err
}

// RemoteAddrPort returns the peer of a connected socket, the zero AddrPort for others.
func (c *Conn) RemoteAddrPort() netip.AddrPort {
	if c.peer == nil {
		return netip.AddrPort{}
	}
	return c.peer.Peer
}

// Polled reports whether a Poller reads the Conn.
func (c *Conn) Polled() bool { return c.udp == nil }

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
