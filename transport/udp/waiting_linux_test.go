package udp

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lewes/state/path"
	"lewes/transport"
)

// openFiles returns how many descriptors this process has.
func openFiles(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(all)
}

// reading starts a read that waits, and returns what comes of it.
func reading(c *Conn) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := c.ReadBatch(make([]transport.Packet, 1))
		done <- err
	}()
	time.Sleep(5 * time.Millisecond) // it waits by now, or ends at once: either is right
	return done
}

func ended(t *testing.T, done <-chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("the read goes on")
		return nil
	}
}

func TestListeningSocketsBlockInKernel(t *testing.T) {
	for _, addr := range loopbacks {
		c := listenOn(t, addr, Options{})
		if _, ok := c.sock.(*waitingSocket); !ok {
			t.Fatalf("%v: waits as a %T", addr, c.sock)
		}
		from := dialTo(t, c.LocalAddrPort(), Options{})
		for range 3 {
			done := reading(c)
			mustWrite(t, from, packetsOf(path.Path{}, 100))
			if err := ended(t, done); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestDeadlineEndsKernelWait(t *testing.T) {
	c := listenOn(t, loopbacks[0], Options{})
	from := dialTo(t, c.LocalAddrPort(), Options{})
	deadline := func(at time.Time) {
		t.Helper()
		if err := c.SetReadDeadline(at); err != nil {
			t.Fatal(err)
		}
	}
	for _, in := range []time.Duration{10 * time.Millisecond, 0, -time.Hour} {
		deadline(time.Time{})
		done := reading(c)
		deadline(time.Now().Add(in))
		if err := ended(t, done); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a deadline in %v: %v", in, err)
		}
	}
	// Past it there is nothing to be had, also where something is there; without it there
	// is again.
	mustWrite(t, from, packetsOf(path.Path{}, 100))
	if err := ended(t, reading(c)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("past the deadline: %v", err)
	}
	deadline(time.Time{})
	if err := ended(t, reading(c)); err != nil {
		t.Error(err)
	}
	// One that is put off holds a wait up that had begun under the old one.
	deadline(time.Now().Add(50 * time.Millisecond))
	done := reading(c)
	deadline(time.Time{})
	time.Sleep(100 * time.Millisecond)
	mustWrite(t, from, packetsOf(path.Path{}, 100))
	if err := ended(t, done); err != nil {
		t.Errorf("a deadline that was taken away: %v", err)
	}
}

func TestCloseEndsKernelWait(t *testing.T) {
	before := openFiles(t)
	for range 50 {
		l, err := Listen(t.Context(), Config{Addrs: []netip.AddrPort{netip.AddrPortFrom(loopbacks[0], 0)}})
		if err != nil {
			t.Fatal(err)
		}
		c := l.Groups[0].Conns[0]
		done := reading(c)
		var writing sync.WaitGroup
		for range 2 {
			writing.Go(func() {
				for !errors.Is(c.SetReadDeadline(time.Time{}), net.ErrClosed) {
				}
			})
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if err := ended(t, done); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("read: %v", err)
		}
		writing.Wait()
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("closed twice: %v", err)
		}
		if _, err := c.WriteBatch(packetsOf(path.NewUDP(c.LocalAddrPort(), loopbacks[0], 0), 1)); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("write: %v", err)
		}
	}
	if n := openFiles(t); n > before+2 {
		t.Errorf("%d descriptors are open, %d before", n, before)
	}
}

// TestCloseDuringDeadlineWakeup closes a socket in the moment in which its
// reader wakes up for something else: what wakes it for the one must not be taken for
// the other.
func TestCloseDuringDeadlineWakeup(t *testing.T) {
	eventfd := func() int {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(16)) // so that the system stops them anywhere
	var rounds sync.WaitGroup
	for range 16 {
		rounds.Go(func() {
			for round := 0; round < 200 && !t.Failed(); round++ {
				s := &waitingSocket{descriptor: descriptor{fd: eventfd(), wake: eventfd()}}
				done := make(chan error, 1)
				go func() { done <- s.Read(func(uintptr) bool { return false }) }()
				time.Sleep(20 * time.Microsecond)
				_ = s.SetReadDeadline(time.Time{})
				for woken, wait := time.Now(), time.Duration(rand.IntN(60))*time.Microsecond; time.Since(woken) < wait; {
				}
				_ = s.Close()
				select {
				case <-done:
				case <-time.After(20 * time.Second):
					t.Error("the read goes on")
				}
			}
		})
	}
	rounds.Wait()
}

// Where the process has no descriptor left for it, package net waits as before.
func TestNetpollIsUsedWithoutDescriptors(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	u, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	full := limit
	full.Cur = 3 // less than what is open: no new one
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &full); err != nil {
		t.Skip(err)
	}
	c, err := newConn(u, path.Path{}.Peer, &Options{}, setup{})
	if e := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); e != nil {
		t.Fatal(e)
	}
	if err != nil {
		t.Fatal(err)
	}
	if c.udp == nil {
		t.Skip("this system has no limit of descriptors")
	}
	mustWrite(t, dialTo(t, c.LocalAddrPort(), Options{}), packetsOf(path.Path{}, 10))
	collect(t, c, 1)
}
