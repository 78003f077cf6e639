package peers

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"

	"lewes/router/gatewaytest"
	"lewes/transport/client"
)

// dialLibrary makes a session with a gateway on loopback; target replaces all targets, or
// is nil for real sockets.
func dialLibrary(target func(netip.AddrPort, []byte) []byte) (*client.Session, func(), error) {
	gateway, err := gatewaytest.New(gatewaytest.Options{Target: target})
	if err != nil {
		return nil, nil, err
	}
	key, err := client.GenerateKey()
	if err != nil {
		gateway.Close()
		return nil, nil, err
	}
	session, err := client.Dial(context.Background(), client.Config{Gateway: gateway.URI, Identity: key})
	if err != nil {
		gateway.Close()
		return nil, nil, err
	}
	return session, func() {
		_ = session.Close()
		gateway.Close()
		key.Wipe()
	}, nil
}

// answerDNS is a DNS server: every name has the address 192.0.2.80.
func answerDNS(_ netip.AddrPort, query []byte) []byte {
	var q dns.Msg
	if q.Unpack(query) != nil || len(q.Question) != 1 {
		return nil
	}
	answer := new(dns.Msg).SetReply(&q)
	answer.Answer = []dns.RR{&dns.A{
		Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
		A:   net.IPv4(192, 0, 2, 80),
	}}
	packed, err := answer.Pack()
	if err != nil {
		return nil
	}
	return packed
}

// Query a DNS server by github.com/miekg/dns.
func Example_miekgDNS() {
	session, stop, err := dialLibrary(answerDNS)
	if err != nil {
		log.Fatal(err)
	}
	defer stop()

	conn, err := session.DialContext(context.Background(), "udp", "203.0.113.53:53")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	query := new(dns.Msg).SetQuestion("www.example.com.", dns.TypeA)
	answer, _, err := new(dns.Client).ExchangeWithConn(query, &dns.Conn{Conn: conn})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(answer.Answer[0].(*dns.A).A)
	// Output: 192.0.2.80
}

// Open a QUIC connection by github.com/quic-go/quic-go.
func Example_quicGo() {
	server, roots, err := serveQUIC()
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	session, stop, err := dialLibrary(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer stop()

	socket, err := session.ListenPacket()
	if err != nil {
		log.Fatal(err)
	}
	defer socket.Close()
	transport := quic.Transport{Conn: socket}
	defer transport.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := transport.Dial(ctx, server.Addr(), roots, nil)
	if err != nil {
		log.Fatal(err)
	}
	stream, err := conn.AcceptUniStream(ctx)
	if err != nil {
		log.Fatal(err)
	}
	text, err := io.ReadAll(stream)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", text)
	// Output: hello over QUIC
}

// serveQUIC starts a server that sends a greeting to each connection.
func serveQUIC() (*quic.Listener, *tls.Config, error) {
	certificate, roots, err := selfSigned()
	if err != nil {
		return nil, nil, err
	}
	protocols := []string{"greeting"}
	l, err := quic.ListenAddr("127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: protocols}, nil)
	if err != nil {
		return nil, nil, err
	}
	go func() {
		for {
			conn, err := l.Accept(context.Background())
			if err != nil {
				return
			}
			if stream, err := conn.OpenUniStream(); err == nil {
				_, _ = io.WriteString(stream, "hello over QUIC")
				_ = stream.Close()
			}
		}
	}()
	return l, &tls.Config{RootCAs: roots, ServerName: serverName, NextProtos: protocols}, nil
}

// quic-go logs a warning for a socket whose buffer it cannot set.
func TestQUICPrintsNoBufferWarning(t *testing.T) {
	var printed strings.Builder
	defer log.SetOutput(log.Writer())
	log.SetOutput(&printed)
	session, stop, err := dialLibrary(gatewaytest.Echo)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	socket, err := session.ListenPacket()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	transport := quic.Transport{Conn: socket}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, _ = transport.Dial(ctx, &net.UDPAddr{IP: net.IPv4(203, 0, 113, 7), Port: 443}, &tls.Config{ServerName: serverName}, nil) // only echoes answer
	if err := transport.Close(); err != nil {
		t.Error(err)
	}
	if printed.Len() > 0 {
		t.Errorf("quic-go printed: %s", printed.String())
	}
}
