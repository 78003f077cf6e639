package udp

import (
	"errors"
	"net/netip"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"lewes/state/path"
	"lewes/transport"
)

// However many errors come while nobody reads, they leave room for datagrams.
func TestErrorQueueIsDrained(t *testing.T) {
	for _, addr := range loopbacks {
		gone := listenOn(t, addr, Options{})
		target := gone.LocalAddrPort()
		if err := gone.Close(); err != nil {
			t.Fatal(err)
		}
		c := dialTo(t, target, Options{ReceiveBuffer: 64 << 10})
		const rounds = 500
		taken := 0
		for i := range rounds {
			n, _ := c.WriteBatch(packetsOf(path.Path{}, 100, 101+i%2, 102))
			taken += n
		}
		if taken != 3*rounds {
			t.Errorf("%s: %d datagrams taken of %d", addr, taken, 3*rounds)
		}
		if s := c.Stats(); s.AsyncErrors[Refused] < rounds {
			t.Errorf("%s: AsyncErrors[Refused] %d for %d refused datagrams", addr, s.AsyncErrors[Refused], taken)
		}
		back, err := Listen(t.Context(), Config{Addrs: []netip.AddrPort{target}})
		if err != nil {
			t.Skipf("another program took the port meanwhile: %v", err)
		}
		_, _ = c.WriteBatch(packetsOf(path.Path{}, 1)) // empties what is left
		server := back.Groups[0].Conns[0]
		sent := packetsOf(path.NewUDP(c.LocalAddrPort(), netip.Addr{}, 0), bytesOf(20, 1000)...)
		mustWrite(t, server, sent)
		sameDatagrams(t, collect(t, c, len(sent)), sent)
		_ = back.Close()
	}
}

// The kernel forgets an error that it finds behind the first message of a sendmmsg,
// but for what is in the queue: on loopback the first datagram is refused before
// the second is sent.
func TestRefusalWithinBatchIsReported(t *testing.T) {
	for _, addr := range loopbacks {
		gone := listenOn(t, addr, Options{})
		target := gone.LocalAddrPort()
		if err := gone.Close(); err != nil {
			t.Fatal(err)
		}
		c := dialTo(t, target, Options{})
		if n, err := c.WriteBatch(packetsOf(path.Path{}, 100, 200, 300)); n != 3 || !errors.Is(err, transport.ErrRefused) {
			t.Errorf("%s: WriteBatch: %d, %v, want 3 taken and ErrRefused", addr, n, err)
		}
	}
}

func TestParseExtendedErr(t *testing.T) {
	report := func(origin uint8) []byte {
		e := unix.SockExtendedErr{Errno: uint32(unix.EHOSTUNREACH), Origin: origin, Type: 3, Code: 1}
		return unsafe.Slice((*byte)(unsafe.Pointer(&e)), unsafe.Sizeof(e))
	}
	icmp, local := report(unix.SO_EE_ORIGIN_ICMP), report(unix.SO_EE_ORIGIN_LOCAL)
	for _, c := range []struct {
		name string
		in   []byte
		want unix.Errno
	}{
		{"nothing", nil, 0},
		{"from a router", controlMessage(unix.SOL_IP, unix.IP_RECVERR, icmp), unix.EHOSTUNREACH},
		{"from a router, IPv6", controlMessage(unix.SOL_IPV6, unix.IPV6_RECVERR, report(unix.SO_EE_ORIGIN_ICMP6)), unix.EHOSTUNREACH},
		{"from this host", controlMessage(unix.SOL_IP, unix.IP_RECVERR, local), 0},
		{"behind something else", append(controlMessage(unix.SOL_SOCKET, 99, icmp), controlMessage(unix.SOL_IP, unix.IP_RECVERR, icmp)...), unix.EHOSTUNREACH},
		{"cut short", controlMessage(unix.SOL_IP, unix.IP_RECVERR, icmp[:15]), 0},
		{"another message", controlMessage(unix.SOL_IP, unix.IP_PKTINFO, icmp), 0},
		{"no control message", []byte{1, 2, 3}, 0},
	} {
		if got := parseExtendedErr(c.in); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func FuzzParseReport(f *testing.F) {
	f.Add([]byte{})
	f.Add(controlMessage(unix.SOL_IP, unix.IP_RECVERR, make([]byte, 16)))
	f.Add(controlMessage(unix.SOL_IPV6, unix.IPV6_RECVERR, make([]byte, 44)))
	f.Fuzz(func(t *testing.T, in []byte) {
		if e := parseExtendedErr(in); e != 0 && len(in) < unix.CmsgLen(16) {
			t.Fatalf("%x is no report and gives %v", in, e)
		}
	})
}
