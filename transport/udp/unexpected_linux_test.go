package udp

import (
	"net"
	"net/netip"
	"syscall"
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

// onePort is Ports of one port.
type onePort struct {
	port                  uint16
	taken, held, released int
}

func (p *onePort) Take(netip.AddrPort) (uint16, error)        { p.taken++; return p.port, nil }
func (p *onePort) Hold(uint16, netip.AddrPort)                { p.held++ }
func (p *onePort) Release(_ uint16, _ netip.AddrPort, _ bool) { p.released++ }

// TestDatagramsBeforeConnectAreDiscarded binds a socket to a chosen port, and lets its future peer and
// a stranger send to it before it is connected. DialFrom does the same in a moment.
func TestDatagramsBeforeConnectAreDiscarded(t *testing.T) {
	for _, addr := range loopbacks {
		peer, stranger := listenOn(t, addr, Options{}), listenOn(t, addr, Options{})
		bound := portBinding{ports: &onePort{port: 19200}, target: peer.LocalAddrPort()}
		way := path.NewUDP(netip.AddrPortFrom(addr, 19200), netip.Addr{}, 0)
		d := net.Dialer{Control: func(network, _ string, raw syscall.RawConn) error {
			if err := bound.bind(network, raw); err != nil {
				return err
			}
			mustWrite(t, peer, packetsOf(way, 1, 2, 3))
			mustWrite(t, stranger, packetsOf(way, 4, 5))
			return nil
		}}
		pc, err := d.Dial("udp", peer.LocalAddrPort().String())
		if err != nil {
			t.Fatal(err)
		}
		u := pc.(*net.UDPConn)
		defer u.Close()
		c, err := newConn(u, peer.LocalAddrPort(), &Options{}, setup{})
		if err != nil {
			t.Fatal(err)
		}
		c.discardReceived()
		if n := c.Stats().UnexpectedSource; n != 5 {
			t.Errorf("%d of 5 datagrams discarded", n)
		}
		sent := packetsOf(way, 10, 20)
		mustWrite(t, peer, sent)
		sameDatagrams(t, collect(t, c, len(sent)), sent)
	}
}

// TestPortIsReleasedOnce dials with a port of Ports, and closes the socket twice.
func TestPortIsReleasedOnce(t *testing.T) {
	inEachMode(t, func(t *testing.T, o Options) {
		for _, addr := range loopbacks {
			ports := &onePort{port: 19200}
			o.Ports = ports
			c := dialTo(t, listenOn(t, addr, Options{}).LocalAddrPort(), o)
			if c.local.Port() != ports.port || !c.checkPeer {
				t.Errorf("bound to %s, checks its peer: %v", c.local, c.checkPeer)
			}
			_, _ = c.Close(), c.Close()
			if *ports != (onePort{ports.port, 1, 0, 1}) {
				t.Errorf("%+v", *ports)
			}
		}
	})
}
