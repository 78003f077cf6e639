package client_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"lewes/router/gatewaytest"
	"lewes/transport/client"
)

// startGateway starts a gateway on loopback, in place of one on the Internet. All targets
// are a function.
func startGateway(target func(to netip.AddrPort, datagram []byte) []byte, next ...*gatewaytest.Gateway) *gatewaytest.Gateway {
	g, err := gatewaytest.New(gatewaytest.Options{
		Target: target,
		Next:   next,
		Hosts:  map[string][]netip.Addr{"echo.example.com": {netip.MustParseAddr("203.0.113.7")}},
	})
	if err != nil {
		log.Fatal(err)
	}
	return g
}

// newKey returns a new client identity.
func newKey() *client.PrivateKey {
	key, err := client.GenerateKey()
	if err != nil {
		log.Fatal(err)
	}
	return key
}

func ExampleDial() {
	server := startGateway(gatewaytest.Echo)
	defer server.Close()
	line := server.URI.String() // lewes://IDENTITY@host:port, from the gateway's operator

	gateway, err := client.ParseGateway(line)
	if err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	session, err := client.Dial(ctx, client.Config{Gateway: gateway, Identity: newKey()})
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	conn, err := session.DialContext(ctx, "udp", "echo.example.com:7")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		log.Fatal(err)
	}
	answer := make([]byte, 1500)
	n, err := conn.Read(answer)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s: %s\n", conn.RemoteAddr(), answer[:n])
	// Output: echo.example.com:7: hello
}

func ExampleSession_ListenPacket() {
	server := startGateway(gatewaytest.Echo)
	defer server.Close()
	session, err := client.Dial(context.Background(), client.Config{Gateway: server.URI, Identity: newKey()})
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	socket, err := session.ListenPacket()
	if err != nil {
		log.Fatal(err)
	}
	defer socket.Close()
	answer := make([]byte, 1500)
	for _, to := range []net.Addr{
		net.UDPAddrFromAddrPort(netip.MustParseAddrPort("203.0.113.7:7")),
		net.UDPAddrFromAddrPort(netip.MustParseAddrPort("[2001:db8::7]:7")),
		client.NameAddr{Host: "echo.example.com", Port: 7},
	} {
		if _, err := socket.WriteTo([]byte("hello"), to); err != nil {
			log.Fatal(err)
		}
		n, from, err := socket.ReadFrom(answer)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s: %s\n", from, answer[:n])
	}
	// Output:
	// 203.0.113.7:7: hello
	// [2001:db8::7]:7: hello
	// echo.example.com:7: hello
}

// Resolve names by a DNS server that only the gateway reaches.
func ExampleSession_DialContext_resolver() {
	server := startGateway(answerDNS)
	defer server.Close()
	session, err := client.Dial(context.Background(), client.Config{Gateway: server.URI, Identity: newKey()})
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	resolver := net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return session.DialContext(ctx, network, "203.0.113.53:53")
		},
	}
	addrs, err := resolver.LookupNetIP(context.Background(), "ip4", "www.example.com.")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(addrs)
	// Output: [192.0.2.80]
}

// A chain of two gateways: the entry sees the client, the exit sees its targets.
func ExampleConfig_via() {
	exit := startGateway(gatewaytest.Echo)
	defer exit.Close()
	entry := startGateway(nil, exit)
	defer entry.Close()

	session, err := client.Dial(context.Background(), client.Config{
		Gateway:  exit.URI,
		Via:      []client.Gateway{entry.URI},
		Identity: newKey(), // the exit sees it, the entry one derived from it
	})
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	conn, err := session.DialContext(context.Background(), "udp", "203.0.113.7:7")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		log.Fatal(err)
	}
	answer := make([]byte, 1500)
	n, err := conn.Read(answer)
	if err != nil {
		log.Fatal(err)
	}
	info := session.Info()
	fmt.Printf("%s, through %d gateways, at most %d bytes a packet\n", answer[:n], len(info.Via)+1, info.MaxPacket)
	// Output: hello, through 2 gateways, at most 1383 bytes a packet
}

// answerDNS is a DNS server: every name has the address 192.0.2.80.
func answerDNS(_ netip.AddrPort, query []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	m.Response, m.Additionals = true, nil
	if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60},
			Body:   &dnsmessage.AResource{A: [4]byte{192, 0, 2, 80}},
		}}
	}
	answer, err := m.Pack()
	if err != nil {
		return nil
	}
	return answer
}
