package link

import (
	"encoding/binary"
	"net/netip"
)

// Offsets and sizes of header fields, in bytes.
const (
	ipv4Checksum = 10
	ipv4Source   = 12
	ipv4Header   = 20
	ipv6Source   = 8
	ipv6Header   = 40
	udpChecksum  = 6
	udpHeader    = 8
	tcpChecksum  = 16
	tcpHeader    = 20
)

// packet is an IP packet in a pooled buffer.
type packet struct {
	size int
	buf  [MaxMTU]byte
}

func (p *packet) data() []byte { return p.buf[:p.size] }

// header holds the parsed fields of a packet.
type header struct {
	version   int // 4 or 6; 0: not IP
	protocol  uint8
	transport int  // offset of the transport header
	ports     bool // a complete UDP or TCP header is present
	checksum  int  // offset of the transport checksum
	payload   int  // offset of the transport payload
}

// parse parses an IP packet. Later fragments and IPv6 packets with extension headers have no
// ports.
func parse(b []byte) (h header) {
	switch {
	case len(b) >= ipv4Header && b[0]>>4 == 4:
		h = header{version: 4, protocol: b[9], transport: int(b[0]&15) * 4}
		if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return h
		}
	case len(b) >= ipv6Header && b[0]>>4 == 6:
		h = header{version: 6, protocol: b[6], transport: ipv6Header}
	default:
		return h
	}
	switch {
	case h.protocol == UDP && len(b) >= h.transport+udpHeader:
		h.ports, h.checksum, h.payload = true, h.transport+udpChecksum, h.transport+udpHeader
	case h.protocol == TCP && len(b) >= h.transport+tcpHeader:
		h.ports, h.checksum, h.payload = true, h.transport+tcpChecksum, h.transport+int(b[h.transport+12]>>4)*4
	}
	return h
}

// place selects the source or destination fields.
type place int

const (
	source place = iota
	destination
)

func (h *header) addr(w place) (at, size int) {
	if h.version == 4 {
		return ipv4Source + 4*int(w), 4
	}
	return ipv6Source + 16*int(w), 16
}

// port returns a port of a packet that has ports.
func (h *header) port(b []byte, w place) uint16 {
	return binary.BigEndian.Uint16(b[h.transport+2*int(w):])
}

// endpoint returns an address and port of a packet that has ports.
func (h *header) endpoint(b []byte, w place) netip.AddrPort {
	at, size := h.addr(w)
	a, _ := netip.AddrFromSlice(b[at : at+size])
	return netip.AddrPortFrom(a, h.port(b, w))
}

// setEndpoint replaces an address by one of the same family, and a port, and updates the
// checksums.
func (h *header) setEndpoint(b []byte, w place, to netip.AddrPort) {
	at, size := h.addr(w)
	if h.version == 4 {
		adjust(b, ipv4Checksum, at, to.Addr().AsSlice())
	}
	h.cover(b, at, to.Addr().AsSlice())
	copy(b[at:at+size], to.Addr().AsSlice())
	var port [2]byte
	binary.BigEndian.PutUint16(port[:], to.Port())
	h.cover(b, h.transport+2*int(w), port[:])
	copy(b[h.transport+2*int(w):], port[:])
}

// cover updates the transport checksum for bytes that are about to change.
func (h *header) cover(b []byte, at int, to []byte) {
	if h.protocol == UDP && binary.BigEndian.Uint16(b[h.checksum:]) == 0 {
		return // sent without a checksum
	}
	adjust(b, h.checksum, at, to)
	if h.protocol == UDP && binary.BigEndian.Uint16(b[h.checksum:]) == 0 {
		binary.BigEndian.PutUint16(b[h.checksum:], 0xffff)
	}
}

// adjust updates an Internet checksum for an even number of bytes at an even offset that are
// about to change (RFC 1624). A wrong checksum stays wrong.
func adjust(b []byte, checksum, at int, to []byte) {
	sum := uint32(^binary.BigEndian.Uint16(b[checksum:]))
	for i := 0; i < len(to); i += 2 {
		sum += uint32(^binary.BigEndian.Uint16(b[at+i:])) + uint32(binary.BigEndian.Uint16(to[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(b[checksum:], ^uint16(sum))
}

// flip flips one bit of the payload, and corrects the checksum with repair. It reports whether
// there was a payload.
func (h *header) flip(b []byte, bit uint64, repair bool) bool {
	if !h.ports || h.payload >= len(b) {
		return false
	}
	bit %= uint64(len(b)-h.payload) * 8
	at := h.payload + int(bit/8)
	if !repair {
		b[at] ^= 1 << (bit % 8)
		return true
	}
	word := h.transport + (at-h.transport)&^1
	changed := [2]byte{b[word]}
	last := word+1 == len(b) // an odd byte at the end counts as if a 0 followed
	if !last {
		changed[1] = b[word+1]
	}
	changed[at-word] ^= 1 << (bit % 8)
	if last {
		h.coverLast(b, changed[0])
	} else {
		h.cover(b, word, changed[:])
	}
	b[at] = changed[at-word]
	return true
}

// coverLast is cover for the odd byte at the end of a packet.
func (h *header) coverLast(b []byte, to byte) {
	padded := append(b, 0) // in the buffer's spare room, or a copy
	h.cover(padded, len(b)-1, []byte{to, 0})
	copy(b[h.checksum:h.checksum+2], padded[h.checksum:h.checksum+2])
}
