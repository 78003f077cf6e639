package udp

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"lewes/state/path"
	"lewes/transport"
)

// namespace is a network namespace that one thread lives in: sockets that are made
// there belong to it for good.
type namespace struct {
	tid  int
	work chan func()
}

// newNamespace makes an empty network, or skips the test where that is not allowed.
func newNamespace(t *testing.T) *namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a network namespace needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skipf("no iproute2 here: %v", err)
	}
	ns := &namespace{work: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and the namespace with it
		err := unix.Unshare(unix.CLONE_NEWNET)
		ns.tid = unix.Gettid()
		ready <- err
		for f := range ns.work {
			f()
		}
	}()
	t.Cleanup(func() { close(ns.work) })
	if err := <-ready; err != nil {
		t.Skipf("no network namespace here: %v", err)
	}
	ns.ip(t, "link set lo up")
	return ns
}

// do calls f on the namespace's thread.
func (ns *namespace) do(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	ns.work <- func() { done <- f() }
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// ip runs one command of iproute2 in the namespace.
func (ns *namespace) ip(t *testing.T, args string) {
	t.Helper()
	ns.do(t, func() error {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", args, err, out)
		}
		return nil
	})
}

func (ns *namespace) listen(t *testing.T, cfg Config) (l *Listener) {
	t.Helper()
	ns.do(t, func() (err error) {
		l, err = Listen(t.Context(), cfg)
		return err
	})
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func (ns *namespace) dial(t *testing.T, target netip.AddrPort, o Options) (c *Conn) {
	t.Helper()
	ns.do(t, func() (err error) {
		c, err = Dial(target, o)
		return err
	})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// hostPort returns host with l's port. Listeners take a free port each: a closed socket keeps
// its port while a process that another test forked has not reached exec.
func hostPort(host string, l *Listener) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(host), l.Groups[0].Addr.Port())
}

// near and far are two hosts, with one link between them.
func twoHosts(t *testing.T) (near, far *namespace) {
	t.Helper()
	near, far = newNamespace(t), newNamespace(t)
	near.ip(t, "link add veth0 type veth peer name veth1 netns "+strconv.Itoa(far.tid))
	// nodad: an address is of use at once.
	near.ip(t, "addr add 10.77.0.1/24 dev veth0")
	near.ip(t, "addr add 10.77.0.2/24 dev veth0")
	near.ip(t, "addr add fd77::1/64 dev veth0 nodad")
	near.ip(t, "addr add fd77::2/64 dev veth0 nodad")
	near.ip(t, "addr add fe80::77:1/64 dev veth0 nodad")
	near.ip(t, "link set veth0 up")
	far.ip(t, "addr add 10.77.0.9/24 dev veth1")
	far.ip(t, "addr add fd77::9/64 dev veth1 nodad")
	far.ip(t, "addr add fe80::77:9/64 dev veth1 nodad")
	far.ip(t, "link set veth1 up")
	return near, far
}

