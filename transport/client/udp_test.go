package client_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/client"
	"lewes/transport/udp"
	"lewes/transport/uri"
)

// udpGateway starts a gateway on a socket of its own.
func udpGateway(t testing.TB, key byte, at string) *gateway {
	t.Helper()
	l, err := udp.Listen(t.Context(), udp.Config{Addrs: []netip.AddrPort{netip.MustParseAddrPort(at)}})
	if err != nil {
		t.Fatal(err)
	}
	g := newGateway(t, key, l.Groups[0].Conns[0], func(to netip.AddrPort) transport.Conn {
		c, err := udp.Dial(to, udp.Options{Pooled: true})
		if err != nil {
			t.Error(err)
		}
		return c
	})
	t.Cleanup(g.stop)
	return g
}

func udpConfig(g *gateway) client.Config {
	return client.Config{Gateway: g.uri(), Identity: clientKey, Keys: new(client.KeyCache)}
}

func udpSession(t testing.TB, config client.Config) *client.Session {
	t.Helper()
	s, err := client.Dial(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func TestOverUDP(t *testing.T) {
	for name, at := range map[string]string{"IPv4": "127.0.0.1:0", "IPv6": "[::1]:0"} {
		for portable, options := range map[string]udp.Options{"": {Pooled: true}, ", portable": {Pooled: true, Portable: true}} {
			t.Run(name+portable, func(t *testing.T) {
				if c, err := net.ListenPacket("udp", at); err != nil {
					t.Skipf("this machine has no %s loopback: %v", name, err)
				} else {
					_ = c.Close()
				}
				config := udpConfig(udpGateway(t, 1, at))
				config.Underlay = func(_ context.Context, to netip.AddrPort) (transport.Conn, error) {
					return udp.Dial(to, options)
				}
				s := udpSession(t, config)
				c := flowTo(t, s, "203.0.113.7:53")
				exchange(t, c, "hello")
				exchange(t, c, strings.Repeat("x", c.(interface{ MaxPayload() int }).MaxPayload()))
				if err := s.Rekey(t.Context()); err != nil {
					t.Fatal(err)
				}
				exchange(t, c, "new keys")
				if rtt, err := s.Ping(t.Context()); err != nil || rtt <= 0 || rtt > time.Second {
					t.Errorf("ping: %s, %v", rtt, err)
				}
				if a, ok := s.Info().Local.(*net.UDPAddr); !ok || !a.IP.IsLoopback() {
					t.Errorf("local address %v", s.Info().Local)
				}
			})
		}
	}
}

// Many goroutines write and read while keys change; every datagram that comes back
// is whole.
func TestTrafficOverUDP(t *testing.T) {
	s := udpSession(t, udpConfig(udpGateway(t, 1, "127.0.0.1:0")))
	const flows, datagrams = 4, 500
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				if err := s.Rekey(t.Context()); err != nil {
					t.Error(err)
				}
			}
		}
	})
	var traffic sync.WaitGroup
	for i := range flows {
		c := flowTo(t, s, target(i).String())
		traffic.Go(func() {
			b := make([]byte, 200+i)
			for n := range datagrams {
				binary.LittleEndian.PutUint32(b, uint32(i*datagrams+n))
				b[len(b)-1] = byte(n)
				if _, err := c.Write(b); err != nil {
					t.Error(err)
				}
				time.Sleep(200 * time.Microsecond)
			}
		})
		traffic.Go(func() {
			b := make([]byte, 1500)
			came := 0
			for came < datagrams {
				_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
				n, err := c.Read(b)
				if err != nil {
					t.Errorf("flow %d: %d of %d came: %v", i, came, datagrams, err)
					return
				}
				number := binary.LittleEndian.Uint32(b)
				if n != 200+i || number/datagrams != uint32(i) || b[n-1] != byte(number%datagrams) {
					t.Errorf("flow %d got %d bytes, number %d", i, n, number)
				}
				came++
			}
		})
	}
	traffic.Wait()
	close(stop)
	wg.Wait()
	if s.Info().Generation < 3 {
		t.Errorf("generation %d after all that", s.Info().Generation)
	}
	if stats := s.Stats(); stats.Unsent != 0 || stats.Overflowed != 0 {
		t.Errorf("stats: %+v", stats)
	}
}

