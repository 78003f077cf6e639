package issuer

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lewes/crypto/tickets"
)

// writeCertificate makes a certificate for 127.0.0.1 in dir, with a serial number by which it is known.
func writeCertificate(t *testing.T, dir string, serial int64, changed time.Time) (certFile, keyFile string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	err = errors.Join(
		os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: private}), 0o600),
		os.Chtimes(certFile, changed, changed))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AddCert(parsed)
	return certFile, keyFile, roots
}

// TestServe gets the directory over TLS, beside a client that speaks no TLS, of which the log must not
// contain the address.
func TestServe(t *testing.T) {
	b := newBench(t, month)
	certFile, keyFile, roots := writeCertificate(t, t.TempDir(), 1, time.Now())
	secure, err := TLS(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- b.issuer.Serve(ctx, tls.NewListener(l, secure)) }()

	plain, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(plain, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	_, _ = io.ReadAll(plain) // until the issuer has closed it
	_ = plain.Close()

	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	r, err := client.Get("https://" + l.Addr().String() + tickets.DirectoryPath)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r.Body)
	_ = r.Body.Close()
	if _, parseErr := tickets.ParseDirectory(text, b.issuer.Pin()); err != nil || parseErr != nil {
		t.Errorf("%v, %v", err, parseErr)
	}
	client.CloseIdleConnections()
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if strings.Contains(b.log.String(), "127.0.0.1") {
		t.Errorf("the log contains an address: %s", b.log)
	}
}

func TestPanicIsLogged(t *testing.T) {
	b := newBench(t, month)
	b.issuer.config.Now = func() time.Time { panic("no clock") }
	defer func() {
		if fault := recover(); fault != http.ErrAbortHandler {
			t.Errorf("the server gets the panic %v", fault)
		}
		if !strings.Contains(b.log.String(), `"request handler panicked","panic":"no clock"`) || strings.Contains(b.log.String(), "192.0.2.1") {
			t.Errorf("the log: %s", b.log)
		}
	}()
	b.do("GET", tickets.DirectoryPath, "", "", nil)
}

func TestCertificateIsRenewed(t *testing.T) {
	dir, start := t.TempDir(), time.Now()
	certFile, keyFile, _ := writeCertificate(t, dir, 1, start)
	c := &certificate{certFile: certFile, keyFile: keyFile}
	serial := func(after time.Duration) int64 { return c.get(start.Add(after)).Leaf.SerialNumber.Int64() }
	if n := serial(0); n != 1 {
		t.Errorf("serial %d", n)
	}
	writeCertificate(t, dir, 2, start.Add(time.Hour))
	if n := serial(time.Second); n != 1 {
		t.Errorf("serial %d within a minute", n)
	}
	if n := serial(time.Minute); n != 2 {
		t.Errorf("serial %d after a minute", n)
	}
	if err := errors.Join(os.WriteFile(certFile, nil, 0o600), os.Chtimes(certFile, start, start)); err != nil {
		t.Fatal(err)
	}
	if n := serial(time.Hour); n != 2 {
		t.Errorf("serial %d of a damaged file", n)
	}
	if _, err := TLS(certFile, keyFile); err == nil {
		t.Error("a damaged certificate was accepted at the start")
	}
}
