package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"time"

	"golang.org/x/net/quic"
)

// HTTP/3 (RFC 9114) with what a request and its answer need; field lines refer to QPACK's static
// table (RFC 9204, appendix A) only.
const (
	h3Data     = 0x00
	h3Headers  = 0x01
	h3Settings = 0x04
	h3Control  = 0x00 // type of stream
)

var (
	h3Get = []byte{0, 0, 0xc0 | 17, 0xc0 | 23, 0xc0 | 1, 0x50, 9, 'l', 'o', 'c', 'a', 'l', 'h', 'o', 's', 't'} // GET https://localhost/
	h3OK  = []byte{0, 0, 0xc0 | 25, 0xc0 | 53}                                                                 // 200, text/plain
)

// maxRequest bounds a request and a response, in bytes.
const maxRequest = 64 << 10

// frame appends a frame with less than 16 KiB of content.
func frame(b []byte, kind byte, content []byte) []byte {
	b = append(b, kind)
	b = binary.BigEndian.AppendUint16(b, 1<<14|uint16(len(content)))
	return append(b, content...)
}

// webServer is an HTTP/3 server that answers every request with the address of the client.
type webServer struct{ endpoint *quic.Endpoint }

func serveHTTP3(conn net.PacketConn) (*webServer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	e, err := quic.NewEndpoint(conn, &quic.Config{TLSConfig: &tls.Config{
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{"h3"},
		Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}},
	}})
	if err != nil {
		return nil, err
	}
	s := &webServer{e}
	go s.accept()
	return s, nil
}

// Close ends all connections.
func (s *webServer) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // without a wait for the peers
	if err := s.endpoint.Close(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func (s *webServer) accept() {
	for {
		c, err := s.endpoint.Accept(context.Background())
		if err != nil {
			return
		}
		go serveConn(c)
	}
}

func serveConn(c *quic.Conn) {
	ctx := context.Background()
	if openControl(ctx, c) != nil {
		return
	}
	for {
		s, err := c.AcceptStream(ctx)
		if err != nil {
			return
		}
		if s.IsReadOnly() {
			go func() { _, _ = io.Copy(io.Discard, s) }() // the client's settings
			continue
		}
		go func() {
			if _, err := io.Copy(io.Discard, io.LimitReader(s, maxRequest)); err == nil {
				answer := frame(frame(nil, h3Headers, h3OK), h3Data, fmt.Appendf(nil, "HTTP/3 to %s\n", c.RemoteAddr()))
				_, _ = s.Write(answer)
			}
			_ = s.Close()
		}()
	}
}

// openControl opens the control stream, which stays open.
func openControl(ctx context.Context, c *quic.Conn) error {
	s, err := c.NewSendOnlyStream(ctx)
	if err != nil {
		return err
	}
	if _, err := s.Write(frame([]byte{h3Control}, h3Settings, nil)); err != nil {
		return err
	}
	return s.Flush()
}

// getHTTP3 requests a page over a socket. It does not verify the certificate.
func getHTTP3(ctx context.Context, conn net.PacketConn, at string) (page string, err error) {
	e, err := quic.NewEndpoint(conn, nil)
	if err != nil {
		return "", err
	}
	defer (&webServer{e}).Close()
	c, err := e.Dial(ctx, "udp", at, &quic.Config{TLSConfig: &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h3"}, ServerName: "localhost", InsecureSkipVerify: true}})
	if err != nil {
		return "", err
	}
	if err := openControl(ctx, c); err != nil {
		return "", err
	}
	s, err := c.NewStream(ctx)
	if err != nil {
		return "", err
	}
	s.SetReadContext(ctx)
	if _, err := s.Write(frame(nil, h3Headers, h3Get)); err != nil {
		return "", err
	}
	s.CloseWrite()
	answer, err := io.ReadAll(io.LimitReader(s, maxRequest))
	if err != nil {
		return "", err
	}
	body, ok := bytes.CutPrefix(answer, frame(nil, h3Headers, h3OK))
	if !ok || len(body) < 3 {
		return "", fmt.Errorf("unexpected answer %q", answer)
	}
	return string(bytes.TrimSpace(body[3:])), nil
}
