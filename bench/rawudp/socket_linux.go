package rawudp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	maxMessages = 64
	maxPieces   = 1024
	controlSize = 64
)

type mmsghdr struct {
	unix.Msghdr
	Len uint32
}

// Socket is a UDP socket. One goroutine receives and one queues and flushes; the two may
// differ.
type Socket struct {
	fd     int
	local  netip.AddrPort
	closed atomic.Bool
	open   sync.RWMutex // held for reading while the kernel is called

	in      []mmsghdr
	inIovs  []unix.Iovec
	names   []unix.RawSockaddrInet4
	control [][controlSize]byte
	bufs    [][]byte
	arrived []Arrival

	out        [maxMessages]mmsghdr
	outNames   [maxMessages]unix.RawSockaddrInet4
	outControl [maxMessages][unix.SizeofCmsghdr + 8]byte
	outIovs    [maxPieces]unix.Iovec
	messages   int
	pieces     int
	connected  bool
}

// Open binds a socket; port 0 lets the system choose.
func Open(local netip.AddrPort, o Options) (*Socket, error) {
	if !local.Addr().Is4() {
		return nil, fmt.Errorf("rawudp: %s is no IPv4 address", local.Addr())
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	s := &Socket{fd: fd}
	if err := s.prepare(local, &o); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("rawudp: bind %s: %w", local, err)
	}
	s.makeReady(&o)
	return s, nil
}

func (s *Socket) prepare(local netip.AddrPort, o *Options) error {
	for _, opt := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, opt[0], o.buffer()) != nil {
			_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, opt[1], o.buffer()) // what the system grants must do
		}
	}
	if o.Join {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_UDP, unix.UDP_GRO, 1); err != nil {
			return os.NewSyscallError("setsockopt UDP_GRO", err)
		}
	}
	timeout := unix.NsecToTimeval(int64(wait))
	if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return os.NewSyscallError("setsockopt SO_RCVTIMEO", err)
	}
	if err := unix.Bind(s.fd, &unix.SockaddrInet4{Port: int(local.Port()), Addr: local.Addr().As4()}); err != nil {
		return os.NewSyscallError("bind", err)
	}
	return s.learnLocal()
}

func (s *Socket) learnLocal() error {
	name, err := unix.Getsockname(s.fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	four, ok := name.(*unix.SockaddrInet4)
	if !ok {
		return errors.New("the socket is not of IPv4")
	}
	s.local = netip.AddrPortFrom(netip.AddrFrom4(four.Addr), uint16(four.Port))
	return nil
}

// makeReady lays out what recvmmsg and sendmmsg are given.
func (s *Socket) makeReady(o *Options) {
	n, keep := o.batch(), o.keep()
	s.in = make([]mmsghdr, n)
	s.inIovs = make([]unix.Iovec, n)
	s.names = make([]unix.RawSockaddrInet4, n)
	s.control = make([][controlSize]byte, n)
	s.arrived = make([]Arrival, 0, n)
	// Buffers whose starts lie a whole number of pages apart would share cache lines.
	const skew = 5 * 64
	slab := make([]byte, n*(keep+skew))
	for i := range n {
		buf := slab[i*(keep+skew):][:keep:keep]
		s.bufs = append(s.bufs, buf)
		s.inIovs[i].Base = unsafe.SliceData(buf)
		s.inIovs[i].SetLen(keep)
		h := &s.in[i].Msghdr
		h.Name = (*byte)(unsafe.Pointer(&s.names[i]))
		h.Control = &s.control[i][0]
		h.Iov = &s.inIovs[i]
		h.SetIovlen(1)
		s.reset(i)
	}
	for i := range s.out {
		h := &s.out[i].Msghdr
		h.Control = &s.outControl[i][0]
		c := (*unix.Cmsghdr)(unsafe.Pointer(&s.outControl[i][0]))
		c.Level, c.Type = unix.SOL_UDP, unix.UDP_SEGMENT
		c.SetLen(unix.CmsgLen(2))
	}
}

func (s *Socket) reset(i int) {
	s.in[i].Namelen = unix.SizeofSockaddrInet4
	s.in[i].SetControllen(controlSize)
}

// Addr returns the address that the socket is bound to.
func (s *Socket) Addr() netip.AddrPort { return s.local }

// Connect makes to the only peer of the socket.
func (s *Socket) Connect(to netip.AddrPort) error {
	if err := unix.Connect(s.fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
		return fmt.Errorf("rawudp: connect to %s: %w", to, os.NewSyscallError("connect", err))
	}
	s.connected = true
	return s.learnLocal()
}

// Receive waits until something comes and returns what is there, or nothing after
// 100 ms. After Close the error is net.ErrClosed.
func (s *Socket) Receive() ([]Arrival, error) {
	s.arrived = s.arrived[:0]
	s.open.RLock()
	defer s.open.RUnlock()
	if s.closed.Load() {
		return nil, net.ErrClosed
	}
	// MSG_TRUNC gives a message's length even where it is not kept.
	const flags = unix.MSG_WAITFORONE | unix.MSG_TRUNC
	n, _, e := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.in[0])), uintptr(len(s.in)), flags, 0, 0)
	switch {
	case s.closed.Load():
		return nil, net.ErrClosed
	case e == unix.EAGAIN, e == unix.EINTR, e == unix.ECONNREFUSED:
		return nil, nil
	case e != 0:
		return nil, os.NewSyscallError("recvmmsg", e)
	}
	for i := range int(n) {
		h := &s.in[i]
		size := int(h.Len)
		a := Arrival{Data: s.bufs[i][:min(size, len(s.bufs[i]))], Size: size, From: addrOf(&s.names[i])}
		if segment := segmentOf(s.control[i][:h.Controllen]); 0 < segment && segment < size {
			a.Segment = segment
		}
		s.arrived = append(s.arrived, a)
		s.reset(i)
	}
	return s.arrived, nil
}

