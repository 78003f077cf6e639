package e2e

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"lewes/bench/e2e/network"
	"lewes/crypto/identity"
	"lewes/router/access"
)

// peers and peers6 are the networks of the WireGuard peers of a test.
var (
	peers  = netip.MustParsePrefix("10.77.0.0/24")
	peers6 = netip.MustParsePrefix("fd77::/64")
)

// dvpn is a gateway with a WireGuard device and a peer of others, a target behind it, and a client.
type dvpn struct {
	*topology
	device, tunnel *tunnel // of wireguard-go at the gateway and at the client
	private        wgtypes.Key
	foreign        wgtypes.PeerConfig
	dir            string
}

// newDVPN makes the machines. The client has limits.
func newDVPN(t *testing.T, limits string) *dvpn {
	t.Helper()
	s := &dvpn{topology: emptyTopology(t, "client", "gateway", "target"), dir: t.TempDir()}
	s.wire("gateway", "target", network.ExitToTarget)
	s.sysctl("gateway", "ipv4/ip_forward", "1")
	s.must(s.machine["target"].IP(t.Context(), "route", "add", peers.String(), "via", network.ExitToTarget[0].Addr().String()))
	s.serveDNS("target", target.Addr(), netip.MustParseAddr("198.51.100.77"))
	s.serveTCP("target", netip.AddrPortFrom(target.Addr(), 80))

	key, err := identity.Load(s.key)
	s.must(err)
	defer key.Wipe()
	s.must(os.WriteFile(s.clients, []byte(key.Public().String()+"  laptop  "+limits+"\n"), 0o600))

	s.device, s.tunnel = s.newTunnel("gateway"), s.newTunnel("client")
	s.private, err = wgtypes.GeneratePrivateKey()
	s.must(err)
	psk := wgtypes.Key{0xee}
	s.foreign = wgtypes.PeerConfig{PublicKey: wgtypes.Key{0xff}, PresharedKey: &psk, AllowedIPs: []net.IPNet{{IP: net.IPv4(10, 77, 0, 2), Mask: net.CIDRMask(32, 32)}}}
	s.setDevice()
	s.gateway = newServer(t, s.machine["gateway"], `[registration]
access = "listed"
[wireguard]
device = "`+s.device.name+`"
ipv4 = "`+peers.String()+`"
ipv6 = "`+peers6.String()+`"
endpoint = "`+network.GatewayAddrs[0].Addr().String()+`"
`, s.clients)
	s.gateway.start()
	s.gateway.URI.Host = network.GatewayAddrs[0].Addr().String()
	return s
}

// setDevice gives the gateway's device its key, an address, and the peer of others.
func (s *dvpn) setDevice() {
	s.t.Helper()
	port := 51820
	s.device.configure(wgtypes.Config{PrivateKey: &s.private, ListenPort: &port, Peers: []wgtypes.PeerConfig{s.foreign}})
	s.device.up([]netip.Prefix{netip.PrefixFrom(peers.Addr().Next(), peers.Bits()), netip.PrefixFrom(peers6.Addr().Next(), peers6.Bits())})
}

// lewes runs the program on the client's machine.
func (s *dvpn) lewes(args ...string) (string, error) {
	cmd := exec.CommandContext(s.t.Context(), program, args...)
	cmd.Env = []string{"HOME=" + s.dir, "PATH=" + os.Getenv("PATH")}
	var out []byte
	err := s.machine["client"].Do(func() (err error) {
		out, err = cmd.CombinedOutput()
		return err
	})
	return string(out), err
}

// register registers with the key in a file, or a new one.
func (s *dvpn) register(conf string) (string, error) { return s.registerAs(s.key, conf) }

func (s *dvpn) registerAs(key, conf string, flags ...string) (string, error) {
	return s.lewes(append([]string{"register", "--gateway", s.gateway.URI.String(), "--mode", "dvpn", "--wg-conf", filepath.Join(s.dir, conf), "--identity", key}, flags...)...)
}

// configuration is the content of a file for wg-quick.
type configuration struct {
	private, gateway, psk wgtypes.Key
	address, address6     netip.Addr
	endpoint              string
}

// registered registers, and reads the file.
func (s *dvpn) registered(conf string) (c configuration) {
	s.t.Helper()
	if out, err := s.register(conf); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	return s.read(conf)
}

