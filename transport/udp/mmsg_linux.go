package udp

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// Size in 8-byte words of the control messages of a received message: packet info of
	// either family, segment size and drop counter.
	receiveControlWords = 16
	// The same for sending: segment size, then packet info.
	sendControlWords = 10
)

// controlInfo is the content of received control messages.
type controlInfo struct {
	local   netip.Addr // invalid if unknown or multicast
	ifIndex uint32
	segment int // 0 if absent
	drops   uint32
	dropped bool // drops is present
}

// parseControl parses the control messages in b. It ignores unknown and truncated ones.
func parseControl(b []byte, a *controlInfo) {
	for len(b) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(unsafe.SliceData(b)))
		if h.Len < unix.SizeofCmsghdr || uint64(h.Len) > uint64(len(b)) {
			return
		}
		data := b[min(unix.CmsgLen(0), int(h.Len)):h.Len]
		switch {
		case h.Level == unix.SOL_UDP && h.Type == unix.UDP_GRO && len(data) >= 4:
			a.segment = int(*(*int32)(unsafe.Pointer(unsafe.SliceData(data))))
		case h.Level == unix.SOL_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			info := (*unix.Inet4Pktinfo)(unsafe.Pointer(unsafe.SliceData(data)))
			// Spec_dst, not Addr: the local address also for a broadcast.
			a.local, a.ifIndex = netip.AddrFrom4(info.Spec_dst), uint32(info.Ifindex)
		case h.Level == unix.SOL_IPV6 && h.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			info := (*unix.Inet6Pktinfo)(unsafe.Pointer(unsafe.SliceData(data)))
			a.local, a.ifIndex = netip.AddrFrom16(info.Addr).Unmap(), info.Ifindex
			if a.local.IsMulticast() {
				a.local = netip.Addr{}
			}
		case h.Level == unix.SOL_SOCKET && h.Type == unix.SO_RXQ_OVFL && len(data) >= 4:
			a.drops, a.dropped = *(*uint32)(unsafe.Pointer(unsafe.SliceData(data))), true
		}
		next := unix.CmsgSpace(int(h.Len) - unix.CmsgLen(0))
		if next > len(b) {
			return
		}
		b = b[next:]
	}
}

// control holds control messages to send.
type control [sendControlWords]uint64

// put starts a control message of n bytes at offset at. It returns a pointer to its data
// and the offset of the next message.
func (c *control) put(at int, level, kind int32, n int) (unsafe.Pointer, int) {
	h := (*unix.Cmsghdr)(unsafe.Add(unsafe.Pointer(c), at))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(n))
	return unsafe.Add(unsafe.Pointer(c), at+unix.CmsgLen(0)), at + unix.CmsgSpace(n)
}

// segment adds UDP_SEGMENT with the given datagram size. It comes first, so that the
// source address can be removed alone.
func (c *control) segment(size int) (end int) {
	data, end := c.put(0, unix.SOL_UDP, unix.UDP_SEGMENT, 2)
	*(*uint16)(data) = uint16(size)
	return end
}

// source adds the source address and interface. It ignores an address that is not of the
// socket's family.
func (c *control) source(at int, local netip.Addr, ifIndex uint32, v6 bool) (end int, ok bool) {
	switch {
	case !local.IsValid() || local.IsUnspecified() || local.Is6() != v6:
		return at, false
	case v6:
		data, end := c.put(at, unix.SOL_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
		*(*unix.Inet6Pktinfo)(data) = unix.Inet6Pktinfo{Addr: local.As16(), Ifindex: ifIndex}
		return end, true
	default:
		data, end := c.put(at, unix.SOL_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
		*(*unix.Inet4Pktinfo)(data) = unix.Inet4Pktinfo{Spec_dst: local.As4(), Ifindex: int32(ifIndex)}
		return end, true
	}
}

// bytes returns the whole buffer.
func (c *control) bytes() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(c)), unsafe.Sizeof(*c))
}

// sockaddr holds a socket address of either family.
type sockaddr unix.RawSockaddrInet6

// set stores a peer's address for a socket of the given family and returns its length, or 0 if the
// address is invalid or of the other family. ifIndex is the zone of a link-local peer without one.
func (s *sockaddr) set(peer netip.AddrPort, ifIndex uint32, v6 bool) (length uint32) {
	addr := peer.Addr().Unmap()
	switch {
	case !addr.IsValid() || peer.Port() == 0 || addr.Is6() != v6:
		return 0
	case v6:
		sa := (*unix.RawSockaddrInet6)(s)
		*sa = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: addr.As16()}
		if addr.Zone() != "" {
			sa.Scope_id = zoneIndex(addr.Zone())
		} else if addr.IsLinkLocalUnicast() {
			sa.Scope_id = ifIndex
		}
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:], peer.Port())
		return unix.SizeofSockaddrInet6
	default:
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(s))
		*sa = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: addr.As4()}
		binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&sa.Port))[:], peer.Port())
		return unix.SizeofSockaddrInet4
	}
}

