package udp

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lewes/state/path"
)

// What strangers sent between bind and connect is not the peer's. A socket is bound
// here, hears a stranger, and is connected then: the moment that DialFrom has in
// between, drawn out.
func TestDatagramsBeforeConnectAreDropped(t *testing.T) {
	inEachMode(t, func(t *testing.T, o Options) {
		for _, addr := range loopbacks {
			peer, stranger := listenOn(t, addr, Options{}), listenOn(t, addr, Options{})
			u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
			if err != nil {
				t.Fatal(err)
			}
			defer u.Close()
			way := path.NewUDP(u.LocalAddr().(*net.UDPAddr).AddrPort(), netip.Addr{}, 0)
			mustWrite(t, stranger, packetsOf(way, 1, 2, 3, 3, 3))
			if err := connect(u, peer.LocalAddrPort()); err != nil {
				t.Fatal(err)
			}
			c, err := newConn(u, peer.LocalAddrPort(), &o, setup{})
			if err != nil {
				t.Fatal(err)
			}
			c.checkPeer = true

			sent := packetsOf(way, 10, 20, 20)
			mustWrite(t, peer, sent)
			got := collect(t, c, len(sent))
			sameDatagrams(t, got, sent)
			if got := tryCollect(t, c, 1, time.Millisecond); len(got) > 0 {
				t.Errorf("heard %d bytes besides", len(got[0].data))
			}
			if n := c.Stats().UnexpectedSource; n == 0 {
				t.Error("no stray was counted")
			}
		}
	})
}

func connect(u *net.UDPConn, to netip.AddrPort) error {
	raw, err := u.SyscallConn()
	if err != nil {
		return err
	}
	var target unix.Sockaddr
	if to.Addr().Is4() {
		target = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	} else {
		target = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	}
	return onFD(raw, func(fd int) error { return unix.Connect(fd, target) })
}

func TestOnlyDialFromNeedsToCheck(t *testing.T) {
	target := listenOn(t, loopbacks[0], Options{}).LocalAddrPort()
	if dialTo(t, target, Options{}).checkPeer {
		t.Error("Dial binds and connects in one: nothing comes in between")
	}
	for _, local := range []netip.AddrPort{netip.AddrPortFrom(loopbacks[0], 0), netip.MustParseAddrPort("0.0.0.0:0")} {
		c, err := DialFrom(local, target, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if !c.checkPeer {
			t.Errorf("DialFrom %s does not look where datagrams are from", local)
		}
		_ = c.Close()
	}
}
