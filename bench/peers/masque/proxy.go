package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/quic-go/masque-go"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/yosida95/uritemplate/v3"

	"lewes/bench/worker"
)

// packetSize lets a payload of 1200 bytes into one QUIC datagram.
const packetSize = 1400

// startProxy starts a proxy at an address. The result is a worker.MASQUEProxy.
func startProxy(_ context.Context, at netip.AddrPort) (*worker.Service, error) {
	certificate, err := newCertificate(at.Addr())
	if err != nil {
		return nil, err
	}
	socket, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, err
	}
	addr := socket.LocalAddr().(*net.UDPAddr).AddrPort()
	uri := uritemplate.MustNew(template(addr.String()))
	proxy := new(masque.Proxy)
	routes := http.NewServeMux()
	routes.HandleFunc("/masque", func(w http.ResponseWriter, r *http.Request) {
		request, err := masque.ParseProxyRequest(r, uri)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		_ = proxy.Proxy(w, request) // the client sees it
	})
	server := &http3.Server{
		TLSConfig:       http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{*certificate}}),
		QUICConfig:      &quic.Config{EnableDatagrams: true, InitialPacketSize: packetSize},
		EnableDatagrams: true,
		Handler:         routes,
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(socket) // until it is closed
	}()
	return &worker.Service{
		Result: worker.MASQUEProxy{Addr: addr, Certificate: certificate.Certificate[0]},
		Close: func() {
			_, _, _ = server.Close(), proxy.Close(), socket.Close()
			<-ended
		},
	}, nil
}

// newCertificate creates a self-signed certificate for an address.
func newCertificate(addr netip.Addr) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	form := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(24 * time.Hour),
		IPAddresses:           []net.IP{addr.AsSlice()},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, form, form, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
