package egress

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"lewes/router/account"
	"lewes/transport"
	"lewes/transport/udp"
)

// listen returns a socket on loopback and its address.
func listen(t *testing.T, addr string) (*net.UDPConn, netip.AddrPort) {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
	if err != nil {
		t.Skipf("cannot listen on %s: %v", addr, err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// dial opens a socket and returns its port.
func dial(t *testing.T, e *UDP, target netip.AddrPort) (transport.Conn, uint16) {
	t.Helper()
	c, err := e.Dial(target, account.Key{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
}

// send sends a datagram to a local port.
func send(t *testing.T, from *net.UDPConn, port uint16, payload string) {
	t.Helper()
	to := netip.AddrPortFrom(from.LocalAddr().(*net.UDPAddr).AddrPort().Addr(), port)
	if _, err := from.WriteToUDPAddrPort([]byte(payload), to); err != nil {
		t.Fatal(err)
	}
}

// receive returns the next datagram of a socket.
func receive(t *testing.T, c transport.Conn) string {
	t.Helper()
	var batch [1]transport.Packet
	if _, err := c.ReadBatch(batch[:]); err != nil {
		t.Fatal(err)
	}
	return string(batch[0].Data)
}

var options = map[string]udp.Options{"offload": {}, "portable": {Portable: true}}

// TestLateAnswerReachesNoOtherSocket closes a socket, opens others towards the same target until the
// ports are used up, and then lets the target answer to the first.
//
// Shows R8.28.
func TestLateAnswerReachesNoOtherSocket(t *testing.T) {
	for name, o := range options {
		for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
			t.Run(name+addr, func(t *testing.T) {
				e := &UDP{Options: o, Ports: NewPorts(Range{19100, 19103}, nil)}
				from, target := listen(t, addr)
				first, late := dial(t, e, target)
				_ = first.Close()
				var conns []transport.Conn
				for range 3 {
					c, port := dial(t, e, target)
					if port == late {
						t.Fatal("the port of the first socket is taken again")
					}
					send(t, from, late, "late")
					send(t, from, port, "own")
					conns = append(conns, c)
				}
				for _, c := range conns {
					if got := receive(t, c); got != "own" {
						t.Errorf("received %q", got)
					}
				}
				if _, err := e.Dial(target, account.Key{}); Shortage(err) != "local ports" || !errors.Is(err, syscall.EADDRNOTAVAIL) {
					t.Errorf("a fifth socket: %v", err)
				}
			})
		}
	}
}

// TestSocketsShareFewPorts opens many sockets on four ports, towards different targets. Each receives
// the datagrams of its own target.
func TestSocketsShareFewPorts(t *testing.T) {
	const targets = 50
	e := &UDP{Ports: NewPorts(Range{19100, 19103}, nil)}
	var conns []transport.Conn
	for range targets {
		from, target := listen(t, "127.0.0.1:0")
		c, port := dial(t, e, target)
		if port < 19100 || port > 19103 {
			t.Fatalf("port %d", port)
		}
		send(t, from, port, target.String())
		conns = append(conns, c)
	}
	for _, c := range conns {
		if got, want := receive(t, c), c.(*udp.Conn).RemoteAddrPort().String(); got != want {
			t.Errorf("the socket towards %s received a datagram from %s", want, got)
		}
	}
}

// TestListeningPortIsNotTaken leaves the ports that other sockets have.
func TestListeningPortIsNotTaken(t *testing.T) {
	_, target := listen(t, "127.0.0.1:0")
	other, own := listen(t, "127.0.0.1:19111")
	e := &UDP{Ports: NewPorts(Range{19110, 19111}, nil)}
	if _, port := dial(t, e, target); port == own.Port() {
		t.Error("the port of a listening socket was taken")
	}
	if _, err := e.Dial(target, account.Key{}); Shortage(err) != "local ports" {
		t.Errorf("no other port is free: %v", err)
	}
	_ = other.Close()
	if _, port := dial(t, e, target); port != own.Port() {
		t.Errorf("port %d was taken", port)
	}
}

// TestUnreachableTargetKeepsNoPort connects to a target that the kernel refuses.
func TestUnreachableTargetKeepsNoPort(t *testing.T) {
	p := NewPorts(Range{19120, 19120}, nil)
	e := &UDP{Ports: p}
	for range 3 {
		if _, err := e.Dial(netip.MustParseAddrPort("127.255.255.255:7"), account.Key{}); !errors.Is(err, transport.ErrDenied) {
			t.Fatalf("connecting to a broadcast address: %v", err)
		}
	}
	if len(p.inUse) != 0 {
		t.Errorf("%d pairs are in use", len(p.inUse))
	}
}