// get returns the address, or the zero AddrPort for an unknown family.
func (s *sockaddr) get() netip.AddrPort {
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&s.Port))[:])
	switch s.Family {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(s)).Addr), port)
	case unix.AF_INET6:
		addr := netip.AddrFrom16(s.Addr).Unmap()
		if s.Scope_id != 0 {
			addr = addr.WithZone(zoneName(s.Scope_id))
		}
		return netip.AddrPortFrom(addr, port)
	}
	return netip.AddrPort{}
}

// mmsghdr is the kernel's struct mmsghdr.
type mmsghdr struct {
	unix.Msghdr
	Len uint32
}

// recvmmsg does not wait. It returns the number of messages, at least one, or the error of
// the first. sendmmsg works alike.
func recvmmsg(fd uintptr, h []mmsghdr) (int, unix.Errno) {
	if len(h) == 1 {
		return recvOne(fd, &h[0])
	}
	n, _, e := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(unsafe.SliceData(h))), uintptr(len(h)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), e
}

func sendmmsg(fd uintptr, h []mmsghdr) (int, unix.Errno) {
	n, _, e := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(unsafe.SliceData(h))), uintptr(len(h)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), e
}

// recvOne and sendOne move one datagram. They bypass Go's scheduler (RawSyscall), whose
// bookkeeping costs more than it gains for a call of a few microseconds that never waits.
func recvOne(fd uintptr, h *mmsghdr) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(h)), 1, unix.MSG_DONTWAIT, 0, 0)
	return int(n), e
}

func sendOne(fd uintptr, h *mmsghdr) (int, unix.Errno) {
	_, _, e := unix.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&h.Msghdr)), unix.MSG_DONTWAIT)
	if e != 0 {
		return 0, e
	}
	return 1, 0
}

// mmsg is the batcher with recvmmsg, sendmmsg and offloads.
type mmsg struct {
	c *Conn

	// Used by the reader only.
	pooled        bool      // buffers come from a pool while data is available
	polled        bool      // buffers come from the Poller
	slots         int       // maximum of messages per read
	ask           int       // messages of the next read
	want          int       // messages of the current read
	recv          *receiver // nil while a pooled Conn waits
	tryRead       func(fd uintptr) bool
	got           int
	errno         unix.Errno
	queued        int // ICMP errors found with errno
	localCounters localCounters
	drops         uint32 // last value of the socket's drop counter

	// sendHook replaces sendmmsg in tests.
	sendHook func(fd uintptr, h []mmsghdr) (int, unix.Errno)
}

func newBatcher(c *Conn, o *Options) (batcher, error) {
	if o.Portable {
		const why = "portable path"
		c.disableGSO(why)
		c.gro.Reason = why
		return newPortable(c, o)
	}
	m := &mmsg{c: c, pooled: o.Pooled, slots: o.batch(), ask: 1}
	m.tryRead = m.receive
	if !m.pooled {
		m.ask = m.slots
		m.recv = newReceiver(m.slots)
		m.recv.allocate(m.slots)
	}
	support := Probe()
	switch {
	case o.NoGSO:
		c.disableGSO("switched off")
	case support.GSO != nil:
		c.disableGSO(support.GSO.Error())
	default:
		c.gso.Store(true)
	}
	switch {
	case o.NoGRO:
		c.gro.Reason = "switched off"
	case support.GRO != nil:
		c.gro.Reason = support.GRO.Error()
	default:
		if err := enableGRO(c.raw); err != nil {
			c.gro.Reason = err.Error()
			break
		}
		c.gro.On = true
	}
	if c.peer == nil {
		_ = c.detachFromNetpoll() // best effort: it needs a descriptor
	}
	return m, nil
}

// send sends messages; single means one message of one datagram.
func (m *mmsg) send(fd uintptr, h []mmsghdr, single bool) (int, unix.Errno) {
	switch {
	case m.sendHook != nil:
		return m.sendHook(fd, h)
	case single:
		return sendOne(fd, &h[0])
	}
	return sendmmsg(fd, h)
}
