package client_test

import (
	"bytes"
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"lewes/router"
	"lewes/router/gatewaytest"
	"lewes/router/policy"
	"lewes/transport/client"
)

// dialTest makes a session with a gateway until the end of the test.
func dialTest(t *testing.T, g *gatewaytest.Gateway) *client.Session {
	t.Helper()
	return udpSession(t, client.Config{Gateway: g.URI, Identity: clientKey, Keys: new(client.KeyCache)})
}

// net.Resolver takes a connection that is no net.PacketConn for a stream.
func TestResolverOverSession(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Options{Target: answerDNS, Config: func(c *router.Config) {
		// The name servers of this machine, whatever they are.
		var private []policy.Rule
		for _, p := range []string{"127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "::1/128", "fc00::/7"} {
			private = append(private, policy.Rule{Prefix: netip.MustParsePrefix(p)})
		}
		c.Policy = policy.New(policy.Config{Allow: private})
	}})
	resolver := net.Resolver{PreferGo: true, Dial: dialTest(t, g).DialContext}
	addrs, err := resolver.LookupNetIP(t.Context(), "ip4", "www.example.com.")
	if err != nil || len(addrs) != 1 || addrs[0] != netip.MustParseAddr("192.0.2.80") {
		t.Errorf("%v, %v", addrs, err)
	}
}

func TestConnectedFlowIsPacketConn(t *testing.T) {
	g := gatewaytest.Start(t, gatewaytest.Options{Target: gatewaytest.Echo})
	s := dialTest(t, g)
	c, ok := flowTo(t, s, "203.0.113.7:53").(net.PacketConn)
	if !ok {
		t.Fatal("the flow is no net.PacketConn")
	}
	target := &net.UDPAddr{IP: net.IPv4(203, 0, 113, 7), Port: 53}
	if _, err := c.WriteTo([]byte("hello"), target); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	n, from, err := c.ReadFrom(b)
	if err != nil || string(b[:n]) != "hello" || from.String() != target.String() {
		t.Errorf("%q from %v, %v", b[:n], from, err)
	}
	for _, other := range []net.Addr{nil, &net.UDPAddr{IP: net.IPv4(203, 0, 113, 7), Port: 54}, client.NameAddr{Host: "a.example", Port: 53}, &net.TCPAddr{IP: net.IPv4(203, 0, 113, 8), Port: 53}} {
		if n, err := c.WriteTo([]byte("hello"), other); n != 0 || !errors.Is(err, net.ErrWriteToConnected) {
			t.Errorf("to %v: %d, %v", other, n, err)
		}
	}
}

func TestReadBufferSetsQueue(t *testing.T) {
	const datagrams = 300 // more than the default of 256
	g := gatewaytest.Start(t, gatewaytest.Options{Target: gatewaytest.Echo})
	s := dialTest(t, g)
	socket, err := s.ListenPacket()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	if err := socket.(interface{ SetReadBuffer(int) error }).SetReadBuffer(7 << 20); err != nil {
		t.Fatal(err)
	}
	for i := range datagrams {
		if _, err := socket.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("203.0.113.7:53"))); err != nil {
			t.Fatal(err)
		}
		for s.Stats().Received < uint64(i+1) && t.Context().Err() == nil {
			time.Sleep(100 * time.Microsecond)
		}
	}
	if lost := s.Stats().Overflowed; lost != 0 {
		t.Errorf("%d datagrams overflowed the queue", lost)
	}
}

// A missed deadline of Dial is an error as of net.Dialer.
func TestDialDeadline(t *testing.T) {
	silent, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	at := silent.LocalAddr().(*net.UDPAddr).AddrPort()
	config := client.Config{Gateway: client.Gateway{Identity: clientKey.Public(), Host: at.Addr().String(), Port: at.Port()}, Identity: clientKey, Transport: client.UDP}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	isTimeout := func(err error) {
		t.Helper()
		var timeout net.Error
		if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("%v", err)
		}
	}
	_, err = client.Dial(ctx, config)
	isTimeout(err)
	config.Timeout = 20 * time.Millisecond
	_, err = client.Dial(t.Context(), config)
	isTimeout(err)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = client.Dial(canceled, config); !errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("canceled: %v", err)
	}
}

// failingResolver is a gateway's resolver that returns an error.
type failingResolver struct{ net.DNSError }

func (r *failingResolver) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return nil, &r.DNSError
}

