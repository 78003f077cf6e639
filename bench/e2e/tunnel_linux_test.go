package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"lewes/bench/e2e/netns"
	"lewes/bench/e2e/network"
)

// wireGuard is the path of wireguard-go, which is built once.
var wireGuard = sync.OnceValues(func() (string, error) {
	file := filepath.Join(filepath.Dir(program), "wireguard-go")
	out, err := exec.Command("go", "build", "-o", file, "golang.zx2c4.com/wireguard").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build wireguard-go: %w: %s", err, out)
	}
	return file, nil
})

// tunnels numbers the devices: wireguard-go has a socket for each name, whatever the namespace.
var tunnels atomic.Int32

// tunnel is a WireGuard device of a wireguard-go in a machine.
type tunnel struct {
	*network.Process
	t       *testing.T
	machine *netns.Machine
	control *wgctrl.Client
	name    string
}

// newTunnel makes a device. It has no peers, and goes without a trace at the end of the test.
func (s *topology) newTunnel(machine string) *tunnel {
	s.t.Helper()
	control, err := wgctrl.New()
	s.must(err)
	w := &tunnel{t: s.t, machine: s.machine[machine], control: control, name: fmt.Sprintf("lw%d.%d", os.Getpid(), tunnels.Add(1))}
	s.t.Cleanup(func() { _ = control.Close() })
	w.start()
	return w
}

func (w *tunnel) start() {
	w.t.Helper()
	file, err := wireGuard()
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command(file, "--foreground", w.name)
	cmd.Env = []string{"LOG_LEVEL=verbose"}
	w.Process, err = network.Start(w.machine, cmd)
	if err != nil {
		w.t.Fatal(err)
	}
	p := w.Process
	w.t.Cleanup(func() { w.end(p) })
	w.await(0, "UAPI listener started")
}

// stop ends the device.
func (w *tunnel) stop() {
	w.t.Helper()
	w.end(w.Process)
	w.Process = nil
}

func (w *tunnel) end(p *network.Process) {
	if p == nil || p.Main.Signal(syscall.SIGTERM) != nil {
		return // it has ended
	}
	_, err := p.Await(0, network.Containing("Shutting down"))
	if err = errors.Join(err, p.Kill()); err != nil {
		w.t.Error(err)
	}
	if left, _ := filepath.Glob("/var/run/wireguard/" + w.name + ".*"); len(left) > 0 {
		w.t.Errorf("left behind: %q", left)
	}
	if w.t.Failed() {
		w.t.Logf("output of wireguard-go %s:\n%s", w.name, p.Log())
	}
}

// await waits for a line of wireguard-go.
func (w *tunnel) await(from int, text string) {
	w.t.Helper()
	if _, err := w.Await(from, network.Containing(text)); err != nil {
		w.t.Fatal(text+":", err)
	}
}

func (w *tunnel) configure(c wgtypes.Config) {
	w.t.Helper()
	if err := w.control.ConfigureDevice(w.name, c); err != nil {
		w.t.Fatal(err)
	}
}

// peers returns the peers of the device.
func (w *tunnel) peers() map[wgtypes.Key]wgtypes.Peer {
	w.t.Helper()
	d, err := w.control.Device(w.name)
	if err != nil {
		w.t.Fatal(err)
	}
	all := make(map[wgtypes.Key]wgtypes.Peer)
	for _, p := range d.Peers {
		all[p.PublicKey] = p
	}
	return all
}

// awaitPeers waits until the device has exactly these peers.
func (w *tunnel) awaitPeers(keys ...wgtypes.Key) {
	w.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		peers := w.peers()
		missing := len(peers) != len(keys)
		for _, k := range keys {
			_, found := peers[k]
			missing = missing || !found
		}
		if !missing {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("the device has %d peers, want %v", len(peers), keys)
		}
	}
}

// up gives the device addresses and routes.
func (w *tunnel) up(addrs []netip.Prefix, routes ...string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	run := func(args ...string) {
		w.t.Helper()
		if err := w.machine.IP(ctx, args...); err != nil {
			w.t.Fatal(err)
		}
	}
	run("addr", "flush", "dev", w.name)
	for _, a := range addrs {
		args := []string{"addr", "add", a.String(), "dev", w.name}
		if a.Addr().Is6() {
			args = append(args, "nodad")
		}
		run(args...)
	}
	run("link", "set", w.name, "up")
	for _, r := range routes {
		run("route", "replace", r, "dev", w.name)
	}
}

