package udp

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"lewes/transport"
)

// What the kernel is told for sending reads back as what it would tell on
// receiving: the layouts of both ways are the same.
func TestSourceControlRoundTrip(t *testing.T) {
	for _, c := range []struct {
		local   string
		v6      bool
		segment int
	}{
		{"192.0.2.7", false, 0},
		{"192.0.2.7", false, 1200},
		{"2001:db8::7", true, 0},
		{"2001:db8::7", true, 65000},
	} {
		var ctl control
		end := 0
		if c.segment > 0 {
			end = ctl.segment(c.segment)
			h := (*unix.Cmsghdr)(unsafe.Pointer(&ctl))
			if h.Level != unix.SOL_UDP || h.Type != unix.UDP_SEGMENT || int(h.Len) != unix.CmsgLen(2) {
				t.Errorf("segment control %+v", *h)
			}
			if got := binary.NativeEndian.Uint16(ctl.bytes()[unix.CmsgLen(0):]); int(got) != c.segment {
				t.Errorf("segment %d, want %d", got, c.segment)
			}
		}
		local := netip.MustParseAddr(c.local)
		end, ok := ctl.source(end, local, 5, c.v6)
		if !ok || end > len(ctl.bytes()) {
			t.Fatalf("%s: ok %v, %d of %d bytes", c.local, ok, end, len(ctl.bytes()))
		}
		var a controlInfo
		parseControl(ctl.bytes()[:end], &a)
		if a.local != local || a.ifIndex != 5 {
			t.Errorf("read back %+v, want %s on 5", a, local)
		}
	}
}

func TestSourceControlIgnoresInvalidAddresses(t *testing.T) {
	for _, c := range []struct {
		local netip.Addr
		v6    bool
	}{
		{netip.Addr{}, false},
		{netip.Addr{}, true},
		{netip.IPv4Unspecified(), false},
		{netip.IPv6Unspecified(), true},
		{netip.MustParseAddr("192.0.2.7"), true},
		{netip.MustParseAddr("2001:db8::7"), false},
	} {
		var ctl control
		if end, ok := ctl.source(0, c.local, 5, c.v6); ok || end != 0 {
			t.Errorf("%v on a socket with v6=%v: %d bytes", c.local, c.v6, end)
		}
	}
}

// message lays out one control message as the kernel does.
func controlMessage(level, kind int32, data []byte) []byte {
	b := make([]byte, unix.CmsgSpace(len(data)))
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	h.Level, h.Type = level, kind
	h.SetLen(unix.CmsgLen(len(data)))
	copy(b[unix.CmsgLen(0):], data)
	return b
}

func TestParseControl(t *testing.T) {
	number := func(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
	info4 := append(number(3), 192, 0, 2, 1, 192, 0, 2, 255)
	multicast := netip.MustParseAddr("ff02::1").As16()
	var all []byte
	all = append(all, controlMessage(unix.SOL_SOCKET, unix.SO_RXQ_OVFL, number(77))...)
	all = append(all, controlMessage(unix.SOL_SOCKET, 9999, []byte{1, 2, 3})...) // unknown
	all = append(all, controlMessage(unix.SOL_IP, unix.IP_PKTINFO, info4)...)
	all = append(all, controlMessage(unix.SOL_UDP, unix.UDP_GRO, number(1200))...)

	var a controlInfo
	parseControl(all, &a)
	want := controlInfo{local: netip.MustParseAddr("192.0.2.1"), ifIndex: 3, segment: 1200, drops: 77, dropped: true}
	if a != want {
		t.Errorf("got %+v, want %+v", a, want)
	}

	a = controlInfo{}
	parseControl(controlMessage(unix.SOL_IPV6, unix.IPV6_PKTINFO, append(multicast[:], number(3)...)), &a)
	if a.local.IsValid() || a.ifIndex != 3 {
		t.Errorf("multicast: got %+v, want no address to answer from, interface 3", a)
	}

	for n := range all {
		var cut controlInfo
		parseControl(all[:n], &cut) // no panic; and nothing that is not there
		if n < len(all)-8 && cut.segment != 0 {
			t.Errorf("%d bytes of %d: segment %d", n, len(all), cut.segment)
		}
	}
	short := controlMessage(unix.SOL_UDP, unix.UDP_GRO, []byte{1, 2})
	a = controlInfo{}
	parseControl(short, &a)
	if a != (controlInfo{}) {
		t.Errorf("two bytes of a segment size gave %+v", a)
	}
}

func FuzzParseControl(f *testing.F) {
	f.Add([]byte{})
	f.Add(controlMessage(unix.SOL_UDP, unix.UDP_GRO, []byte{0xb0, 4, 0, 0}))
	f.Add(append(controlMessage(unix.SOL_SOCKET, unix.SO_RXQ_OVFL, []byte{1, 0, 0, 0}),
		controlMessage(unix.SOL_IP, unix.IP_PKTINFO, make([]byte, unix.SizeofInet4Pktinfo))...))
	f.Add(controlMessage(unix.SOL_IPV6, unix.IPV6_PKTINFO, make([]byte, unix.SizeofInet6Pktinfo)))
	f.Fuzz(func(t *testing.T, in []byte) {
		// As the kernel's, the buffer starts at a word.
		words := make([]uint64, (len(in)+7)/8+1)
		b := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), len(words)*8)[:len(in)]
		copy(b, in)
		var a, again controlInfo
		parseControl(b, &a)
		parseControl(b, &again)
		if a != again {
			t.Fatalf("%x gives %+v, then %+v", in, a, again)
		}
		if len(in) < unix.SizeofCmsghdr && a != (controlInfo{}) {
			t.Fatalf("%x is no control message and gives %+v", in, a)
		}
	})
}

func TestSockaddrRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v6 := rapid.Bool().Draw(t, "v6")
		n := 4
		if v6 {
			n = 16
		}
		addr, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "addr"))
		peer := netip.AddrPortFrom(addr, rapid.Uint16Min(1).Draw(t, "port"))
		var s sockaddr
		length := s.set(peer, 0, v6)
		if addr.Is4In6() {
			if length != 0 {
				t.Fatalf("%s was taken for IPv6", peer)
			}
			return
		}
		if length == 0 || s.get() != peer {
			t.Fatalf("%s reads back as %s (%d bytes)", peer, s.get(), length)
		}
		if s.set(peer, 0, !v6) != 0 {
			t.Fatalf("%s was taken for the other family", peer)
		}
	})
}

func TestSockaddrZones(t *testing.T) {
	linkLocal := netip.MustParseAddr("fe80::1")
	for _, c := range []struct {
		peer    netip.Addr
		ifIndex uint32
		want    string
	}{
		{linkLocal.WithZone("7"), 3, "[fe80::1%7]:9"},
		{linkLocal.WithZone("lo"), 3, "[fe80::1%1]:9"},
		{linkLocal, 3, "[fe80::1%3]:9"},
		{linkLocal, 0, "[fe80::1]:9"},
		{linkLocal.WithZone("no such interface"), 3, "[fe80::1]:9"},
		{netip.MustParseAddr("2001:db8::1"), 3, "[2001:db8::1]:9"},
	} {
		var s sockaddr
		if s.set(netip.AddrPortFrom(c.peer, 9), c.ifIndex, true) == 0 || s.get().String() != c.want {
			t.Errorf("%s on %d: %s, want %s", c.peer, c.ifIndex, s.get(), c.want)
		}
	}
}

// A datagram is whole or it is not handed out.
func TestTruncatedDatagramIsDropped(t *testing.T) {
	c := listenOn(t, loopbacks[0], Options{Batch: 3})
	m := c.io.(*mmsg)
	for i, flags := range []int32{unix.MSG_TRUNC, 0, unix.MSG_CTRUNC} {
		h := &m.recv.hdrs[i]
		h.Len, h.Flags = 100, flags
		h.SetControllen(0)
		copy(m.recv.bufs[i], []byte{byte(i)})
	}
	m.got = 3
	batch := make([]transport.Packet, 3)
	if n := m.deliver(batch); n != 1 || len(batch[0].Data) != 100 || batch[0].Data[0] != 1 {
		t.Errorf("%d packets, the first %x", n, batch[0].Data)
	}
	if n := c.Stats().Truncated; n != 2 {
		t.Errorf("Truncated %d, want 2", n)
	}
}