func TestReconnectOverUDP(t *testing.T) {
	g := udpGateway(t, 1, "127.0.0.1:0")
	s := udpSession(t, udpConfig(g))
	c := flowTo(t, s, "203.0.113.7:53")
	exchange(t, c, "before")
	g.restart()
	before := s.Stats().Reconnects
	for s.Stats().Reconnects == before {
		write(t, c, long)
		time.Sleep(50 * time.Millisecond)
	}
	if _, err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, c, "after")
	b := make([]byte, 2000)
	for came := ""; came != "after"; { // the last of the long ones may have come back too
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, err := c.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		if came = string(b[:n]); came != "after" && came != long {
			t.Fatalf("read %q", came)
		}
	}
}

// A port where nothing listens is heard of, and named as the likely cause.
func TestRefusedOverUDP(t *testing.T) {
	g := udpGateway(t, 1, "127.0.0.1:0")
	g.stop()
	config := udpConfig(g)
	config.Timeout = 700 * time.Millisecond
	began := time.Now()
	_, err := client.Dial(t.Context(), config)
	if err == nil || !errors.Is(err, transport.ErrRefused) || !strings.Contains(err.Error(), "nothing listens on port") || time.Since(began) < config.Timeout {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
}

// A gateway that dies takes its port with it: the client hears so and tries again.
func TestGatewayDiesOverUDP(t *testing.T) {
	g := udpGateway(t, 1, "127.0.0.1:0")
	config := udpConfig(g)
	config.Timeout = 500 * time.Millisecond
	down := make(chan error, 10)
	config.OnEvent = func(e client.Event) {
		if e.Kind == client.Reconnecting {
			down <- e.Err
		}
	}
	s := udpSession(t, config)
	c := flowTo(t, s, "203.0.113.7:53")
	exchange(t, c, "before")
	g.stop()
	for waiting := true; waiting; {
		write(t, c, "is anybody there?")
		select {
		case err := <-down:
			if !errors.Is(err, client.ErrSilent) {
				t.Error(err)
			}
			waiting = false
		case <-time.After(50 * time.Millisecond):
		}
	}
	if s.Stats().Faults == 0 {
		t.Error("no fault was counted")
	}
}

// Shows R8.26.
func TestViaOverUDP(t *testing.T) {
	exit, middle, entry := udpGateway(t, 1, "127.0.0.1:0"), udpGateway(t, 2, "127.0.0.1:0"), udpGateway(t, 3, "127.0.0.1:0")
	entry.forwardsTo(middle)
	middle.forwardsTo(exit)
	config := udpConfig(exit)
	config.Via = []uri.Gateway{entry.uri(), middle.uri()}
	s := udpSession(t, config)
	c := flowTo(t, s, "203.0.113.7:53")
	exchange(t, c, "hello")
	exchange(t, c, strings.Repeat("x", client.DefaultMaxPacket-2*69-34-3-7))
	if err := s.Rekey(t.Context()); err != nil {
		t.Fatal(err)
	}
	exchange(t, c, "new keys")
	p, err := s.ListenPacket()
	if err != nil {
		t.Fatal(err)
	}
	to := client.NameAddr{Host: "dns.example.com", Port: 53}
	writeTo(t, p, to, "hello")
	expectFrom(t, p, to, "hello")
	exit.with(func() {
		if exit.seen[len(exit.seen)-1].target.Kind() != wire.TargetName {
			t.Error("the name was not passed on")
		}
	})
}

// Closing from elsewhere ends a read and a write at once.
func TestCloseOverUDP(t *testing.T) {
	s := udpSession(t, udpConfig(udpGateway(t, 1, "127.0.0.1:0")))
	c := flowTo(t, s, "203.0.113.7:53")
	p, err := s.ListenPacket()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, read := range []func([]byte) error{
		func(b []byte) error { _, err := c.Read(b); return err },
		func(b []byte) error { _, _, err := p.ReadFrom(b); return err },
		func(b []byte) error { time.Sleep(time.Millisecond); _, err := c.Write(b[:9]); return err },
	} {
		wg.Go(func() {
			for {
				if err := read(make([]byte, 100)); err != nil {
					if !errors.Is(err, net.ErrClosed) {
						t.Error(err)
					}
					return
				}
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
}