// insist repeats f until it succeeds: the first packets of a tunnel wait for its handshake.
func insist(t *testing.T, what string, f func() error) {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// try bounds one attempt of insist.
const try = 500 * time.Millisecond

// ping awaits the answer to an ICMP echo.
func (s *topology) ping(machine string, from, to netip.Addr) {
	s.t.Helper()
	insist(s.t, fmt.Sprintf("ping %v from %v", to, from), func() error { return s.tryPing(machine, from, to) })
}

// tryPing awaits the answer to an ICMP echo for a moment.
func (s *topology) tryPing(machine string, from, to netip.Addr) error {
	var c *icmp.PacketConn
	network, protocol, echo, reply := "ip4:icmp", 1, icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply)
	if from.Is6() {
		network, protocol, echo, reply = "ip6:ipv6-icmp", 58, ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply
	}
	err := s.machine[machine].Do(func() (err error) {
		c, err = icmp.ListenPacket(network, from.String())
		return err
	})
	if err != nil {
		return err
	}
	defer c.Close()
	m := icmp.Message{Type: echo, Body: &icmp.Echo{ID: 7, Seq: 1, Data: []byte("lewes")}}
	b, err := m.Marshal(nil)
	if err != nil {
		return err
	}
	if _, err := c.WriteTo(b, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(try))
	for b := make([]byte, 1500); ; {
		n, _, err := c.ReadFrom(b)
		if err != nil {
			return err
		}
		if m, err := icmp.ParseMessage(protocol, b[:n]); err == nil && m.Type == reply {
			return nil
		}
	}
}

// datagram sends a datagram, which makes a tunnel begin a handshake.
func (s *topology) datagram(machine string, to netip.AddrPort) {
	s.t.Helper()
	s.must(s.machine[machine].Do(func() error {
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("lewes"))
		return err
	}))
}

// serveDNS answers every question at port 53 of an address by one address.
func (s *topology) serveDNS(machine string, at, answer netip.Addr) {
	s.t.Helper()
	var c *net.UDPConn
	s.must(s.machine[machine].Do(func() (err error) {
		c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 53)))
		return err
	}))
	done := make(chan struct{})
	s.t.Cleanup(func() { _ = c.Close(); <-done })
	go func() {
		defer close(done)
		for b := make([]byte, 1500); ; {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(b[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response = true
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET},
				Body:   &dnsmessage.AResource{A: answer.As4()},
			}}
			if out, err := m.Pack(); err == nil {
				_, _ = c.WriteToUDPAddrPort(out, from) // the client asks again
			}
		}
	}()
}

// resolve asks a DNS server for a name.
func (s *topology) resolve(machine string, server netip.Addr, name string) (found netip.Addr) {
	s.t.Helper()
	insist(s.t, "resolve "+name, func() error {
		var c *net.UDPConn
		err := s.machine[machine].Do(func() (err error) {
			c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(server, 53)))
			return err
		})
		if err != nil {
			return err
		}
		defer c.Close()
		q := dnsmessage.Message{
			Header:    dnsmessage.Header{ID: 1, RecursionDesired: true},
			Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
		}
		b, err := q.Pack()
		if err != nil {
			return err
		}
		if _, err := c.Write(b); err != nil {
			return err
		}
		_ = c.SetReadDeadline(time.Now().Add(try))
		answer := make([]byte, 1500)
		n, err := c.Read(answer)
		if err != nil {
			return err
		}
		var m dnsmessage.Message
		if err := m.Unpack(answer[:n]); err != nil || len(m.Answers) != 1 {
			return fmt.Errorf("answer %v: %v", m, err)
		}
		found = netip.AddrFrom4(m.Answers[0].Body.(*dnsmessage.AResource).A)
		return nil
	})
	return found
}

// serveTCP sends to every client that connects: as many bytes as the client's first line asks for.
func (s *topology) serveTCP(machine string, at netip.AddrPort) {
	s.t.Helper()
	var l *net.TCPListener
	s.must(s.machine[machine].Do(func() (err error) {
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		return err
	}))
	var running sync.WaitGroup
	s.t.Cleanup(func() { _ = l.Close(); running.Wait() })
	ctx := s.t.Context()
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				stop := context.AfterFunc(ctx, func() { _ = c.Close() })
				defer stop()
				defer c.Close()
				var size int64
				if _, err := fmt.Fscanln(c, &size); err != nil {
					return
				}
				_, _ = io.CopyN(c, zeros{}, size) // the client sees an error
			})
		}
	})
}

// zeros is an endless source.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// connect asks a server of serveTCP for bytes.
func (s *topology) connect(machine string, to netip.AddrPort, size int64) (c net.Conn) {
	s.t.Helper()
	insist(s.t, "connect to "+to.String(), func() error {
		return s.machine[machine].Do(func() (err error) {
			if c, err = net.DialTimeout("tcp", to.String(), try); err == nil {
				_, err = io.WriteString(c, strconv.FormatInt(size, 10)+"\n")
			}
			return err
		})
	})
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// download fails the test unless all bytes arrive.
func (s *topology) download(machine string, from netip.AddrPort, size int64) {
	s.t.Helper()
	c := s.connect(machine, from, size)
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if n, err := io.Copy(io.Discard, c); n != size || err != nil {
		s.t.Fatalf("downloaded %d of %d bytes: %v", n, size, err)
	}
}

// sysctl sets a value of the machine's network.
func (s *topology) sysctl(machine, name, value string) {
	s.t.Helper()
	s.must(s.machine[machine].Do(func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) }))
}