func (s *dvpn) read(conf string) (c configuration) {
	s.t.Helper()
	file := filepath.Join(s.dir, conf)
	info, err := os.Stat(file)
	s.must(err)
	if info.Mode() != 0o600 {
		s.t.Errorf("%s has mode %v", conf, info.Mode())
	}
	text, err := os.ReadFile(file)
	s.must(err)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " = ")
		switch name {
		case "PrivateKey":
			c.private, err = wgtypes.ParseKey(value)
		case "PublicKey":
			c.gateway, err = wgtypes.ParseKey(value)
		case "PresharedKey":
			c.psk, err = wgtypes.ParseKey(value)
		case "Address":
			v4, v6, _ := strings.Cut(value, ", ")
			c.address, c.address6 = netip.MustParsePrefix(v4).Addr(), netip.MustParsePrefix(v6).Addr()
		case "Endpoint":
			c.endpoint = value
		}
		s.must(err)
	}
	return c
}

// connectPeer does what wg-quick does: the client's device begins anew with a configuration.
func (s *dvpn) connectPeer(c *configuration) {
	s.t.Helper()
	at := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(c.endpoint))
	s.tunnel.configure(wgtypes.Config{PrivateKey: &c.private, ReplacePeers: true, Peers: []wgtypes.PeerConfig{{
		PublicKey: c.gateway, PresharedKey: &c.psk, Endpoint: at, AllowedIPs: []net.IPNet{{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, {IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}},
	}}})
	s.tunnel.up([]netip.Prefix{netip.PrefixFrom(c.address, 32), netip.PrefixFrom(c.address6, 128)}, peers.String(), peers6.String(), target.Addr().String()+"/32")
}

// works begins the tunnel anew until a ping passes: WireGuard ignores a handshake right after another one for 5 s.
func (s *dvpn) works(c *configuration) {
	s.t.Helper()
	insist(s.t, "ping through the tunnel", func() error {
		s.connectPeer(c)
		return s.tryPing("client", c.address, target.Addr())
	})
}

// TestWireGuardPeer takes a client through the life of its peer, with the real program and wireguard-go.
//
// Shows R9.32, R9.33, R9.35, R9.36.
func TestWireGuardPeer(t *testing.T) {
	t.Parallel()
	s := newDVPN(t, "bytes=32MiB/30d")
	first := s.registered("first.conf")
	if first.gateway != s.private.PublicKey() || first.endpoint != network.GatewayAddrs[0].Addr().String()+":51820" || first.address != netip.MustParseAddr("10.77.0.3") || first.address6 != netip.MustParseAddr("fd77::3") {
		t.Errorf("%s %s with addresses %v %v", first.gateway, first.endpoint, first.address, first.address6)
	}
	s.works(&first)
	s.ping("client", first.address, peers.Addr().Next())
	s.ping("client", first.address6, peers6.Addr().Next())
	if got := s.resolve("client", target.Addr(), "a.example."); got != netip.MustParseAddr("198.51.100.77") {
		t.Errorf("a.example is %v", got)
	}
	s.download("client", netip.AddrPortFrom(target.Addr(), 80), 4<<20)

	// The preshared key is needed.
	wrong := first
	wrong.psk[0]++
	from := s.tunnel.Logged()
	s.connectPeer(&wrong)
	s.datagram("client", target)
	s.tunnel.await(from, "Received invalid response message")
	s.works(&first)

	// Registering again keeps the peer, its key and its address, and renews the preshared key.
	again := s.registered("first.conf")
	if again.private != first.private || again.address != first.address || again.psk == first.psk {
		t.Error("registering again gave another key or address, or the old preshared key")
	}
	s.device.awaitPeers(s.foreign.PublicKey, first.private.PublicKey())
	s.works(&again)

	// The gateway is killed and its device made anew: the peer comes back from the ledger.
	s.gateway.kill()
	s.device.stop()
	s.device.start()
	s.setDevice()
	s.gateway.start()
	s.device.awaitPeers(s.foreign.PublicKey, first.private.PublicKey())
	s.works(&again)

	// A successor takes the peer over, and the client registers with it.
	s.gateway.upgrade()
	s.works(&again)
	again = s.registered("first.conf")
	s.works(&again)

	// A new key cuts the old one.
	second := s.registered("second.conf")
	s.device.awaitPeers(s.foreign.PublicKey, second.private.PublicKey())
	if second.address != first.address {
		t.Errorf("a new key has the address %v instead of %v", second.address, first.address)
	}
	from = s.device.Logged()
	s.connectPeer(&again)
	s.datagram("client", target)
	s.device.await(from, "Received invalid initiation message")
	s.works(&second)

	// The bandwidth ends the peer, and the file stays as it is.
	conn := s.connect("client", netip.AddrPortFrom(target.Addr(), 80), 1<<30)
	go func() { // until the connection is closed
		for b := make([]byte, 64<<10); ; {
			if _, err := conn.Read(b); err != nil {
				return
			}
		}
	}()
	s.device.awaitPeers(s.foreign.PublicKey)
	out, err := s.register("second.conf")
	if err == nil || !strings.Contains(out, "bandwidth used up") {
		t.Errorf("registered without bandwidth: %v: %s", err, out)
	}
	if now := s.read("second.conf"); now != second {
		t.Error("a refused registration changed the configuration")
	}
	if out, err := s.register("third.conf"); err == nil {
		t.Errorf("registered without bandwidth: %s", out)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "third.conf")); err == nil {
		t.Error("a refused registration left a configuration")
	}

	// Nothing of others was touched.
	p := s.device.peers()[s.foreign.PublicKey]
	if p.PresharedKey != *s.foreign.PresharedKey || len(p.AllowedIPs) != 1 || p.AllowedIPs[0].String() != "10.77.0.2/32" {
		t.Errorf("the peer of others is %+v", p)
	}
	for _, secret := range []wgtypes.Key{first.psk, second.psk, second.private} {
		if strings.Contains(s.gateway.Log(), base64.StdEncoding.EncodeToString(secret[:])) {
			t.Error("a secret is in the log")
		}
	}
}

