package link

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// datagram builds an IP packet with right checksums.
func datagram(protocol uint8, from, to netip.AddrPort, payload int) []byte {
	segment := make([]byte, map[uint8]int{UDP: udpHeader, TCP: tcpHeader}[protocol]+payload)
	for i := range segment {
		segment[i] = byte(i * 7)
	}
	binary.BigEndian.PutUint16(segment, from.Port())
	binary.BigEndian.PutUint16(segment[2:], to.Port())
	if protocol == TCP {
		segment[12] = 5 << 4
	} else {
		binary.BigEndian.PutUint16(segment[4:], uint16(len(segment)))
	}
	var b []byte
	if from.Addr().Is4() {
		b = make([]byte, ipv4Header, ipv4Header+len(segment))
		b[0], b[8], b[9] = 0x45, 64, protocol
		binary.BigEndian.PutUint16(b[2:], uint16(ipv4Header+len(segment)))
		copy(b[ipv4Source:], from.Addr().AsSlice())
		copy(b[ipv4Source+4:], to.Addr().AsSlice())
		binary.BigEndian.PutUint16(b[ipv4Checksum:], ^sum(b))
	} else {
		b = make([]byte, ipv6Header, ipv6Header+len(segment))
		b[0], b[6], b[7] = 0x60, protocol, 64
		binary.BigEndian.PutUint16(b[4:], uint16(len(segment)))
		copy(b[ipv6Source:], from.Addr().AsSlice())
		copy(b[ipv6Source+16:], to.Addr().AsSlice())
	}
	b = append(b, segment...)
	seal(b)
	return b
}

// seal makes the transport's checksum.
func seal(b []byte) {
	h := parse(b)
	b[h.checksum], b[h.checksum+1] = 0, 0
	checksum := ^transportSum(b)
	if h.protocol == UDP && checksum == 0 {
		checksum = 0xffff // 0 means that there is none
	}
	binary.BigEndian.PutUint16(b[h.checksum:], checksum)
}

