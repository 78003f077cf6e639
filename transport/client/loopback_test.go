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

	"lewes/router/gatewaytest"
	"lewes/transport"
	"lewes/transport/client"
	"lewes/transport/udp"
)

// These tests run against a real gateway, with real sockets and clocks.

func loopbackConfig(g *gatewaytest.Gateway) client.Config {
	return client.Config{Gateway: g.URI, Identity: clientKey, Keys: new(client.KeyCache)}
}

// udpSession makes a session until the end of the test.
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
	for name, at := range map[string]string{"IPv4": "127.0.0.1", "IPv6": "::1"} {
		for portable, options := range map[string]udp.Options{"": {Pooled: true}, ", portable": {Pooled: true, Portable: true}} {
			t.Run(name+portable, func(t *testing.T) {
				if c, err := net.ListenPacket("udp", net.JoinHostPort(at, "0")); err != nil {
					t.Skipf("no %s loopback: %v", name, err)
				} else {
					_ = c.Close()
				}
				config := loopbackConfig(gatewaytest.Start(t, gatewaytest.Options{Addr: at, Target: gatewaytest.Echo}))
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
				if rtt, err := s.Ping(t.Context()); err != nil || rtt <= 0 {
					t.Errorf("ping: %s, %v", rtt, err)
				}
				for size, ok := range map[int]bool{63: false, 64: true, 1452: true, 1453: false} {
					if rtt, err := s.PingOnce(t.Context(), size); (err == nil) != ok || ok && rtt <= 0 {
						t.Errorf("one ping of %d bytes: %s, %v", size, rtt, err)
					}
				}
				if a, ok := s.Info().Local.(*net.UDPAddr); !ok || !a.IP.IsLoopback() {
					t.Errorf("local address %v", s.Info().Local)
				}
			})
		}
	}
}

// Goroutines write and read while the keys change; every datagram that returns is intact.
// A busy machine may drop some, so each flow sends until enough have returned.
func TestTrafficDuringRekeys(t *testing.T) {
	s := udpSession(t, loopbackConfig(gatewaytest.Start(t, gatewaytest.Options{Target: gatewaytest.Echo})))
	const flows, datagrams = 4, 500
	var traffic sync.WaitGroup
	for i := range flows {
		c := flowTo(t, s, target(i).String())
		done := make(chan struct{})
		traffic.Go(func() {
			b := make([]byte, 200+i)
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				binary.LittleEndian.PutUint32(b, uint32(n*flows+i))
				b[len(b)-1] = byte(n)
				if _, err := c.Write(b); err != nil {
					t.Error(err)
					return
				}
				time.Sleep(200 * time.Microsecond)
			}
		})
		traffic.Go(func() {
			defer close(done)
			b := make([]byte, 1500)
			for range datagrams {
				n, err := c.Read(b)
				if err != nil {
					t.Error(err)
					return
				}
				number := binary.LittleEndian.Uint32(b)
				if n != 200+i || number%flows != uint32(i) || b[n-1] != byte(number/flows) {
					t.Errorf("flow %d got %d bytes, number %d", i, n, number)
				}
			}
		})
	}
	for range 3 {
		if err := s.Rekey(t.Context()); err != nil {
			t.Error(err)
		}
	}
	traffic.Wait()
	if s.Info().Generation < 3 {
		t.Errorf("generation %d", s.Info().Generation)
	}
}

func TestReconnectAfterRestart(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Options{Target: gatewaytest.Echo})
	s := udpSession(t, loopbackConfig(g))
	c := flowTo(t, s, "203.0.113.7:53")
	exchange(t, c, "before")
	g.Restart(t)
	for s.Stats().Reconnects == 0 && t.Context().Err() == nil {
		write(t, c, "hello")
		time.Sleep(20 * time.Millisecond)
	}
	if _, err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 2000)
	for answer := ""; answer != "after"; { // earlier ones may return too
		write(t, c, "after")
		n, err := c.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		if answer = string(b[:n]); answer != "after" && answer != "hello" {
			t.Fatalf("read %q", answer)
		}
	}
}

// A port where nothing listens is the likely cause.
func TestRefusedPort(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Options{})
	g.Kill()
	config := loopbackConfig(g)
	config.Timeout = 700 * time.Millisecond
	_, err := client.Dial(t.Context(), config)
	if err == nil || !errors.Is(err, transport.ErrRefused) || !strings.Contains(err.Error(), "nothing listens on port") {
		t.Errorf("%v", err)
	}
}

func TestKilledGatewayIsUnresponsive(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Options{Target: gatewaytest.Echo})
	config := loopbackConfig(g)
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
	g.Kill()
	for waiting := true; waiting; {
		write(t, c, "hello?")
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
		t.Error("the ICMP error was not counted")
	}
}

// Shows R8.26.
func TestChainOverUDP(t *testing.T) {
	exit := gatewaytest.Start(t, gatewaytest.Options{Target: gatewaytest.Echo, Hosts: map[string][]netip.Addr{"dns.example.com": {netip.MustParseAddr("203.0.113.53")}}})
	middle := gatewaytest.Start(t, gatewaytest.Options{Next: []*gatewaytest.Gateway{exit}})
	entry := gatewaytest.Start(t, gatewaytest.Options{Next: []*gatewaytest.Gateway{middle}})
	config := loopbackConfig(exit)
	config.Via = []client.Gateway{entry.URI, middle.URI}
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
	to := client.NameAddr{Host: "dns.example.com", Port: 53} // only the exit resolves it
	writeTo(t, p, to, "hello")
	expectFrom(t, p, to, "hello")
}

func TestCloseEndsReadsAndWrites(t *testing.T) {
	s := udpSession(t, loopbackConfig(gatewaytest.Start(t, gatewaytest.Options{})))
	c := flowTo(t, s, "127.0.0.1:9")
	p, err := s.ListenPacket()
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, use := range []func([]byte) error{
		func(b []byte) error { _, err := c.Read(b); return err },
		func(b []byte) error { _, _, err := p.ReadFrom(b); return err },
		func(b []byte) error { time.Sleep(time.Millisecond); _, err := c.Write(b[:9]); return err },
	} {
		wg.Go(func() {
			for {
				err := use(make([]byte, 100))
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err != nil && !errors.Is(err, net.ErrClosed) {
					var flow *client.FlowError
					if !errors.As(err, &flow) || flow.Reason != client.ReasonUnreachable {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	time.Sleep(20 * time.Millisecond)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
}
