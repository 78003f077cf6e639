package udp

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Control messages: what the kernel says beside a received message, and what it is
// told beside one to send.

const (
	// Room, in 8-byte words, for everything that a received message brings: packet
	// info of either family, the segment size and the drop counter.
	receiveControlWords = 16
	// Room for what is sent: the segment size, then packet info.
	sendControlWords = 10
)

// ancillary is what came beside a message.
type ancillary struct {
	local   netip.Addr // invalid where not told, or no address to answer from
	ifIndex uint32
	segment int // 0 where not told
	drops   uint32
	dropped bool // drops was told
}

// parseControl reads the control messages in b. Those that it does not know, and
// those cut short, it leaves.
func parseControl(b []byte, a *ancillary) {
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
			// Spec_dst, not Addr: for a broadcast it is the address to answer from.
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

// control is a buffer for control messages to send.
type control [sendControlWords]uint64

// put starts a control message of n bytes at offset at and returns where its data
// goes and where the next one starts.
func (c *control) put(at int, level, kind int32, n int) (unsafe.Pointer, int) {
	h := (*unix.Cmsghdr)(unsafe.Add(unsafe.Pointer(c), at))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(n))
	return unsafe.Add(unsafe.Pointer(c), at+unix.CmsgLen(0)), at + unix.CmsgSpace(n)
}

// segment tells the kernel to cut the message in datagrams of the given size. It
// goes first, so that what follows can be taken away alone.
func (c *control) segment(size int) (end int) {
	data, end := c.put(0, unix.SOL_UDP, unix.UDP_SEGMENT, 2)
	*(*uint16)(data) = uint16(size)
	return end
}

// source tells the kernel where the message leaves from. v6 is the socket's
// family; an address of the other is left out.
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