// Several addresses on one interface: the answer leaves from the one that was
// asked, trains included.
func TestAnswersOnAnInterfaceWithSeveralAddresses(t *testing.T) {
	near, far := twoHosts(t)
	inEachMode(t, func(t *testing.T, o Options) {
		l := near.listen(t, Config{Options: o})
		if len(l.Failed) > 0 {
			t.Fatal(l.Failed[0])
		}
		for _, host := range []string{"10.77.0.1", "10.77.0.2", "fd77::1", "fd77::2", "fe80::77:1%veth1"} {
			addr := netip.MustParseAddr(host)
			server := l.Groups[0].Conns[0]
			if addr.Is6() {
				server = l.Groups[1].Conns[0]
			}
			client := far.dial(t, hostPort(host, l), o)
			sent := packetsOf(path.Path{}, 1200, 1200, 1200, 500)
			mustWrite(t, client, sent)
			got := collect(t, server, len(sent))
			sameDatagrams(t, got, sent)
			if l := got[0].path.Local; l != addr.WithZone("") {
				t.Errorf("%s: question is said to have come to %s", host, l)
			}
			answer := packetsOf(got[0].path, 1100, 1100, 1100, 1100, 0, 7)
			mustWrite(t, server, answer)
			sameDatagrams(t, collect(t, client, len(answer)), answer)
			if n := server.Stats().SourceDropped; n != 0 {
				t.Errorf("%s: %d answers went without their address", host, n)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// Shows R6.14.
func TestInterfaceMTUIsTheLimit(t *testing.T) {
	near, far := twoHosts(t)
	inEachMode(t, func(t *testing.T, o Options) {
		l := near.listen(t, Config{Options: o})
		for i, c := range []struct {
			host string
			most int
		}{{"10.77.0.1", 1500 - 28}, {"fd77::1", 1500 - 48}} {
			client := far.dial(t, hostPort(c.host, l), o)
			server := l.Groups[i].Conns[0]
			mustWrite(t, client, packetsOf(path.Path{}, 1))
			back := collect(t, server, 1)[0].path

			for name, dir := range map[string]struct {
				from, to *Conn
				way      path.Path
			}{"connected": {client, server, path.Path{}}, "from the port": {server, client, back}} {
				// Trains of what fits and of what does not, and a short one behind
				// a train that does not fit.
				sizes := []int{c.most, c.most, c.most + 1, c.most + 1, c.most + 1, 9, c.most, 1400}
				sent := packetsOf(dir.way, sizes...)
				n, err := dir.from.WriteBatch(sent)
				var failed *transport.SendError
				if n != 5 || !errors.Is(err, transport.ErrTooLarge) || !errors.As(err, &failed) || failed.Index != 2 || failed.Failed != 3 {
					t.Fatalf("%s %s: %d, %v, want 5 taken, 3 too large", c.host, name, n, err)
				}
				sameDatagrams(t, collect(t, dir.to, 5), slices.Concat(sent[:2], sent[5:]))
				if s := dir.from.Stats(); s.SendErrors[TooLarge] != 3 || s.GSOFallbacks != 0 {
					t.Errorf("%s %s: errors %v, %d fallbacks", c.host, name, s.SendErrors, s.GSOFallbacks)
				}
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestFragmentLetsLargeDatagramsThrough(t *testing.T) {
	t.Parallel()
	near, far := twoHosts(t)
	inEachMode(t, func(t *testing.T, o Options) {
		o.Fragment = true
		l := near.listen(t, Config{Options: o})
		client := far.dial(t, hostPort("10.77.0.1", l), o)
		sent := packetsOf(path.Path{}, 3000, 3000, 100)
		mustWrite(t, client, sent)
		sameDatagrams(t, collect(t, l.Groups[0].Conns[0], 3), sent)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// A device that computes no checksums: kernels before 6.11 refuse trains there with
// EIO, later ones segment themselves. Either way everything arrives.
func TestGSOOnDeviceWithoutChecksums(t *testing.T) {
	near, far := twoHosts(t)
	near.do(t, func() error { return checksumOffload("veth0", false) })
	l := near.listen(t, Config{})
	server := l.Groups[0].Conns[0]
	client := far.dial(t, hostPort("10.77.0.2", l), Options{})
	mustWrite(t, client, packetsOf(path.Path{}, 1))
	back := collect(t, server, 1)[0].path
	for range 2 {
		sent := packetsOf(back, 1200, 1200, 1200, 1200, 30, 1000, 1000)
		mustWrite(t, server, sent)
		sameDatagrams(t, collect(t, client, len(sent)), sent)
	}
	s := server.Stats()
	t.Logf("GSO %+v, %d trains sent again one by one", s.GSO, s.GSOResent)
	if s.GSO.On == (s.GSOFallbacks > 0) || s.GSOResent > 2 {
		t.Errorf("GSO %+v, %d fallbacks, %d resent", s.GSO, s.GSOFallbacks, s.GSOResent)
	}
}

// checksumOffload is ethtool -K DEVICE tx on|off.
func checksumOffload(device string, on bool) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	value := struct{ cmd, data uint32 }{cmd: unix.ETHTOOL_STXCSUM}
	if on {
		value.data = 1
	}
	var request struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [24]byte
	}
	copy(request.name[:], device)
	request.data = unsafe.Pointer(&value)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); e != 0 {
		return os.NewSyscallError("ioctl ETHTOOL_STXCSUM", e)
	}
	return nil
}

// wireguard-go#61 on a real interface: the address is taken away while a peer talks
// to it.
func TestLocalAddressRemovedDuringSession(t *testing.T) {
	near, far := twoHosts(t)
	for i, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			l := near.listen(t, Config{Options: m.Options})
			addr := fmt.Sprintf("10.77.0.%d", 100+i)
			near.ip(t, "addr add "+addr+"/24 dev veth0")
			peer := far.listen(t, Config{Addrs: []netip.AddrPort{netip.MustParseAddrPort("10.77.0.9:0")}}).Groups[0].Conns[0]
			mustWrite(t, peer, packetsOf(path.NewUDP(hostPort(addr, l), netip.Addr{}, 0), 5))
			server := l.Groups[0].Conns[0]
			back := collect(t, server, 1)[0].path
			near.ip(t, "addr del "+addr+"/24 dev veth0")

			sent := packetsOf(back, 1000, 1000, 1000, 1)
			mustWrite(t, server, sent)
			got := collect(t, peer, len(sent))
			sameDatagrams(t, got, sent)
			if from := got[0].path.Peer.Addr(); from.String() != "10.77.0.1" {
				t.Errorf("came from %s, want another address of the host", from)
			}
			if s := server.Stats(); s.SourceDropped != 4 || s.GSOFallbacks != 0 {
				t.Errorf("source dropped %d, %d fallbacks", s.SourceDropped, s.GSOFallbacks)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A path MTU that the kernel believes to have learned, here set on the route, is no
// reason to refuse a datagram: anyone can forge the message that it comes from.
func TestLearnedPathMTUIsIgnored(t *testing.T) {
	t.Parallel()
	near, far := twoHosts(t)
	far.ip(t, "route change 10.77.0.0/24 dev veth1 mtu 1300")
	inEachMode(t, func(t *testing.T, o Options) {
		l := near.listen(t, Config{Options: o})
		client := far.dial(t, hostPort("10.77.0.1", l), o)
		sent := packetsOf(path.Path{}, 1472, 1472, 1400)
		mustWrite(t, client, sent)
		sameDatagrams(t, collect(t, l.Groups[0].Conns[0], 3), sent)
		if s := client.Stats(); s.GSO.On != l.Groups[0].Conns[0].Stats().GSO.On {
			t.Errorf("GSO %+v", s.GSO)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestUnreachableNetworkIsReported(t *testing.T) {
	ns := newNamespace(t)
	inEachMode(t, func(t *testing.T, o Options) {
		l := ns.listen(t, Config{Options: o})
		c := l.Groups[0].Conns[0]
		nowhere := path.NewUDP(netip.MustParseAddrPort("192.0.2.1:9"), netip.Addr{}, 0)
		home := path.NewUDP(hostPort("127.0.0.1", l), netip.Addr{}, 0)
		sent := append(packetsOf(nowhere, 100, 100, 50), packetsOf(home, 10, 10)...)
		n, err := c.WriteBatch(sent)
		if n != 2 || !errors.Is(err, transport.ErrUnreachable) {
			t.Errorf("WriteBatch: %d, %v, want 2 taken and ErrUnreachable", n, err)
		}
		sameDatagrams(t, collect(t, c, 2), sent[3:])
		if got := c.Stats().SendErrors[Unreachable]; got != 3 {
			t.Errorf("SendErrors[Unreachable] %d, want 3", got)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		ns.do(t, func() error {
			if c, err := Dial(nowhere.Peer, o); !errors.Is(err, transport.ErrUnreachable) {
				return fmt.Errorf("Dial: %v, %w, want ErrUnreachable", c, err)
			} else if strings.Contains(err.Error(), "192.0.2.1") {
				return fmt.Errorf("%w names the whole address", err)
			}
			return nil
		})
	})
}

func TestListenWithOneFamily(t *testing.T) {
	ns := newNamespace(t)
	ns.do(t, func() error {
		// The thread's own namespace is what it sees there.
		return os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0)
	})
	l := ns.listen(t, Config{Addrs: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:51264"), netip.MustParseAddrPort("[::1]:51264")}})
	if len(l.Groups) != 1 || len(l.Failed) != 1 || l.Failed[0].Addr.String() != "[::1]:51264" {
		t.Fatalf("bound %+v, failed %v", l.Groups, l.Failed)
	}
	t.Log(l.Failed[0])
	sent := packetsOf(path.Path{}, 10)
	mustWrite(t, ns.dial(t, netip.MustParseAddrPort("127.0.0.1:51264"), Options{}), sent)
	sameDatagrams(t, collect(t, l.Groups[0].Conns[0], 1), sent)
}

// behindRouter makes a host whose every way leads over a router, which knows no way
// to 192.0.2.0/24 and 2001:db8:0:2::/64, and passes at most 1400 bytes on to
// 10.88.0.2 and fd88::2.
func behindRouter(t *testing.T) (host, server *namespace) {
	t.Helper()
	host, router := twoHosts(t)
	server = newNamespace(t)
	router.do(t, func() error {
		// Without the rate limits the router reports every error at once.
		for file, value := range map[string]string{
			"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1",
			"ipv4/icmp_ratelimit": "0", "ipv6/icmp/ratelimit": "0",
		} {
			if err := os.WriteFile("/proc/sys/net/"+file, []byte(value), 0); err != nil {
				return err
			}
		}
		return nil
	})
	router.ip(t, "link add veth2 mtu 1400 type veth peer name veth3 netns "+strconv.Itoa(server.tid))
	router.ip(t, "addr add 10.88.0.1/24 dev veth2")
	router.ip(t, "addr add fd88::1/64 dev veth2 nodad")
	router.ip(t, "link set veth2 up")
	server.ip(t, "addr add 10.88.0.2/24 dev veth3")
	server.ip(t, "addr add fd88::2/64 dev veth3 nodad")
	server.ip(t, "link set veth3 up")
	server.ip(t, "route add default via 10.88.0.1")
	server.ip(t, "route add default via fd88::1")
	router.ip(t, "route add unreachable 192.0.2.0/24")
	router.ip(t, "route add unreachable 2001:db8:0:2::/64")
	host.ip(t, "route add default via 10.77.0.9")
	host.ip(t, "route add default via fd77::9")
	return host, server
}

// nextError reads until an error comes, and returns it.
func nextError(t *testing.T, c *Conn) error {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := c.ReadBatch(make([]transport.Packet, 4))
	if err == nil {
		t.Fatalf("%d packets came where an error should", n)
	}
	return err
}

func TestUnreachableFromRouterIsReported(t *testing.T) {
	for name, o := range map[string]Options{"offload": {}, "no GSO": {NoGSO: true}, "pooled": {Pooled: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()               // a new link takes up to a second
			host, _ := behindRouter(t) // one each: a router limits the rate of its errors
			for _, target := range []string{"192.0.2.1:9", "[2001:db8:0:2::1]:9"} {
				c := host.dial(t, netip.MustParseAddrPort(target), o)
				mustWrite(t, c, packetsOf(path.Path{}, 100))
				if err := nextError(t, c); !errors.Is(err, transport.ErrUnreachable) {
					t.Errorf("%s: reader got %v, want ErrUnreachable", target, err)
				}
				if n := c.Stats().AsyncErrors[Unreachable]; n != 1 {
					t.Errorf("%s: AsyncErrors[Unreachable] %d, want 1", target, n)
				}
				// Later datagrams are sent.
				if n, err := c.WriteBatch(packetsOf(path.Path{}, 10, 20, 30)); n != 3 {
					t.Errorf("%s: WriteBatch took %d of 3: %v", target, n, err)
				}
				if n := c.Stats().SendErrors.Total(); n != 0 {
					t.Errorf("%s: %d datagrams counted as not sent", target, n)
				}
			}
		})
	}
}

// Shows R6.14.
func TestRouterDropsLargerDatagrams(t *testing.T) {
	t.Parallel()
	host, server := behindRouter(t)
	l := server.listen(t, Config{})
	for i, c := range []struct {
		target string
		most   int
	}{{"10.88.0.2", 1400 - 28}, {"fd88::2", 1400 - 48}} {
		for _, o := range []Options{{}, {NoGSO: true}} {
			client := host.dial(t, hostPort(c.target, l), o)
			sent := packetsOf(path.Path{}, 1, c.most, c.most+1, 900)
			for k := range sent { // one at a time, so that an error is of a known one
				if n, err := client.WriteBatch(sent[k : k+1]); n != 1 {
					t.Fatalf("%s: %v", c.target, err)
				}
				if k == 2 {
					if err := nextError(t, client); !errors.Is(err, transport.ErrTooLarge) {
						t.Errorf("%s: reader got %v, want ErrTooLarge from the router", c.target, err)
					}
				}
			}
			sameDatagrams(t, collect(t, l.Groups[i].Conns[0], 3), slices.Concat(sent[:2], sent[3:]))
			// The router's word, which anyone may forge, changes nothing.
			if n, err := client.WriteBatch(sent[2:3]); n != 1 || err != nil {
				t.Errorf("%s: WriteBatch: %d, %v, want it sent", c.target, n, err)
			}
		}
	}
}