// segmentOf returns the length that UDP_GRO gives, or 0.
func segmentOf(control []byte) int {
	for len(control) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
		size := int(h.Len)
		if size < unix.SizeofCmsghdr || size > len(control) {
			return 0
		}
		if h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && size >= unix.CmsgLen(4) {
			return int(binary.NativeEndian.Uint32(control[unix.CmsgLen(0):]))
		}
		control = control[min(unix.CmsgSpace(size-unix.CmsgLen(0)), len(control)):]
	}
	return 0
}

func addrOf(name *unix.RawSockaddrInet4) netip.AddrPort {
	port := (*[2]byte)(unsafe.Pointer(&name.Port))
	return netip.AddrPortFrom(netip.AddrFrom4(name.Addr), binary.BigEndian.Uint16(port[:]))
}

// Queue adds a message: the pieces, one after the other, as datagrams of segment
// bytes each, or as one datagram where segment is 0. They must not change before the
// Flush. to is of no matter on a connected socket. A queue that is full is flushed
// first.
func (s *Socket) Queue(to netip.AddrPort, segment int, pieces ...[]byte) error {
	if s.messages == maxMessages || s.pieces+len(pieces) > maxPieces {
		if err := s.Flush(); err != nil {
			return err
		}
	}
	h := &s.out[s.messages].Msghdr
	h.Name, h.Namelen = nil, 0
	if !s.connected {
		name := &s.outNames[s.messages]
		name.Family, name.Addr = unix.AF_INET, to.Addr().As4()
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&name.Port))[:], to.Port())
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(name)), unix.SizeofSockaddrInet4
	}
	first := s.pieces
	for _, p := range pieces {
		s.outIovs[s.pieces].Base = unsafe.SliceData(p)
		s.outIovs[s.pieces].SetLen(len(p))
		s.pieces++
	}
	h.Iov = &s.outIovs[first]
	h.SetIovlen(len(pieces))
	h.SetControllen(0)
	if segment > 0 {
		binary.NativeEndian.PutUint16(s.outControl[s.messages][unix.CmsgLen(0):], uint16(segment))
		h.SetControllen(unix.CmsgSpace(2))
	}
	s.messages++
	return nil
}

// Flush sends what was queued. A message that the system refuses is dropped, and what
// follows it is still sent.
func (s *Socket) Flush() error {
	s.open.RLock()
	defer s.open.RUnlock()
	if s.closed.Load() {
		return net.ErrClosed
	}
	var failed error
	for sent := 0; sent < s.messages; {
		n, _, e := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.out[sent])), uintptr(s.messages-sent), 0, 0, 0)
		switch e {
		case 0:
			sent += int(n)
		case unix.EINTR:
		case unix.ECONNREFUSED: // of an earlier one
		default:
			failed = os.NewSyscallError("sendmmsg", e)
			sent++
		}
	}
	clear(s.outIovs[:s.pieces])
	s.messages, s.pieces = 0, 0
	return failed
}

// Close ends a Receive that waits, within 100 ms.
func (s *Socket) Close() error {
	if s.closed.Swap(true) {
		return net.ErrClosed
	}
	_ = unix.Shutdown(s.fd, unix.SHUT_RDWR) // wakes a connected one at once
	s.open.Lock()
	defer s.open.Unlock()
	return os.NewSyscallError("close", unix.Close(s.fd))
}
