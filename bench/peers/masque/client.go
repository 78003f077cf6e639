package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/quic-go/masque-go"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/yosida95/uritemplate/v3"

	"lewes/bench/load"
	"lewes/bench/worker"
	"lewes/transport"
)

// startClient starts a load through a proxy. It has the calls of every load.
func startClient(ctx context.Context, p worker.MASQUEClient) (*worker.Service, error) {
	certificate, err := x509.ParseCertificate(p.Proxy.Certificate)
	if err != nil {
		return nil, err
	}
	trusted := x509.NewCertPool()
	trusted.AddCert(certificate)
	request, err := masque.NewRequest(context.WithoutCancel(ctx), uritemplate.MustNew(template(p.Proxy.Addr.String())), p.Target.String())
	if err != nil {
		return nil, err
	}
	dialer := masque.Transport{
		TLSClientConfig: &tls.Config{RootCAs: trusted, NextProtos: []string{http3.NextProtoH3}},
		// The load is idle during the turns of others, for longer than a connection may be.
		QUICConfig: &quic.Config{EnableDatagrams: true, InitialPacketSize: packetSize, KeepAlivePeriod: 10 * time.Second},
	}
	c, _, err := dialer.Dial(request)
	if err != nil {
		return nil, err
	}
	l := load.New(&proxied{Conn: c}, nil, load.Plain{})
	return &worker.Service{Result: worker.None{}, Calls: load.Calls(l), Close: l.Close}, nil
}

// proxied is a transport.Conn through the proxy. Like masque-go it handles one datagram at a time.
type proxied struct {
	*masque.Conn
	closed atomic.Bool
	buffer [2048]byte
}

// ReadBatch implements transport.Conn.
func (c *proxied) ReadBatch(p []transport.Packet) (int, error) {
	n, _, err := c.ReadFrom(c.buffer[:])
	switch {
	case c.closed.Load():
		return 0, net.ErrClosed
	case errors.Is(err, os.ErrDeadlineExceeded):
		return 0, os.ErrDeadlineExceeded
	case err != nil:
		time.Sleep(10 * time.Millisecond) // the stream is broken; the datagrams count as lost
		return 0, err
	}
	p[0] = transport.Packet{Data: c.buffer[:n]}
	return 1, nil
}

// WriteBatch implements transport.Conn. It blocks while the connection's queue is full.
func (c *proxied) WriteBatch(p []transport.Packet) (int, error) {
	for i := range p {
		if _, err := c.WriteTo(p[i].Data, nil); err != nil {
			return i, &transport.SendError{Index: i, Failed: len(p) - i, Err: err}
		}
	}
	return len(p), nil
}

// Close implements transport.Conn.
func (c *proxied) Close() error {
	c.closed.Store(true)
	return c.Conn.Close()
}