// sum is the ones' complement sum of RFC 1071.
func sum(b []byte) uint16 {
	var s uint32
	for i := 0; i < len(b); i += 2 {
		s += uint32(b[i]) << 8
		if i+1 < len(b) {
			s += uint32(b[i+1])
		}
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

// transportSum is the sum that UDP and TCP have, with the pseudo header.
func transportSum(b []byte) uint16 {
	h := parse(b)
	segment := b[h.transport:]
	var pseudo []byte
	for _, w := range []place{source, destination} {
		at, size := h.addr(w)
		pseudo = append(pseudo, b[at:at+size]...)
	}
	pseudo = append(pseudo, 0, h.protocol, byte(len(segment)>>8), byte(len(segment)))
	return sum(append(pseudo, segment...))
}

// right reports whether a receiver would take the packet.
func right(b []byte) bool {
	return transportSum(b) == 0xffff && (b[0]>>4 == 6 || sum(b[:ipv4Header]) == 0xffff)
}

var (
	inside4, outside4 = netip.MustParseAddrPort("192.0.2.1:5001"), netip.MustParseAddrPort("203.0.113.77:61234")
	far4              = netip.MustParseAddrPort("192.0.2.2:51264")
	inside6, outside6 = netip.MustParseAddrPort("[2001:db8::1]:5001"), netip.MustParseAddrPort("[2001:db8:ffff::abcd]:61234")
	far6              = netip.MustParseAddrPort("[2001:db8::2]:51264")
)

func TestParse(t *testing.T) {
	for _, protocol := range []uint8{UDP, TCP} {
		for _, ends := range [][2]netip.AddrPort{{inside4, far4}, {inside6, far6}} {
			b := datagram(protocol, ends[0], ends[1], 33)
			if !right(b) {
				t.Fatal("this test makes wrong checksums")
			}
			h := parse(b)
			if h.protocol != protocol || !h.ports || h.endpoint(b, source) != ends[0] || h.endpoint(b, destination) != ends[1] || len(b)-h.payload != 33 {
				t.Errorf("%+v of protocol %d, %v", h, protocol, ends)
			}
			for cut := range b {
				parse(b[:cut]) // however short, it looks at nothing that is not there
			}
		}
	}
	later := datagram(UDP, inside4, far4, 33)
	later[7] = 8 // a fragment's offset
	if h := parse(later); h.ports || h.protocol != UDP {
		t.Errorf("a later fragment: %+v", h)
	}
}

func TestNewEndpointsKeepChecksumsRight(t *testing.T) {
	for _, protocol := range []uint8{UDP, TCP} {
		for _, row := range [][3]netip.AddrPort{{inside4, far4, outside4}, {inside6, far6, outside6}} {
			for _, w := range []place{source, destination} {
				b := datagram(protocol, row[0], row[1], 32)
				h := parse(b)
				h.setEndpoint(b, w, row[2])
				if h.endpoint(b, w) != row[2] || !right(b) {
					t.Errorf("protocol %d, %v: it is %v, right %t", protocol, row, h.endpoint(b, w), right(b))
				}
				b[len(b)-1] ^= 4
				h.setEndpoint(b, w, row[0])
				if right(b) {
					t.Error("a wrong checksum became right")
				}
			}
		}
	}
	none := datagram(UDP, inside4, far4, 32)
	h := parse(none)
	none[h.checksum], none[h.checksum+1] = 0, 0
	h.setEndpoint(none, source, outside4)
	if none[h.checksum] != 0 || none[h.checksum+1] != 0 {
		t.Error("a datagram without a checksum got one")
	}
}

func TestTurnedBits(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, protocol := range []uint8{UDP, TCP} {
		for _, ends := range [][2]netip.AddrPort{{inside4, far4}, {inside6, far6}} {
			for _, size := range []int{1, 2, 33, 34} {
				for range 50 {
					for _, repair := range []bool{false, true} {
						was := datagram(protocol, ends[0], ends[1], size)
						b := append([]byte(nil), was...)
						h := parse(b)
						if !h.flip(b, random.Uint64(), repair) {
							t.Fatal("nothing was turned")
						}
						different := 0
						for i := h.payload; i < len(b); i++ {
							if b[i] != was[i] {
								different++
							}
						}
						if different != 1 || right(b) != repair || len(b) != len(was) {
							t.Fatalf("protocol %d, %d bytes, repair %t: %d bytes differ, right %t", protocol, size, repair, different, right(b))
						}
					}
				}
			}
		}
	}
	empty := datagram(UDP, inside4, far4, 0)
	if h := parse(empty); h.flip(empty, 5, false) {
		t.Error("a bit of nothing was turned")
	}
}

func TestNAT(t *testing.T) {
	outer := []netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2")}
	n := newNAT(outer)
	go4 := func(protocol uint8, from netip.AddrPort) netip.AddrPort {
		t.Helper()
		b := datagram(protocol, from, far4, 8)
		h := parse(b)
		if !n.translate(A, &h, b) || !right(b) || h.endpoint(b, destination) != far4 {
			t.Fatalf("%v does not pass", from)
		}
		return h.endpoint(b, source)
	}
	back := func(protocol uint8, to netip.AddrPort) (netip.AddrPort, bool) {
		t.Helper()
		b := datagram(protocol, far4, to, 8)
		h := parse(b)
		ok := n.translate(B, &h, b)
		if !right(b) {
			t.Fatal("wrong checksum")
		}
		return h.endpoint(b, destination), ok
	}
	first := go4(UDP, inside4)
	if first.Addr() != outer[0] || go4(UDP, inside4) != first || go4(TCP, inside4) == first {
		t.Errorf("mapping %v", first)
	}
	if to, ok := back(UDP, first); !ok || to != inside4 {
		t.Errorf("back: %v, %t", to, ok)
	}
	if _, ok := back(TCP, first); ok {
		t.Error("TCP comes in by UDP's mapping")
	}
	n.rebind()
	if _, ok := back(UDP, first); ok {
		t.Error("the old mapping is there after Rebind")
	}
	second := go4(UDP, inside4)
	if second.Addr() != outer[1] || second.Port() == first.Port() {
		t.Errorf("first %v, then %v", first, second)
	}
	six := datagram(UDP, inside6, far6, 8)
	if h := parse(six); !n.translate(A, &h, six) || h.endpoint(six, source) != inside6 {
		t.Error("IPv6 is translated")
	}
	icmp := datagram(UDP, inside4, far4, 8)
	icmp[9] = 1
	if h := parse(icmp); n.translate(A, &h, icmp) {
		t.Error("ICMP passes")
	}

	// Ports come round again, and take the place of who had them.
	for i := range lastPort - firstPort + 10 {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 9)
		if to, ok := back(UDP, go4(UDP, from)); !ok || to != from {
			t.Fatalf("flow %d: back to %v, %t", i, to, ok)
		}
	}
	if len(n.in) > lastPort-firstPort+1 || len(n.out) > len(n.in) {
		t.Errorf("%d mappings one way, %d the other", len(n.in), len(n.out))
	}
}