// TestWireGuardPeersOutliveKills kills the gateway while clients register, each with a new key every time. In the end
// device, ledger and the clients' files agree.
func TestWireGuardPeersOutliveKills(t *testing.T) {
	t.Parallel()
	clients, kills := 3, 2
	if *long {
		clients, kills = 20, 50
	}
	s := newDVPN(t, "")
	keys := make([]string, clients)
	for i := range keys {
		key, err := identity.Generate(rand.Reader)
		s.must(err)
		keys[i] = filepath.Join(s.dir, fmt.Sprint("identity", i))
		s.must(key.Save(keys[i]))
		s.must(access.Add(s.clients, access.Entry{Identity: key.Public()}))
	}
	var (
		running sync.WaitGroup
		done    = make(chan struct{})
		some    = make(chan struct{}) // a client registered
		confs   = make([]string, clients)
	)
	for i, key := range keys {
		running.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				confs[i] = fmt.Sprintf("%d.%d.conf", i, n)
				if _, err := s.registerAs(key, confs[i], "--timeout", "2s"); err == nil {
					select {
					case some <- struct{}{}:
					case <-done:
					}
				}
			}
		})
	}
	for range kills {
		<-some
		s.gateway.kill()
		s.gateway.start()
	}
	close(done)
	running.Wait()
	want := []wgtypes.Key{s.foreign.PublicKey}
	addresses := make(map[netip.Addr]int)
	last := make([]configuration, clients)
	for i, key := range keys {
		if out, err := s.registerAs(key, confs[i]); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		last[i] = s.read(confs[i])
		want = append(want, last[i].private.PublicKey())
		addresses[last[i].address]++
		addresses[last[i].address6]++
	}
	s.device.awaitPeers(want...)
	if len(addresses) != 2*clients {
		t.Errorf("%d clients have the addresses %v", clients, addresses)
	}
	check := func() {
		t.Helper()
		for i, p := range s.device.peers() {
			at := slices.IndexFunc(last, func(c configuration) bool { return c.private.PublicKey() == i })
			if at >= 0 && (p.PresharedKey != last[at].psk || len(p.AllowedIPs) != 2 || p.AllowedIPs[0].IP.String() != last[at].address.String()) {
				t.Errorf("client %d has %v, and the device %v, or another preshared key", at, last[at].address, p.AllowedIPs)
			}
		}
	}
	check()
	// The ledger has the same.
	s.gateway.kill()
	s.device.stop()
	s.device.start()
	s.setDevice()
	s.gateway.start()
	s.device.awaitPeers(want...)
	check()
}
