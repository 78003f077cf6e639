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
