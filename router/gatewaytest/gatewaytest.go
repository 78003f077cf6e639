package gatewaytest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"

	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/router"
	"lewes/router/account"
	"lewes/router/policy"
	"lewes/transport"
	"lewes/transport/tcp"
	"lewes/transport/udp"
	"lewes/transport/uri"
)

// Options configure a Gateway. The zero Options make one that serves every client over
// UDP and sends to the public network and to loopback.
type Options struct {
	Addr    string               // IP address to listen on; "" means 127.0.0.1
	TCP     bool                 // serve TCP too
	Clients []identity.PublicKey // admitted identities, see Admit; nil admits every client
	Next    []*Gateway           // gateways that this one forwards to
	// Hosts are the names that resolve at the gateway; all others don't exist.
	Hosts map[string][]netip.Addr
	// Target replaces all targets, without sockets: it gets each datagram and returns
	// the answer, or nil for none. It may be called from several goroutines.
	Target func(to netip.AddrPort, datagram []byte) []byte
	// Config changes any other setting.
	Config func(*router.Config)
}

// Gateway is a running gateway.
type Gateway struct {
	*router.Gateway
	URI uri.Gateway

	key      *identity.PrivateKey
	config   router.Config
	mu       sync.Mutex
	all      bool
	admitted map[identity.PublicKey]bool
}

// Echo is a Target that returns each datagram.
func Echo(_ netip.AddrPort, datagram []byte) []byte { return datagram }

// Start runs a gateway until the end of the test.
func Start(t testing.TB, o Options) *Gateway {
	t.Helper()
	g, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

// New runs a gateway until Close.
func New(o Options) (*Gateway, error) {
	addr := netip.MustParseAddr("127.0.0.1")
	if o.Addr != "" {
		var err error
		if addr, err = netip.ParseAddr(o.Addr); err != nil {
			return nil, err
		}
	}
	listen := []netip.AddrPort{netip.AddrPortFrom(addr, 0)}
	key, err := identity.Generate(rand.Reader)
	if err != nil {
		return nil, err
	}
	g := &Gateway{key: key, all: o.Clients == nil, admitted: make(map[identity.PublicKey]bool)}
	for _, id := range o.Clients {
		g.admitted[id] = true
	}
	config := router.Config{
		Identity: key,
		Listen:   udp.Config{Addrs: listen},
		TCP:      router.TCP{On: o.TCP, Listen: tcp.Config{Addrs: listen}},
		Shards:   1,
		KEMs:     []kem.ID{kem.MLKEM768, kem.XWing},
		Access:   g.standing,
		Policy: policy.New(policy.Config{Allow: []policy.Rule{
			{Prefix: netip.MustParsePrefix("127.0.0.0/8")},
			{Prefix: netip.MustParsePrefix("::1/128")},
		}}),
		Resolver: hosts(o.Hosts),
	}
	if o.Target != nil {
		config.Egress = egress(o.Target)
	}
	if len(o.Next) > 0 {
		var next []uri.Gateway
		for _, n := range o.Next {
			next = append(next, n.URI)
		}
		config.Directory = router.NewDirectory(next, hosts(nil))
		if err := config.Directory.Refresh(context.Background()); err != nil {
			return nil, err
		}
	}
	if o.Config != nil {
		o.Config(&config)
	}
	if g.Gateway, err = router.Start(config); err != nil {
		key.Wipe()
		return nil, fmt.Errorf("gatewaytest: start: %w", err)
	}
	g.config = config
	at := g.Addrs()[0]
	g.URI = uri.Gateway{Identity: key.Public(), Host: at.Addr().String(), Port: at.Port()}
	if o.TCP {
		if len(g.TCPAddrs()) == 0 {
			g.Close()
			return nil, errors.New("gatewaytest: no TCP port on loopback")
		}
		g.URI.TCPPort = g.TCPAddrs()[0].Port()
	}
	return g, nil
}

// Kill stops the gateway without closing its sessions, as a crash would. Close must still be
// called.
func (g *Gateway) Kill() { g.Gateway.Close() }

// Restart kills the gateway and starts it again on the same ports, without its sessions.
func (g *Gateway) Restart(t testing.TB) {
	t.Helper()
	g.config.Listen.Addrs = g.Addrs()
	g.config.TCP.Listen.Addrs = g.TCPAddrs()
	g.Kill()
	var err error
	if g.Gateway, err = router.Start(g.config); err != nil {
		t.Fatal(err)
	}
}

// Close closes all sessions and stops the gateway.
func (g *Gateway) Close() {
	g.Shutdown(context.Background())
	g.key.Wipe()
}

// Admit adds a client to those that the gateway serves.
func (g *Gateway) Admit(id identity.PublicKey) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.admitted[id] = true
}

// Expel removes a client and ends its sessions.
func (g *Gateway) Expel(id identity.PublicKey) {
	g.mu.Lock()
	delete(g.admitted, id)
	g.mu.Unlock()
	g.ReapplyAccess()
}

func (g *Gateway) standing(id identity.PublicKey) account.Standing {
	g.mu.Lock()
	defer g.mu.Unlock()
	return account.Standing{Admitted: g.all || g.admitted[id], Listed: g.admitted[id]}
}

// EchoServer returns the address of a UDP socket on loopback that returns each datagram
// to its sender until the end of the test.
func EchoServer(t testing.TB) netip.AddrPort {
	t.Helper()
	return Serve(t, func(datagram []byte) []byte { return datagram })
}

// Serve returns the address of a UDP socket on loopback that answers each datagram until
// the end of the test.
func Serve(t testing.TB, answer func(datagram []byte) []byte) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		buffer := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buffer)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if a := answer(buffer[:n]); err == nil && a != nil {
				_, _ = conn.WriteToUDPAddrPort(a, from)
			}
		}
	})
	t.Cleanup(func() {
		_ = conn.Close()
		done.Wait()
	})
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// hosts resolves names from a table.
type hosts map[string][]netip.Addr

func (h hosts) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	if addrs, ok := h[host]; ok {
		return addrs, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// egress opens flows to Options.Target.
type egress func(netip.AddrPort, []byte) []byte

func (e egress) Dial(to netip.AddrPort, _ account.Key) (transport.Conn, error) {
	return &targetConn{to: to, answer: e, answers: make(chan []byte, queued), closed: make(chan struct{})}, nil
}
