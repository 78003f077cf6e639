package client_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/netip"
	"time"

	"lewes/crypto/identity"
	"lewes/transport"
	"lewes/transport/client"
	"lewes/transport/udp"
	"lewes/transport/uri"
)

// echoGateway starts a gateway on this machine that answers, in the place of all
// targets, with what it is sent. It knows the gateways in directory.
func echoGateway(key byte, directory ...*gateway) *gateway {
	l, err := udp.Listen(context.Background(), udp.Config{Addrs: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")}})
	if err != nil {
		log.Fatal(err)
	}
	g := newGateway(logReporter{}, key, l.Groups[0].Conns[0], func(to netip.AddrPort) transport.Conn {
		c, err := udp.Dial(to, udp.Options{})
		if err != nil {
			log.Fatal(err)
		}
		return c
	})
	for _, next := range directory {
		g.forwardsTo(next)
	}
	return g
}

type logReporter struct{}

func (logReporter) Helper()                           {}
func (logReporter) Errorf(format string, args ...any) { log.Printf(format, args...) }
func (logReporter) Fatal(args ...any)                 { log.Fatal(args...) }
func (logReporter) Fatalf(format string, args ...any) { log.Fatalf(format, args...) }

func ExampleSession_DialContext() {
	gateway := echoGateway(1)
	defer gateway.stop()
	line := gateway.uri().String() // lewes://IDENTITY@host:port, from the gateway's owner

	g, err := uri.Parse(line)
	if err != nil {
		log.Fatal(err)
	}
	key := identity.FromSeed(&[32]byte{42}) // or identity.Load
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	session, err := client.Dial(ctx, client.Config{Gateway: g, Identity: key})
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
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		log.Fatal(err)
	}
	n, err := conn.Read(answer)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s says %q\n", conn.RemoteAddr(), answer[:n])
	// Output: echo.example.com:7 says "hello"
}

func ExampleSession_ListenPacket() {
	gateway := echoGateway(1)
	defer gateway.stop()
	session, err := client.Dial(context.Background(), client.Config{
		Gateway:  gateway.uri(),
		Identity: identity.FromSeed(&[32]byte{42}),
	})
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
		fmt.Printf("%s says %q\n", from, answer[:n])
	}
	// Output:
	// 203.0.113.7:7 says "hello"
	// [2001:db8::7]:7 says "hello"
	// echo.example.com:7 says "hello"
}

// Through two other gateways: the first sees who the client is, the last where
// its datagrams go.
func ExampleConfig_via() {
	exit := echoGateway(1)
	defer exit.stop()
	middle := echoGateway(2, exit)
	defer middle.stop()
	entry := echoGateway(3, middle)
	defer entry.stop()

	session, err := client.Dial(context.Background(), client.Config{
		Gateway:     exit.uri(),
		Via:         []uri.Gateway{entry.uri(), middle.uri()},
		Identity:    identity.FromSeed(&[32]byte{42}),
		ViaIdentity: identity.FromSeed(&[32]byte{43}),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()

	conn, err := session.DialContext(context.Background(), "udp", "203.0.113.7:7")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := conn.Write([]byte("hello")); err != nil {
		log.Fatal(err)
	}
	answer := make([]byte, 1500)
	n, err := conn.Read(answer)
	if err != nil {
		log.Fatal(err)
	}
	info := session.Info()
	fmt.Printf("%q, through %d gateways, at most %d bytes a packet\n", answer[:n], len(info.Via)+1, info.MaxPacket)
	// Output: "hello", through 3 gateways, at most 1314 bytes a packet
}
