//go:build linux

// Package rawudp is the shortest path between a program and the kernel's UDP: blocking sockets,
// recvmmsg with UDP_GRO, sendmmsg with UDP_SEGMENT, IPv4 only, no error recovery. The loops that
// a gateway is compared with use it, and the sink.
//
// It does not use transport/udp on purpose: if that became slower, the loop would become slower
// with it.
//
//	s, err := rawudp.Open(netip.MustParseAddrPort("127.0.0.1:0"), rawudp.Options{GRO: true})
//	for {
//		messages, err := s.Receive() // at most 100 ms
//		for i := range messages {
//			s.Queue(to, messages[i].Segment, messages[i].Data)
//		}
//		s.Flush()
//	}
package rawudp

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// DefaultBuffer is the size requested for each socket buffer, in bytes.
	DefaultBuffer = 4 << 20
	// MaxSegments is the number of datagrams in the longest GSO train, MaxTrain its bytes.
	MaxSegments = 64
	MaxTrain    = 65000

	receiveTimeout = 100 * time.Millisecond
	largestMessage = 64 << 10
	maxMessages    = 64
	maxPieces      = 1024
	controlSize    = 64
)

// Options are the options of a socket.
type Options struct {
	Batch  int  // largest number of messages that one Receive returns; 0 means 64
	Keep   int  // bytes of each message that are copied out of the kernel, which is costly; 0 means all
	GRO    bool // receive trains as one message
	Buffer int  // size requested for the socket's buffers, in bytes; 0 means DefaultBuffer
}

// Message is a received datagram, or a train of datagrams.
type Message struct {
	Data    []byte // as much as is kept; valid until the next Receive
	Size    int    // in bytes, kept or not
	Segment int    // of a train: the length of its datagrams but the last; else 0
	From    netip.AddrPort
}

// Count returns the number of datagrams in m.
func (m *Message) Count() int {
	if m.Segment <= 0 || m.Segment >= m.Size {
		return 1
	}
	return (m.Size + m.Segment - 1) / m.Segment
}

// SegmentsIn returns how many datagrams of a size fit in a train.
func SegmentsIn(size int) int {
	return max(1, min(MaxSegments, MaxTrain/max(size, 1)))
}

type mmsghdr struct {
	unix.Msghdr
	Len uint32
}

// Socket is a UDP socket. One goroutine receives, and one queues and flushes.
type Socket struct {
	fd     int
	local  netip.AddrPort
	closed atomic.Bool
	open   sync.RWMutex // read-locked during system calls

	in       []mmsghdr
	inIovs   []unix.Iovec
	names    []unix.RawSockaddrInet4
	control  [][controlSize]byte
	bufs     [][]byte
	received []Message

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
		return nil, fmt.Errorf("rawudp: %s is not an IPv4 address", local.Addr())
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	o.Batch, o.Keep, o.Buffer = cmp.Or(o.Batch, maxMessages), cmp.Or(o.Keep, largestMessage), cmp.Or(o.Buffer, DefaultBuffer)
	s := &Socket{fd: fd}
	if err := s.prepare(local, &o); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("rawudp: bind %s: %w", local, err)
	}
	s.allocate(o.Batch, o.Keep)
	return s, nil
}

func (s *Socket) prepare(local netip.AddrPort, o *Options) error {
	for _, opt := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, opt[0], o.Buffer) != nil {
			_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, opt[1], o.Buffer) // a smaller buffer is acceptable
		}
	}
	if o.GRO {
		if err := unix.SetsockoptInt(s.fd, unix.SOL_UDP, unix.UDP_GRO, 1); err != nil {
			return os.NewSyscallError("setsockopt UDP_GRO", err)
		}
	}
	timeout := unix.NsecToTimeval(int64(receiveTimeout))
	if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return os.NewSyscallError("setsockopt SO_RCVTIMEO", err)
	}
	if err := unix.Bind(s.fd, sockaddr(local)); err != nil {
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
		return errors.New("not an IPv4 socket")
	}
	s.local = netip.AddrPortFrom(netip.AddrFrom4(four.Addr), uint16(four.Port))
	return nil
}

// allocate allocates the arguments of recvmmsg and sendmmsg.
func (s *Socket) allocate(n, keep int) {
	s.in = make([]mmsghdr, n)
	s.inIovs = make([]unix.Iovec, n)
	s.names = make([]unix.RawSockaddrInet4, n)
	s.control = make([][controlSize]byte, n)
	s.received = make([]Message, 0, n)
	// Buffers at multiples of the page size would compete for the same cache sets.
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

// Connect sets the only peer of the socket.
func (s *Socket) Connect(to netip.AddrPort) error {
	if err := unix.Connect(s.fd, sockaddr(to)); err != nil {
		return fmt.Errorf("rawudp: connect to %s: %w", to, os.NewSyscallError("connect", err))
	}
	s.connected = true
	return s.learnLocal()
}

// Receive waits for messages and returns them, or none after 100 ms. After Close the error is
// net.ErrClosed.
func (s *Socket) Receive() ([]Message, error) {
	s.received = s.received[:0]
	s.open.RLock()
	defer s.open.RUnlock()
	if s.closed.Load() {
		return nil, net.ErrClosed
	}
	// MSG_TRUNC returns the length of a message even if it is not kept.
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
		a := Message{Data: s.bufs[i][:min(size, len(s.bufs[i]))], Size: size, From: addrOf(&s.names[i])}
		if segment := segmentOf(s.control[i][:h.Controllen]); 0 < segment && segment < size {
			a.Segment = segment
		}
		s.received = append(s.received, a)
		s.reset(i)
	}
	return s.received, nil
}

// segmentOf returns the segment length in a UDP_GRO control message, or 0.
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

// Queue adds a message: the concatenated pieces, as datagrams of segment bytes each, or as one
// datagram if segment is 0. They must not change before Flush. to is ignored on a connected
// socket. A full queue is flushed first.
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

// Flush sends the queue. It drops a message that the system rejects and sends the others.
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
		case unix.ECONNREFUSED: // caused by an earlier message
		default:
			failed = os.NewSyscallError("sendmmsg", e)
			sent++
		}
	}
	clear(s.outIovs[:s.pieces])
	s.messages, s.pieces = 0, 0
	return failed
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

// Close unblocks Receive within 100 ms.
func (s *Socket) Close() error {
	if s.closed.Swap(true) {
		return net.ErrClosed
	}
	_ = unix.Shutdown(s.fd, unix.SHUT_RDWR) // unblocks a connected socket at once
	s.open.Lock()
	defer s.open.Unlock()
	return os.NewSyscallError("close", unix.Close(s.fd))
}

// Fan is many connected sockets that only send, each a single datagram at a time, as a gateway
// has them for flows.
type Fan struct {
	fds  []int
	next int
}

// OpenFan connects n sockets to an address.
func OpenFan(to netip.AddrPort, n int) (*Fan, error) {
	f := new(Fan)
	for range n {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			f.fds = append(f.fds, fd)
			err = unix.Connect(fd, sockaddr(to))
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("rawudp: socket %d of %d: %w", len(f.fds), n, err)
		}
	}
	return f, nil
}

// Send sends a datagram from the next socket. Datagrams that the system rejects are lost.
func (f *Fan) Send(b []byte) {
	_, _ = unix.Write(f.fds[f.next], b)
	f.next = (f.next + 1) % len(f.fds)
}

// Close closes the sockets.
func (f *Fan) Close() {
	for _, fd := range f.fds {
		_ = unix.Close(fd)
	}
}
