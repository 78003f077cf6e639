package path

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestMaskAddr(t *testing.T) {
	for _, row := range []struct{ addr, want string }{
		{"198.51.100.7:51820", "198.51.100.x:51820"},
		{"10.0.0.0:1", "10.0.0.x:1"},
		{"[::ffff:198.51.100.7]:51820", "198.51.100.x:51820"},
		{"[2001:db8:1:2:3:4:5:6]:443", "[2001:db8:1::x]:443"},
		{"[2001:db8::6]:443", "[2001:db8::x]:443"},
		{"[fe80::1%eth0]:9", "[fe80::x]:9"},
		{"[::1]:9", "[::x]:9"},
	} {
		if got := MaskAddrPort(netip.MustParseAddrPort(row.addr)); got != row.want {
			t.Errorf("MaskAddrPort(%s) = %s, want %s", row.addr, got, row.want)
		}
	}
	if got := MaskAddrPort(netip.AddrPort{}); got != "unknown:0" {
		t.Errorf("mask of the zero AddrPort = %q", got)
	}
	if got := (Path{}).String(); got != "udp unknown:0" {
		t.Errorf("the zero Path prints as %q", got)
	}
}

func addrPort(t *rapid.T, label string) netip.AddrPort {
	var a netip.Addr
	switch rapid.IntRange(0, 2).Draw(t, label+" family") {
	case 0:
		a = netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, label)))
	case 1:
		a = netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, label)))
	case 2:
		four := netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, label)))
		a = netip.AddrFrom16(four.As16())
	}
	return netip.AddrPortFrom(a, rapid.Uint16().Draw(t, label+" port"))
}

// Clients of one /24 or /48 look the same in every printed form.
func TestPathIsPrintedMasked(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := addrPort(t, "peer")
		raw := a.Addr().Unmap().AsSlice()
		raw[len(raw)-1] ^= 1 + rapid.Byte().Filter(func(b byte) bool { return b < 255 }).Draw(t, "flip")
		other, _ := netip.AddrFromSlice(raw)
		if a.Addr().Unmap().Is6() && other.Is4In6() {
			t.Skip("the flip made it an IPv4 address")
		}
		p := NewUDP(a, netip.Addr{}, 3)
		q := NewUDP(netip.AddrPortFrom(other, a.Port()), netip.Addr{}, 3)
		if p == q {
			t.Fatal("the two paths are the same")
		}
		for _, form := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%08b"} {
			if x, y := fmt.Sprintf(form, p), fmt.Sprintf(form, q); x != y {
				t.Fatalf("%s shows the host part: %s, %s", form, x, y)
			}
		}
		x, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		if y, _ := json.Marshal(q); string(x) != string(y) {
			t.Fatalf("JSON shows the host part: %s, %s", x, y)
		}
	})
}

func TestPathIsCanonical(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		peer, local := addrPort(t, "peer"), addrPort(t, "local").Addr()
		peer4 := netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
		if a, b := NewUDP(peer, local, 2), NewUDP(peer4, local.Unmap(), 2); a != b {
			t.Fatalf("NewUDP: %#v is not %#v", a, b)
		}
		if a, b := NewTCP(peer, local, 2), NewTCP(peer4, local.Unmap(), 2); a != b {
			t.Fatalf("NewTCP: %#v is not %#v", a, b)
		}
		if p := NewUDP(peer, local, 0); p.Peer.Addr().Is4In6() || p.Local.Is4In6() {
			t.Fatal("a mapped address stayed")
		}
	})
}

func TestSamePeerAndSource(t *testing.T) {
	addr := netip.MustParseAddrPort
	local, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	base := NewUDP(addr("198.51.100.7:1000"), local, 2)
	baseTCP := NewTCP(addr("198.51.100.7:1000"), local, 1)
	for _, row := range []struct {
		name         string
		p, q         Path
		peer, source bool
	}{
		{"itself", base, base, true, true},
		{"another local end", base, NewUDP(base.Peer, other, 5), true, true},
		{"another port", base, NewUDP(addr("198.51.100.7:1001"), local, 2), false, false},
		{"another address", base, NewUDP(addr("198.51.100.8:1000"), local, 2), false, false},
		{"the mapped form", base, NewUDP(addr("[::ffff:198.51.100.7]:1000"), local, 2), true, true},
		{"another transport", base, baseTCP, false, false},
		{"another TCP connection", baseTCP, NewTCP(addr("198.51.100.7:1001"), local, 2), false, true},
		{"TCP from another address", baseTCP, NewTCP(addr("198.51.100.8:1000"), local, 1), false, false},
	} {
		if got := row.p.SamePeer(row.q); got != row.peer {
			t.Errorf("%s: SamePeer is %v", row.name, got)
		}
		if got := row.p.SameSource(row.q); got != row.source {
			t.Errorf("%s: SameSource is %v", row.name, got)
		}
		if row.p.SamePeer(row.q) != row.q.SamePeer(row.p) || row.p.SameSource(row.q) != row.q.SameSource(row.p) {
			t.Errorf("%s: not symmetric", row.name)
		}
	}
}

func TestTransportString(t *testing.T) {
	if got := fmt.Sprint(UDP, TCP, Transport(9)); got != "udp tcp transport 9" {
		t.Errorf("got %q", got)
	}
	if !strings.HasPrefix(NewTCP(netip.MustParseAddrPort("[::1]:2"), netip.Addr{}, 1).String(), "tcp [::x]:2") {
		t.Error("a TCP path does not say so")
	}
	if (Path{}).IsValid() || !NewTCP(netip.MustParseAddrPort("[::1]:2"), netip.Addr{}, 1).IsValid() {
		t.Error("IsValid is not whether there is a peer")
	}
}
