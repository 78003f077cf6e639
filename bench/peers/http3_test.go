package peers

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"lewes/crypto/identity"
	"lewes/transport/client"
	"lewes/transport/uri"
)

// downloadSize is the length of the file that is fetched.
const downloadSize = 20_000_000

// serverName is what the web server's certificate is for.
const serverName = "web.lewes.test"

// content is the file: bytes that nothing can compress or mistake.
func content() io.Reader {
	return io.LimitReader(mathrand.NewChaCha8([32]byte([]byte("a download through two gateways."))), downloadSize)
}

// TestHTTP3Download fetches 20 MB from an HTTP/3 server through an entry and an exit,
// with QUIC at both ends: by a forward, as a user would, and by the client library as
// a QUIC library's socket.
func TestHTTP3Download(t *testing.T) {
	certificate, roots := certify(t)
	server := serveHTTP3(t, certificate)
	key, public := keygen(t)
	exit := startGateway(t, fmt.Sprintf("[egress]\nallow = [%q]\n", server), public)
	entry := startGateway(t, fmt.Sprintf("[[gateway]]\nuri = %q\n", exit.uri))
	entry.admitAsEntry(t, key)

	t.Run("forward", func(t *testing.T) {
		_, local := startForward(t, key, "--gateway", exit.uri.String(), "--via", entry.uri.String(), "127.0.0.1:0="+server.String())
		download(t, udpSocket(t, "127.0.0.1"), local[0], roots)
	})
	t.Run("library", func(t *testing.T) {
		session := dialGateway(t, key, exit.uri, entry.uri)
		conn, err := session.ListenPacket()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		download(t, conn, server, roots)
	})
}

// dialGateway makes a session with exit through entry.
func dialGateway(t *testing.T, keyFile string, exit, entry uri.Gateway) *client.Session {
	t.Helper()
	key, err := identity.Load(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(key.Wipe)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	session, err := client.Dial(ctx, client.Config{Gateway: exit, Via: []client.Gateway{entry}, Identity: key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = session.Close() })
	return session
}

// download fetches the file over conn from a server, and compares hashes.
func download(t *testing.T, conn net.PacketConn, server netip.AddrPort, roots *x509.CertPool) {
	t.Helper()
	sockets := &quic.Transport{Conn: conn}
	defer sockets.Close()
	web := &http3.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: serverName, MinVersion: tls.VersionTLS13},
		Dial: func(ctx context.Context, _ string, tlsConfig *tls.Config, config *quic.Config) (*quic.Conn, error) {
			return sockets.Dial(ctx, net.UDPAddrFromAddrPort(server), tlsConfig, config)
		},
	}
	defer web.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+serverName+"/file", nil)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	response, err := web.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK || response.Proto != "HTTP/3.0" {
		t.Fatalf("the server answers %s %s", response.Proto, response.Status)
	}
	got, n := sum(t, response.Body)
	want, _ := sum(t, content())
	if n != downloadSize || got != want {
		t.Fatalf("%d bytes with SHA-256 %x came, want %d with %x", n, got, downloadSize, want)
	}
	took := time.Since(began)
	t.Logf("%d bytes in %v: %.1f Mbit/s", n, took.Round(time.Millisecond), float64(n)*8/1e6/took.Seconds())
}

// sum returns the SHA-256 and the length of what r holds.
func sum(t *testing.T, r io.Reader) (digest [sha256.Size]byte, n int64) {
	t.Helper()
	h := sha256.New()
	n, err := io.Copy(h, r)
	if err != nil {
		t.Fatalf("after %d bytes: %v", n, err)
	}
	return [sha256.Size]byte(h.Sum(nil)), n
}

// serveHTTP3 serves the file on a port of loopback.
func serveHTTP3(t *testing.T, certificate tls.Certificate) netip.AddrPort {
	t.Helper()
	conn := udpSocket(t, "127.0.0.1")
	server := &http3.Server{
		TLSConfig: http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13}),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.Copy(w, content()) // a client that goes away sees it
		}),
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(conn) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("the HTTP/3 server ended: %v", err)
		}
	})
	return addrOf(conn)
}

// certify makes a certificate that the pool trusts.
func certify(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	certificate, roots, err := selfSigned()
	if err != nil {
		t.Fatal(err)
	}
	return certificate, roots
}

// selfSigned makes a certificate for serverName and a pool that trusts it.
func selfSigned() (tls.Certificate, *x509.CertPool, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		DNSNames:              []string{serverName},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, roots, nil
}
