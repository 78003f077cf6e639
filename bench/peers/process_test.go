package peers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lewes/transport/uri"
)

// patience bounds every wait for a process.
const patience = 20 * time.Second

// lewes is the path of the program, built once.
var lewes string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "lewes-peers-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		lewes = filepath.Join(dir, "lewes")
		build := exec.Command("go", "build", "-o", lewes, "./cmd/lewes")
		build.Dir = filepath.Join("..", "..") // the product's own go.mod decides what is in it
		// A static binary, as it is deployed: names are resolved by Go alone.
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "building lewes:", err)
			return 1
		}
		return m.Run()
	}())
}

// process is a program that runs beside the test.
type process struct {
	cmd    *exec.Cmd
	ended  chan struct{}
	mu     sync.Mutex
	said   bytes.Buffer // standard output and standard error
	listen chan struct{}
}

// start starts a program, which the end of the test asks to end. It has to do so
// by itself, with exit code 0.
func start(t *testing.T, env []string, program string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(program, args...), ended: make(chan struct{}), listen: make(chan struct{}, 1)}
	p.cmd.Env = env
	p.cmd.Stdout, p.cmd.Stderr = p, p
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // how it ended is in ProcessState
	}()
	t.Cleanup(func() {
		if err := p.end(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", p, p.log())
		}
	})
	return p
}

// end asks the process to end and waits until it has.
func (p *process) end() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended, which is seen below
	select {
	case <-p.ended:
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
		<-p.ended
		return fmt.Errorf("%s did not end within %v of SIGTERM", p, patience)
	}
	if state := p.cmd.ProcessState; !state.Success() {
		return fmt.Errorf("%s: %v", p, state)
	}
	return nil
}

// String returns the command line, cut where it gets long.
func (p *process) String() string {
	s := filepath.Base(p.cmd.Path) + " " + strings.Join(p.cmd.Args[1:], " ")
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return s
}

// Write takes what the process says.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case p.listen <- struct{}{}:
	default:
	}
	return p.said.Write(b)
}

// log returns all that the process has said.
func (p *process) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.String()
}

// await waits until the process has said something, and returns what pattern's
// groups match in it.
func (p *process) await(t *testing.T, pattern string) []string {
	t.Helper()
	want := regexp.MustCompile(pattern)
	timeout := time.After(patience)
	for {
		if found := want.FindStringSubmatch(p.log()); found != nil {
			return found
		}
		select {
		case <-p.listen:
		case <-p.ended:
			if found := want.FindStringSubmatch(p.log()); found != nil {
				return found
			}
			t.Fatalf("%s has ended without saying %q: %v", p, pattern, p.cmd.ProcessState)
		case <-timeout:
			t.Fatalf("%s has not said %q within %v", p, pattern, patience)
		}
	}
}

// environment is that of a process whose state is in dir, and nobody else's.
func environment(dir string) []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "XDG_STATE_HOME=" + dir, "LC_ALL=C"}
}

// run runs a program to its end and returns what it wrote on standard output.
func run(t *testing.T, env []string, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = env
	out, err := cmd.Output()
	if ctx.Err() != nil {
		err = fmt.Errorf("it did not end within %v", patience)
	}
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		t.Fatalf("%s %s: %v\n%s", filepath.Base(program), strings.Join(args, " "), err, out)
	}
	return string(out)
}

// keygen makes an identity and returns its file and public half.
func keygen(t *testing.T) (path, public string) {
	t.Helper()
	dir := t.TempDir()
	path = filepath.Join(dir, "identity")
	return path, strings.TrimSpace(run(t, environment(dir), lewes, "keygen", path))
}

// gateway is a running gateway.
type gateway struct {
	*process
	uri  uri.Gateway
	file string // its configuration
	env  []string
}

// admitAsEntry lets in the client of a key file, which shows an entry an identity of its own.
func (g *gateway) admitAsEntry(t *testing.T, key string) {
	t.Helper()
	identity := strings.TrimSpace(run(t, g.env, lewes, "keygen", "--show", "--for", g.uri.String(), key))
	run(t, g.env, lewes, "clients", "add", "--config", g.file, identity, "by-way")
	g.await(t, "reloaded the list of clients")
}

// startGateway starts a gateway on a port of 127.0.0.1 that the system chooses, and
// lets clients in; config is what its configuration has beside that.
func startGateway(t *testing.T, config string, clients ...string) gateway {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "gateway.toml")
	config = fmt.Sprintf("state_dir = %q\n[listen]\naddresses = [\"127.0.0.1\"]\nport = 0\n%s", dir, config)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	env := environment(dir)
	for i, identity := range clients {
		run(t, env, lewes, "clients", "add", "--config", file, identity, fmt.Sprintf("client-%d", i))
	}
	p := start(t, env, lewes, "gateway", "--config", file)
	line := p.await(t, `lewes://\S+@\S+`)[0]
	g, err := uri.Parse(line)
	if err != nil {
		t.Fatal(err)
	}
	return gateway{p, g, file, env}
}

// startForward starts a forward and returns the local address of each mapping.
func startForward(t *testing.T, identity string, args ...string) (p *process, local []netip.AddrPort) {
	t.Helper()
	p = start(t, environment(t.TempDir()), lewes, append([]string{"forward", "--json", "--identity", identity}, args...)...)
	line := p.await(t, `(?m)^.*"mappings":.*$`)[0]
	var ready struct {
		Mappings []struct{ Local netip.AddrPort }
	}
	if err := json.Unmarshal([]byte(line), &ready); err != nil {
		t.Fatalf("the line %q that says forward is ready: %v", line, err)
	}
	for _, m := range ready.Mappings {
		local = append(local, m.Local)
	}
	return p, local
}

// udpSocket binds a socket to a port of addr that the system chooses.
func udpSocket(t *testing.T, addr string) *net.UDPConn {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// addrOf returns a socket's own address.
func addrOf(conn *net.UDPConn) netip.AddrPort { return conn.LocalAddr().(*net.UDPAddr).AddrPort() }

// serveEcho sends back what comes to a socket, until it is closed.
func serveEcho(conn *net.UDPConn) {
	buffer := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buffer)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err == nil:
			_, _ = conn.WriteToUDPAddrPort(buffer[:n], from) // what gets lost, the test misses
		}
	}
}

// exchange sends a datagram and waits for its echo; one that is lost is sent again.
func exchange(t *testing.T, to netip.AddrPort, message []byte) {
	t.Helper()
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answer := make([]byte, 2048)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if _, err := conn.Write(message); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(answer)
		if err == nil && bytes.Equal(answer[:n], message) {
			return
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	t.Fatalf("nothing came back from %v within %v", to, patience)
}