func TestNameErrors(t *testing.T) {
	for name, fault := range map[string]net.DNSError{
		"timeout":   {Err: "i/o timeout", IsTimeout: true},
		"not found": {Err: "no such host", IsNotFound: true},
	} {
		t.Run(name, func(t *testing.T) {
			g := gatewaytest.Start(t, gatewaytest.Options{Config: func(c *router.Config) { c.Resolver = &failingResolver{fault} }})
			c := flowTo(t, dialTest(t, g), "www.example.com:53")
			write(t, c, "hello")
			_, err := c.Read(make([]byte, 9))
			var dns *net.DNSError
			if !errors.As(err, &dns) || dns.IsTimeout != fault.IsTimeout || dns.IsNotFound != fault.IsNotFound {
				t.Fatalf("%#v", err)
			}
			var op net.Error
			if !errors.As(err, &op) || op.Timeout() != fault.IsTimeout {
				t.Errorf("Timeout of %v", err)
			}
		})
	}
}

func TestEventsAreLogged(t *testing.T) {
	var log bytes.Buffer
	g := gatewaytest.Start(t, gatewaytest.Options{Target: gatewaytest.Echo})
	s, err := client.Dial(t.Context(), client.Config{Gateway: g.URI, Identity: clientKey, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"msg=connected gateway=" + g.URI.Identity.String() + " transport=udp", "msg=closed"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %q in the log:\n%s", want, log.String())
		}
	}
}

// TestOneImport checks that no exported declaration mentions a type that a program
// would have to import a package below this one for.
func TestOneImport(t *testing.T) {
	hidden := map[string]bool{"lewes/state": true, "lewes/state/wire": true, "lewes/state/path": true, "lewes/transport/udp": true, "lewes/transport/tcp": true}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(set, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		imported := make(map[string]string)
		for _, i := range file.Imports {
			path, _ := strconv.Unquote(i.Path.Value)
			imported[filepath.Base(path)] = path
		}
		check := func(what string, n ast.Node) {
			ast.Inspect(n, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok {
					if x, ok := s.X.(*ast.Ident); ok && hidden[imported[x.Name]] {
						t.Errorf("%v: %s has the type %s.%s", set.Position(s.Pos()), what, x.Name, s.Sel.Name)
					}
				}
				return true
			})
		}
		for _, d := range file.Decls {
			checkDecl(d, check)
		}
	}
}

// checkDecl calls check for the type of each exported function, method, variable and field.
func checkDecl(d ast.Decl, check func(string, ast.Node)) {
	if f, ok := d.(*ast.FuncDecl); ok {
		if f.Name.IsExported() && (f.Recv == nil || ast.IsExported(receiver(f))) {
			check(f.Name.Name, f.Type)
		}
		return
	}
	for _, spec := range d.(*ast.GenDecl).Specs {
		switch spec := spec.(type) {
		case *ast.ValueSpec:
			if spec.Names[0].IsExported() && spec.Type != nil {
				check(spec.Names[0].Name, spec.Type)
			}
		case *ast.TypeSpec:
			if !spec.Name.IsExported() {
				continue
			}
			fields, ok := spec.Type.(*ast.StructType)
			if !ok {
				check(spec.Name.Name, spec.Type)
				continue
			}
			for _, f := range fields.Fields.List {
				if len(f.Names) == 0 || f.Names[0].IsExported() {
					check(spec.Name.Name, f.Type)
				}
			}
		}
	}
}

func receiver(f *ast.FuncDecl) string {
	t := f.Recv.List[0].Type
	if p, ok := t.(*ast.StarExpr); ok {
		t = p.X
	}
	return t.(*ast.Ident).Name
}

// TestOtherModule builds a module that uses this package by the replace line of the README.
func TestOtherModule(t *testing.T) {
	program, err := exec.LookPath("go")
	if err != nil {
		t.Skip("the go command is missing")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(readme, []byte("-replace=lewes=../lewes")) {
		t.Error("the README has no replace line")
	}
	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range map[string]string{
		"go.mod": "module example.com/program\n\ngo 1.26.0\n\nrequire lewes v0.0.0\n\nreplace lewes => " + root + "\n",
		"go.sum": string(sums),
		"use.go": `package program

import (
	"context"
	"net"

	"lewes/transport/client"
)

func connect(ctx context.Context, uri, keyFile, target string) (net.Conn, error) {
	gateway, err := client.ParseGateway(uri)
	if err != nil {
		return nil, err
	}
	key, err := client.LoadKey(keyFile)
	if err != nil {
		return nil, err
	}
	session, err := client.Dial(ctx, client.Config{Gateway: gateway, Identity: key, KEM: client.XWing})
	if err != nil {
		return nil, err
	}
	return session.DialContext(ctx, "udp", target)
}

var _ = connect
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.CommandContext(t.Context(), program, "build", "-trimpath", "./...")
	build.Dir = dir
	build.Env = append(os.Environ(), "GOPROXY=off", "GOFLAGS=-mod=mod", "GOWORK=off")
	if output, err := build.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, output)
	}
}
