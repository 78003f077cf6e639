package udp

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lewes/transport"
)

// filesOf duplicates the descriptors of conns, as passing them to another process
// does.
func filesOf(t *testing.T, conns []*Conn) (files []*os.File) {
	t.Helper()
	err := Descriptors(conns, func(fds []int) error {
		for _, fd := range fds {
			again, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				return err
			}
			files = append(files, os.NewFile(uintptr(again), "socket"))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestListenerIsInherited hands a steered group over while datagrams wait in it, and
// closes the first owner's descriptors: what waited is received, what comes later
// is steered as before.
func TestListenerIsInherited(t *testing.T) {
	inEachMode(t, func(t *testing.T, o Options) {
		steer := Steer{Secret: 0x1234567, Shards: 3}
		addrs := []netip.AddrPort{netip.AddrPortFrom(loopbacks[0], 0)}
		first, err := Listen(t.Context(), Config{Addrs: addrs, Steer: steer, Options: o})
		if err != nil {
			t.Fatal(err)
		}
		group := first.Groups[0]
		from := dialTo(t, group.Addr, Options{NoGSO: true})
		send := func() {
			var sent []transport.Packet
			for i := range uint32(300) {
				sent = append(sent, transport.Packet{Data: packetWith(i + 1)})
			}
			mustWrite(t, from, sent)
		}
		send()
		files := filesOf(t, group.Conns)
		_ = first.Close()
		next, err := Inherit(Config{Steer: steer, Options: o}, []InheritedGroup{{group.Addr, group.Steered, files}})
		if err != nil {
			t.Fatal(err)
		}
		defer next.Close()
		send()
		want := make([]int, steer.Shards)
		for i := range uint32(300) {
			want[steer.Shard(i+1)] += 2
		}
		for shard, c := range next.Groups[0].Conns {
			got := tryCollect(t, c, want[shard], 5*time.Second)
			if len(got) != want[shard] {
				t.Errorf("shard %d: %d datagrams, want %d", shard, len(got), want[shard])
			}
			for _, d := range got {
				if s := c.Stats(); steer.Shard(uint32(d.data[0])|uint32(d.data[1])<<8) != shard {
					t.Fatalf("shard %d got another's datagram (%+v)", shard, s)
				}
			}
		}
		if next.Groups[0].Addr != group.Addr || !next.Groups[0].Steered {
			t.Errorf("%+v, was %+v", next.Groups[0], group)
		}
	})
}

// TestConnIsInherited hands a connected socket over: it keeps its port, its peer and
// its cookie.
func TestConnIsInherited(t *testing.T) {
	inEachMode(t, func(t *testing.T, o Options) {
		peer, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		to := peer.LocalAddr().(*net.UDPAddr).AddrPort()
		first, err := Dial(to, o)
		if err != nil {
			t.Fatal(err)
		}
		port := first.LocalAddrPort()
		cookie, err := first.Cookie()
		if err != nil || cookie == 0 {
			t.Fatal(cookie, err)
		}
		files := filesOf(t, []*Conn{first})
		if _, err := peer.WriteToUDPAddrPort([]byte("waits"), port); err != nil {
			t.Fatal(err)
		}
		_ = first.Close()
		next, err := InheritConn(files[0], o)
		if err != nil {
			t.Fatal(err)
		}
		defer next.Close()
		if again, err := next.Cookie(); err != nil || again != cookie || next.LocalAddrPort() != port {
			t.Errorf("cookie %d, was %d; port %v, was %v; %v", again, cookie, next.LocalAddrPort(), port, err)
		}
		got := collect1(t, next)
		if string(got) != "waits" {
			t.Errorf("received %q", got)
		}
		mustWrite(t, next, []transport.Packet{{Data: []byte("back")}})
		buffer := make([]byte, 10)
		_ = peer.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, from, err := peer.ReadFromUDPAddrPort(buffer); err != nil || string(buffer[:n]) != "back" || from != port {
			t.Errorf("the peer got %q from %v: %v", buffer[:n], from, err)
		}
	})
}

func collect1(t *testing.T, c *Conn) []byte {
	t.Helper()
	all := tryCollect(t, c, 1, 5*time.Second)
	if len(all) != 1 {
		t.Fatalf("%d datagrams", len(all))
	}
	return all[0].data
}

// TestInheritRejectsWrongFiles: what is no socket, or another kind of one, is closed and
// refused.
func TestInheritRejectsWrongFiles(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := InheritConn(r, Options{}); err == nil {
		t.Error("a pipe was taken for a socket")
	}
	if _, err := r.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the file is still open: %v", err)
	}
	l, err := Listen(t.Context(), Config{Addrs: []netip.AddrPort{netip.AddrPortFrom(loopbacks[0], 0)}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conns := l.Groups[0].Conns
	if _, err := InheritConn(filesOf(t, conns)[0], Options{}); !errors.Is(err, errNotConnected) {
		t.Errorf("a listening socket for a flow's: %v", err)
	}
	other := netip.AddrPortFrom(loopbacks[0], 1)
	if _, err := Inherit(Config{}, []InheritedGroup{{Addr: other, Files: filesOf(t, conns)}}); err == nil {
		t.Error("a socket of another address was taken")
	}
	_ = l.Close()
	if err := Descriptors(conns, func(fds []int) error {
		if len(fds) != 0 {
			t.Errorf("%d descriptors of closed sockets", len(fds))
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}
