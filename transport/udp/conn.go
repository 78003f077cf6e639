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

// Conn is a UDP socket as a transport.Conn, made by Listen or Dial.
type Conn struct {
	// Immutable once reading has started.
	udp           *net.UDPConn // nil if the socket is not in net's poller
	sock          socket
	raw           syscall.RawConn
	io            batcher
	local         netip.AddrPort
	v6            bool
	peer          *path.Path // of a connected socket, else nil
	ports         Ports      // that local's port was taken from, or nil
	checkPeer     bool       // datagrams of others may have been queued before connect
	notify        func(Event)
	sendWait      time.Duration
	receiveBuffer Buffer
	sendBuffer    Buffer
	gro           Offload

	// Atomic.
	counters  *Counters
	gso       atomic.Bool
	gsoReason atomic.Pointer[string] // why gso is false
}

var _ transport.Conn = (*Conn)(nil)

// socket owns the descriptor: a *net.UDPConn, *polledSocket or *waitingSocket.
type socket interface {
	SetReadDeadline(time.Time) error
	LocalAddr() net.Addr
	Close() error
}

// batcher is the system-specific part of a Conn.
type batcher interface {
	read(p []transport.Packet) (int, error)
	write(p []transport.Packet) (int, error)
}

// setup is the result of prepare.
type setup struct {
	receiveBuffer, sendBuffer Buffer
	mayFragment               error // why the don't-fragment bit is not set
}

// newConn takes over u, a socket of one family on which prepare was called.
func newConn(u *net.UDPConn, peer netip.AddrPort, o *Options, s setup) (*Conn, error) {
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, err
	}
	local := unmap(u.LocalAddr().(*net.UDPAddr).AddrPort())
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
	c.emitSetup(s)
	c.io, err = newBatcher(c, o)
	return c, err
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

func (c *Conn) emitSetup(s setup) {
	for _, b := range []struct {
		name, sysctl string
		Buffer
	}{
		{"receive", "net.core.rmem_max", s.receiveBuffer},
		{"send", "net.core.wmem_max", s.sendBuffer},
	} {
		if b.Granted < b.Requested {
			c.emit(BufferSmall, nil, fmt.Sprintf("%s buffer is %d bytes, %d requested: bursts are dropped sooner; raise the system's limit (Linux: sysctl -w %s=%d)",
				b.name, b.Granted, b.Requested, b.sysctl, b.Requested))
		}
	}
	if s.mayFragment != nil {
		c.emit(MayFragment, s.mayFragment, "packets larger than the path MTU may be fragmented or lost")
	}
}

func (c *Conn) emit(k EventKind, err error, detail string) {
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

// WriteBatch implements transport.Conn. A packet with a Segment is sent as a GSO train,
// split where it exceeds the limits of the system.
func (c *Conn) WriteBatch(p []transport.Packet) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return c.io.write(p)
}

// SetReadDeadline implements transport.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { return unwrapNetError(c.sock.SetReadDeadline(t)) }

// LocalAddr implements transport.Conn. It returns a *net.UDPAddr.
func (c *Conn) LocalAddr() net.Addr { return c.sock.LocalAddr() }

// LocalAddrPort returns the bound address.
func (c *Conn) LocalAddrPort() netip.AddrPort { return c.local }

// RemoteAddrPort returns the peer of a connected socket, else the zero AddrPort.
func (c *Conn) RemoteAddrPort() netip.AddrPort {
	if c.peer == nil {
		return netip.AddrPort{}
	}
	return c.peer.Peer
}

// Close implements transport.Conn. Close the sockets of all shards together: the kernel
// moves the last socket of a group into the gap, unknown to Steer.
func (c *Conn) Close() error {
	err := c.sock.Close()
	if err == nil && c.ports != nil {
		c.ports.Release(c.local.Port(), c.peer.Peer, true)
	}
	return unwrapNetError(err)
}

// Polled reports whether the Conn was adopted by a Poller.
func (c *Conn) Polled() bool { return c.udp == nil }

// Stats returns the Counters, which other Conns may share, and the state of this socket.
func (c *Conn) Stats() Stats {
	s := c.counters.Stats()
	s.ReceiveBuffer, s.SendBuffer = c.receiveBuffer, c.sendBuffer
	s.GRO = c.gro
	s.GSO.On = c.gso.Load()
	if reason := c.gsoReason.Load(); reason != nil && !s.GSO.On {
		s.GSO.Reason = *reason
	}
	return s
}

func (c *Conn) disableGSO(reason string) {
	c.gsoReason.Store(&reason)
	c.gso.Store(false)
}

// readError returns the error of ReadBatch for an error about a datagram sent earlier.
func (c *Conn) readError(e syscall.Errno) error {
	if c.peer != nil {
		return fmt.Errorf("udp: receive from %s: %w", c.peer, wrapErrno(e))
	}
	return fmt.Errorf("udp: receive on %s: %w", c.local, wrapErrno(e))
}

// unwrapNetError returns net.ErrClosed or os.ErrDeadlineExceeded without package net's
// wrapping, which contains addresses.
func unwrapNetError(err error) error {
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
