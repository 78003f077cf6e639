package gatewaytest_test

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"lewes/crypto/identity"
	"lewes/router/gatewaytest"
	"lewes/transport/client"
	"lewes/transport/uri"
)

func exchange(t *testing.T, s *client.Session, target string) {
	t.Helper()
	conn, err := s.DialContext(t.Context(), "udp", target)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 1500)
	n, err := conn.Read(answer)
	if err != nil || string(answer[:n]) != "hello" {
		t.Fatalf("%s answers %q, %v", target, answer[:n], err)
	}
}

func TestChainOverUDPAndTCP(t *testing.T) {
	target := gatewaytest.EchoServer(t)
	exit := gatewaytest.Start(t, gatewaytest.Options{Hosts: map[string][]netip.Addr{"echo.example": {target.Addr()}}})
	entry := gatewaytest.Start(t, gatewaytest.Options{Next: []*gatewaytest.Gateway{exit}, TCP: true})
	for _, transport := range []client.Transport{client.UDP, client.TCP} {
		s, err := client.Dial(t.Context(), client.Config{
			Gateway: exit.URI, Via: []uri.Gateway{entry.URI}, Identity: identity.FromSeed(&[32]byte{1}), Transport: transport,
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		exchange(t, s, target.String())
		_, port, _ := strings.Cut(target.String(), ":")
		exchange(t, s, net.JoinHostPort("echo.example", port))
	}
}

func TestExpelEndsSessions(t *testing.T) {
	key := identity.FromSeed(&[32]byte{1})
	g := gatewaytest.Start(t, gatewaytest.Options{Clients: []identity.PublicKey{}, Target: gatewaytest.Echo})
	g.Admit(key.Public())
	s, err := client.Dial(t.Context(), client.Config{Gateway: g.URI, Identity: key, NoReconnect: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	exchange(t, s, "203.0.113.7:7")
	g.Expel(key.Public())
	<-s.Done()
}
