package tcp

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"lewes/transport"
)

// TestShards sends packets for each shard over whichever connection the system gives
// to whichever listener: each comes to its shard, whose answers leave as well.
func TestShards(t *testing.T) {
	l := listening(t, func(c *Config) {
		c.Shards = 3
		c.Steer = func(packet []byte) int { return int(binary.LittleEndian.Uint32(packet)) }
	})
	if n := len(l.Groups[0].Listeners); n != 3 && n != 1 {
		t.Errorf("%d listeners for 3 shards", n)
	}
	for n := range 30 {
		conn := dialTo(t, l)
		packet := packetOf(50, 0)
		packet[0], packet[4] = byte(n%3), byte(n)
		send(t, conn, packet)
		p := readOne(t, l.Shards[n%3])
		if p.Data[4] != byte(n) {
			t.Fatalf("packet %d came in the place of %d", p.Data[4], n)
		}
		other := l.Shards[(n+1)%3] // any of them answers
		if _, err := other.WriteBatch([]transport.Packet{p}); err != nil {
			t.Fatal(err)
		}
		other.End(p.Path)
		if got := frames(t, conn); len(got) != 1 {
			t.Fatalf("%d answers", len(got))
		}
	}
	packet := packetOf(50, 0xff) // a shard that there is not
	send(t, dialTo(t, l), packet)
	readOne(t, l.Shards[0])
}

// TestSecondListener fails, with one listener and with several.
func TestSecondListener(t *testing.T) {
	for _, shards := range []int{1, 2} {
		l := listening(t, func(c *Config) { c.Shards = shards })
		_, err := Listen(context.Background(), Config{Addrs: []netip.AddrPort{l.Groups[0].Addr}, Shards: shards})
		var bind *transport.BindError
		if !errors.As(err, &bind) || !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "another gateway?") {
			t.Errorf("%d shards: a second listener on the same port: %v", shards, err)
		}
	}
}

// TestBothFamilies takes one port for both where the system has both.
func TestBothFamilies(t *testing.T) {
	l, err := Listen(context.Background(), Config{Shards: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if len(l.Groups)+len(l.Failed) != 2 {
		t.Fatalf("groups %v, failed %v", l.Groups, l.Failed)
	}
	for _, g := range l.Groups {
		if g.Addr.Port() != l.Groups[0].Addr.Port() || g.Addr.Port() == 0 {
			t.Errorf("bound to %v and %v", l.Groups[0].Addr, g.Addr)
		}
		host := netip.MustParseAddr("127.0.0.1")
		if g.Addr.Addr().Is6() {
			host = netip.IPv6Loopback()
		}
		conn, err := net.Dial("tcp", netip.AddrPortFrom(host, g.Addr.Port()).String())
		if err != nil {
			t.Fatal(err)
		}
		send(t, conn, packetOf(40, 1))
		if p := readOne(t, l.Shards[0]); p.Path.Peer.Addr() != host || p.Path.Local != host {
			t.Errorf("path %#v", p.Path)
		}
		_ = conn.Close()
	}
}

// TestListenSucceedsWithOneAddress binds what it can.
func TestListenSucceedsWithOneAddress(t *testing.T) {
	l := listening(t, func(c *Config) {
		c.Addrs = append([]netip.AddrPort{netip.MustParseAddrPort("192.0.2.77:0")}, loopback...)
	})
	if len(l.Groups) != 1 || len(l.Failed) != 1 || !errors.Is(l.Failed[0], syscall.EADDRNOTAVAIL) {
		t.Errorf("groups %v, failed %v", l.Groups, l.Failed)
	}
}

// TestInherited hands the descriptors of a Listener to another, as to another process:
// connections that come meanwhile wait, those that are there end where they are.
func TestInherited(t *testing.T) {
	first := listening(t, func(c *Config) { c.Shards = 2 })
	var handed []*net.TCPListener
	for _, one := range first.Groups[0].Listeners {
		file, err := one.File()
		if err != nil {
			t.Skipf("this system hands no listener over: %v", err)
		}
		again, err := net.FileListener(file)
		_ = file.Close()
		if err != nil {
			t.Fatal(err)
		}
		handed = append(handed, again.(*net.TCPListener))
	}
	old := dialTo(t, first)
	send(t, old, packetOf(40, 1))
	p := readOne(t, first.Shards[0])
	first.stopAccepting()
	between := dialTo(t, first)
	send(t, between, packetOf(41, 1))

	second, err := Listen(context.Background(), Config{Addrs: []netip.AddrPort{first.Groups[0].Addr}, Inherited: handed})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if len(second.Groups) != 1 || second.Groups[0].Addr != first.Groups[0].Addr || len(second.Groups[0].Listeners) != len(handed) {
		t.Errorf("groups %v", second.Groups)
	}
	if p := readOne(t, second.Shards[0]); len(p.Data) != 41 {
		t.Error("a connection that came in between is lost")
	}
	if _, err := first.Shards[0].WriteBatch([]transport.Packet{{Data: packetOf(42, 1), Path: p.Path}}); err != nil {
		t.Fatal(err)
	}
	first.Shards[0].End(p.Path)
	if got := frames(t, old); len(got) != 1 {
		t.Errorf("%d answers to a connection that was there", len(got))
	}
	eventually(t, "the last connection of the first has ended", func() bool { return first.Stats().Open == 0 })
}
