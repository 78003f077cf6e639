package udp

import (
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"lewes/state/path"

	"lewes/transport"
)

func TestListenBindsBothFamiliesOnOnePort(t *testing.T) {
	l, err := Listen(t.Context(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if len(l.Failed) > 0 {
		t.Skipf("one family is missing here: %v", l.Failed[0])
	}
	if len(l.Groups) != 2 || l.Groups[0].Addr.Port() == 0 || l.Groups[0].Addr.Port() != l.Groups[1].Addr.Port() {
		t.Fatalf("bound %+v", l.Groups)
	}
	for i, addr := range loopbacks {
		sent := packetsOf(path.Path{}, 10)
		mustWrite(t, dialTo(t, netip.AddrPortFrom(addr, l.Groups[i].Addr.Port()), Options{}), sent)
		got := collect(t, l.Groups[i].Conns[0], 1)
		sameDatagrams(t, got, sent)
		if got[0].path.Peer.Addr() != addr {
			t.Errorf("came from %s, want %s", got[0].path.Peer.Addr(), addr)
		}
	}
	if got := l.Shard(0); len(got) != 2 || l.Shards() != 1 {
		t.Errorf("shard 0 has %d sockets of %d shards", len(got), l.Shards())
	}
	if got := l.Shard(1); got != nil {
		t.Errorf("shard 1 has %d sockets", len(got))
	}
}

func TestListenSucceedsWithOneAddress(t *testing.T) {
	taken := listenOn(t, loopbacks[0], Options{})
	absent := netip.MustParseAddrPort("203.0.113.9:0")
	l, err := Listen(t.Context(), Config{Addrs: []netip.AddrPort{
		taken.LocalAddrPort(), netip.AddrPortFrom(loopbacks[0], 0), absent,
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if len(l.Groups) != 1 || len(l.Failed) != 2 {
		t.Fatalf("%d bound, %d failed", len(l.Groups), len(l.Failed))
	}
	if f := l.Failed[0]; f.Addr != taken.LocalAddrPort() || !strings.Contains(f.Error(), f.Addr.String()) {
		t.Errorf("first failure %v", f)
	}
	if f := l.Failed[1]; f.Addr != absent {
		t.Errorf("second failure %v", f)
	}
}

func TestListenFailsIfNothingBinds(t *testing.T) {
	taken := listenOn(t, loopbacks[0], Options{}).LocalAddrPort()
	l, err := Listen(t.Context(), Config{Addrs: []netip.AddrPort{taken, netip.MustParseAddrPort("203.0.113.9:0")}, Port: 7})
	if err == nil {
		_ = l.Close()
		t.Fatal("Listen found something to bind")
	}
	for _, want := range []string{taken.String(), "203.0.113.9:7"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %s", err, want)
		}
	}
	var b *transport.BindError
	if !errors.As(err, &b) {
		t.Errorf("%v is no BindError", err)
	}
}

func TestListenDefaultPort(t *testing.T) {
	free := listenOn(t, loopbacks[0], Options{})
	port := free.LocalAddrPort().Port()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(t.Context(), Config{Addrs: []netip.AddrPort{netip.AddrPortFrom(loopbacks[0], 0)}, Port: port})
	if err != nil {
		t.Skipf("another program took the port meanwhile: %v", err)
	}
	defer l.Close()
	if got := l.Groups[0].Addr; got != netip.AddrPortFrom(loopbacks[0], port) {
		t.Errorf("bound %s, want port %d", got, port)
	}
}

func TestBindErrorsIncludeARemedy(t *testing.T) {
	addr := netip.MustParseAddrPort("192.0.2.1:51264")
	for e, want := range map[syscall.Errno]string{
		syscall.EADDRINUSE:    "choose another port",
		syscall.EACCES:        "from 1024 up",
		syscall.EADDRNOTAVAIL: "does not have the address",
		syscall.EAFNOSUPPORT:  "address family",
	} {
		err := &transport.BindError{Network: "udp", Addr: addr, Err: e}
		if s := err.Error(); !strings.Contains(s, want) || !strings.Contains(s, addr.String()) {
			t.Errorf("%q lacks %q or the address", s, want)
		}
		if !errors.Is(err, e) {
			t.Errorf("%v hides %v", err, e)
		}
	}
}

func TestSetupEventsAreDeduplicated(t *testing.T) {
	var said []Event
	notify := deduplicate(func(e Event) { said = append(said, e) })
	for range 3 {
		notify(Event{Kind: BufferSmall, Detail: "receive"})
		notify(Event{Kind: BufferSmall, Detail: "send"})
		notify(Event{Kind: GSOOff})
	}
	if len(said) != 2+3 {
		t.Errorf("said %v", said)
	}
	if deduplicate(nil) != nil {
		t.Error("nobody to tell, and yet a function")
	}
	if s := (Event{Kind: GSOOff, Detail: "x", Err: syscall.EIO}).String(); !strings.Contains(s, GSOOff.String()) || !strings.Contains(s, syscall.EIO.Error()) {
		t.Errorf("event prints as %q", s)
	}
}
