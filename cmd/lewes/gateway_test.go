//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"lewes/cmd/lewes/internal/config"
	"lewes/crypto/identity"
	"lewes/router/access"
	"lewes/transport/client"
	"lewes/transport/uri"
)

// loopbackListen is what the gateways of tests have in their configuration.
const loopbackListen = "[listen]\naddresses = [\"127.0.0.1\"]\nport = 0\n[tcp]\nport = 0\n"

// allowEcho lets a gateway of a test send to targets on loopback.
const allowEcho = "[egress]\nallow = [\"127.0.0.1\"]\n"

// runningGateway is a gateway process.
type runningGateway struct {
	*process
	dir string // its state folder
	uri string
}

// launchGateway starts a gateway on loopback that lists clients; more is what its
// configuration has beside that.
func launchGateway(t *testing.T, more string, clients ...*identity.PrivateKey) *runningGateway {
	t.Helper()
	dir := t.TempDir()
	for _, c := range clients {
		if err := access.Add(filepath.Join(dir, "clients"), access.Entry{Identity: c.Public()}); err != nil {
			t.Fatal(err)
		}
	}
	return launchGatewayIn(t, dir, more)
}

// launchGatewayIn starts a gateway whose state folder there is already.
func launchGatewayIn(t *testing.T, dir, more string, env ...string) *runningGateway {
	t.Helper()
	file := filepath.Join(dir, "gateway.toml")
	writeFile(t, file, fmt.Sprintf("state_dir = %q\n", dir)+loopbackListen+more, 0o600)
	p := launch(t, environment(dir, env...), "gateway", "--config", file)
	g := &runningGateway{p, dir, p.awaitLine("lewes://")}
	g.awaitLog("  ready  ")
	return g
}

// address returns the gateway's UDP address, and port alone.
func (g *runningGateway) address() (address, port string) {
	g.t.Helper()
	parsed, err := uri.Parse(g.uri)
	if err != nil {
		g.t.Fatal(err)
	}
	return parsed.Address(), fmt.Sprint(parsed.Port)
}

// list lets a client in and waits until the gateway knows.
func (g *runningGateway) list(id fmt.Stringer) {
	g.t.Helper()
	before := strings.Count(g.stderr(), "reloaded the list of clients")
	mustLewes(g.t, environment(g.dir), "clients", "add", "--state", g.dir, id.String())
	g.await("a new list", func(_, stderr string) bool {
		return strings.Count(stderr, "reloaded the list of clients") > before
	})
}

// newClient makes a client's identity.
func newClient(t *testing.T) (file string, key *identity.PrivateKey) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "client.key")
	key, err := config.CreateIdentity(file)
	if err != nil {
		t.Fatal(err)
	}
	return file, key
}

// dial makes a session with a gateway, in this process.
func dial(t *testing.T, gateway string, key *identity.PrivateKey) *client.Session {
	t.Helper()
	g, err := uri.Parse(gateway)
	if err != nil {
		t.Fatal(err)
	}
	s, err := client.Dial(t.Context(), client.Config{Gateway: g, Identity: key, Keys: new(client.KeyCache), NoReconnect: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// TestGatewayWithoutConfiguration is what README.md promises: nothing to prepare.
func TestGatewayWithoutConfiguration(t *testing.T) {
	dir := t.TempDir()
	// Another program may have port 51264; the test is then of what is said.
	taken, err := net.ListenPacket("udp4", "0.0.0.0:51264")
	if err != nil {
		t.Skipf("port 51264 is in use on this machine: %v", err)
	}
	_ = taken.Close()

	g := launch(t, environment(dir), "gateway")
	line := g.awaitLine("lewes://")
	g.awaitLog("  ready  ")
	parsed, err := uri.Parse(line)
	if err != nil {
		t.Fatal(err)
	}
	key, err := identity.Load(filepath.Join(dir, "lewes", "identity"))
	if err != nil {
		t.Fatal(err)
	}
	if parsed.Identity != key.Public() || parsed.Port != 51264 {
		t.Errorf("the URI %s, the identity %s", line, key.Public())
	}
	first, _, _ := strings.Cut(g.stderr(), "\n")
	has(t, first, "starting lewes", `"version": "`, `"revision": "`, `"modified": "`)
	has(t, g.stderr(), "created the gateway's identity", `no client may use this gateway  {"add_with": "lewes clients add IDENTITY NAME"}`)
	if n := strings.Count(g.stderr(), "  ready  "); n != 1 {
		t.Errorf("%d lines say that it is ready", n)
	}
	if code := g.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}

	// The second start is as the first, with the same identity.
	again := launch(t, environment(dir), "gateway")
	if second := again.awaitLine("lewes://"); second != line {
		t.Errorf("it is %s the second time, and was %s", second, line)
	}
	hasNot(t, again.stderr(), "created the gateway's identity")
}

func TestGatewayTellsSystemd(t *testing.T) {
	for _, kind := range []string{"file", "abstract"} {
		t.Run(kind, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "notify")
			if kind == "abstract" {
				if runtime.GOOS != "linux" {
					t.Skip("abstract sockets are Linux's")
				}
				name = fmt.Sprintf("@lewes-test-%d", os.Getpid())
			}
			conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			told := func() string {
				buffer := make([]byte, 256)
				if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
					t.Fatal(err)
				}
				n, err := conn.Read(buffer)
				if err != nil {
					t.Fatal(err)
				}
				return string(buffer[:n])
			}
			g := launchGatewayIn(t, t.TempDir(), "", "NOTIFY_SOCKET="+name)
			if got := told(); got != "READY=1" {
				t.Errorf("systemd is told %q first", got)
			}
			if code := g.end(); code != exitOK {
				t.Errorf("exit code %d", code)
			}
			if got := told(); got != "STOPPING=1" {
				t.Errorf("systemd is told %q at the end", got)
			}
		})
	}
}

// TestGatewayTakesItsLeave: SIGTERM closes the sessions and says so to the clients.
func TestGatewayTakesItsLeave(t *testing.T) {
	_, key := newClient(t)
	g := launchGateway(t, "", key)
	s := dial(t, g.uri, key)
	if _, err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	if code := g.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	has(t, g.stderr(), `stopped  {"sessions_closed": 1, "clients_notified": 1}`)
	select {
	case <-s.Done():
		has(t, s.Err().Error(), "the other end closed the session")
	case <-time.After(patience):
		t.Error("the client was not told")
	}
}

// TestSecondSignalEndsAtOnce holds the program up in its leave-taking, by a systemd
// that does not read what it is told.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	ctx, stop := untilSignal(context.Background(), os.Stderr)
	stop()
	if ctx.Err() == nil {
		t.Error("the context outlives its end")
	}

	name := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	g := launchGatewayIn(t, t.TempDir(), "", "NOTIFY_SOCKET="+name)
	fill(t, name)
	g.signal(syscall.SIGTERM)
	g.signal(syscall.SIGTERM) // the same one
	select {
	case <-g.done:
		t.Fatal("nothing holds it up")
	case <-time.After(secondSignal + 100*time.Millisecond):
	}
	g.signal(syscall.SIGTERM)
	if code := g.wait(); code != exitFailed {
		t.Errorf("exit code %d, want %d", code, exitFailed)
	}
	has(t, g.stderr(), "second signal (", "exiting immediately")
}

// fill fills the queue of a Unix socket. One sender may reach the bound of its own
// buffer first: the queue is full when another one cannot send anything either.
func fill(t *testing.T, name string) {
	t.Helper()
	for range 1000 {
		if sent := stuff(t, name, 1000); sent == 0 {
			return
		}
	}
	t.Skip("this system's Unix sockets never fill")
}

// stuff sends up to n datagrams to a Unix socket, until one has to wait.
func stuff(t *testing.T, name string, n int) (sent int) {
	t.Helper()
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for ; sent < n; sent++ {
		if err := conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("x")); os.IsTimeout(err) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return sent
}

// TestGatewayFollowsItsList: who is added may come, who is removed is put out, and a
// list that cannot be read changes nothing.
func TestGatewayFollowsItsList(t *testing.T) {
	t.Parallel()
	g := launchGateway(t, "")
	clients := filepath.Join(g.dir, "clients")
	has(t, g.stderr(), `"add_with": "lewes clients add --file `+clients+` IDENTITY NAME"`)
	_, anna := newClient(t)
	_, ben := newClient(t)
	g.list(anna.Public())
	g.list(ben.Public())
	first, second := dial(t, g.uri, anna), dial(t, g.uri, ben)

	mustLewes(t, environment(g.dir), "clients", "remove", "--state", g.dir, ben.Public().String())
	g.awaitLog(`{"clients": 1, "sessions_closed": 1}`)
	select {
	case <-second.Done():
	case <-time.After(patience):
		t.Fatal("a client that is not listed any more keeps its session")
	}
	writeFile(t, clients, "nonsense\n", 0o600)
	g.awaitLog("cannot reload the list of clients; keeping the previous one")
	has(t, g.stderr(), clients+", line 1")
	if _, err := first.Ping(t.Context()); err != nil {
		t.Errorf("a client that was listed is put out: %v", err)
	}
}

// TestGatewayIgnoresInvalidLines: at its start a gateway uses the valid lines and names the others. A reload
// with an invalid line changes nothing, until the line is mended.
func TestGatewayIgnoresInvalidLines(t *testing.T) {
	t.Parallel()
	_, anna := newClient(t)
	_, ben := newClient(t)
	dir := t.TempDir()
	clients := filepath.Join(dir, "clients")
	writeFile(t, clients, "\ufeff"+anna.Public().String()+"  anna  sessions=2 rate=10MiB\r\n"+ben.Public().String()+"  ben  rate=10MB\r\n", 0o600)
	g := launchGatewayIn(t, dir, "")
	g.awaitLog(fmt.Sprintf(`a line of the list of clients is invalid and admits no client  {"file": %q, "line": 2, "value": "rate=10MB"`, clients))
	first := dial(t, g.uri, anna)

	// Anna is removed, but the list still has its invalid line.
	lewes(t, environment(dir), "clients", "remove", "--file", clients, "anna")
	g.awaitLog("cannot reload the list of clients; keeping the previous one")
	if _, err := first.Ping(t.Context()); err != nil {
		t.Errorf("a list with an invalid line was used: %v", err)
	}
	mustLewes(t, environment(dir), "clients", "remove", "--file", clients, "--line", "1")
	g.awaitLog(`{"clients": 0, "sessions_closed": 1}`)
	<-first.Done()
	mustLewes(t, environment(dir), "clients", "add", "--file", clients, ben.Public().String(), "ben", "rate=10MiB")
	g.awaitLog(`{"clients": 1, "sessions_closed": 0}`)
	if _, err := dial(t, g.uri, ben).Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestGatewayLimitsAClient: the limits of the list hold for all sessions of a client, and a change of the
// list changes them.
func TestGatewayLimitsAClient(t *testing.T) {
	t.Parallel()
	_, anna := newClient(t)
	target := echo(t)
	dir := t.TempDir()
	clients := filepath.Join(dir, "clients")
	writeFile(t, clients, anna.Public().String()+"  anna  sessions=1 flows=1\n", 0o600)
	g := launchGatewayIn(t, dir, allowEcho)
	first := dial(t, g.uri, anna)
	if _, err := first.Ping(t.Context()); err != nil { // the gateway may get its Handshake 3 later than the second's
		t.Fatal(err)
	}
	parsed, err := uri.Parse(g.uri)
	if err != nil {
		t.Fatal(err)
	}
	another := client.Config{Gateway: parsed, Identity: anna, Keys: new(client.KeyCache), NoReconnect: true}
	if s, err := client.Dial(t.Context(), another); err == nil {
		if _, err := s.Ping(t.Context()); err == nil {
			t.Error("a second session of a client that may have one")
		}
		_ = s.Close()
	}
	open := func() error {
		conn, err := first.DialContext(t.Context(), "udp", target)
		if err != nil {
			return err
		}
		t.Cleanup(func() { _ = conn.Close() })
		for end := time.Now().Add(patience); ; {
			if _, err := conn.Write([]byte("x")); err != nil {
				return err
			}
			_ = conn.SetReadDeadline(time.Now().Add(time.Second))
			_, err := conn.Read(make([]byte, 10))
			if !errors.Is(err, os.ErrDeadlineExceeded) || time.Now().After(end) {
				return err // a datagram may be lost
			}
		}
	}
	if err := open(); err != nil {
		t.Fatal(err)
	}
	if err := open(); err == nil {
		t.Error("a second flow of a client that may have one")
	}
	writeFile(t, clients, anna.Public().String()+"  anna  sessions=2 flows=2\n", 0o600)
	g.awaitLog(`reloaded the list of clients  {"clients": 1, "sessions_closed": 0`)
	if err := open(); err != nil {
		t.Error(err)
	}
	if _, err := dial(t, g.uri, anna).Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestGatewayLogsNobody: no whole address of a client, no target, no identity of a
// client, no key.
func TestGatewayLogsNobody(t *testing.T) {
	target := echo(t)
	_, key := newClient(t)
	g := launchGateway(t, allowEcho+"[log]\nlevel = \"debug\"\n", key)
	s := dial(t, g.uri, key)
	conn, err := s.DialContext(t.Context(), "udp", target)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("some payload")); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 100)
	if n, err := conn.Read(buffer); err != nil || string(buffer[:n]) != "some payload" {
		t.Fatalf("%q, %v", buffer[:n], err)
	}
	_ = s.Close()
	if code := g.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	_, targetPort, err := net.SplitHostPort(target)
	if err != nil {
		t.Fatal(err)
	}
	hasNot(t, g.stderr(), target, ":"+targetPort, s.Info().Local.String(), key.Public().String(), "payload", "PRIVATE KEY")
}

func TestGatewayOpenToAll(t *testing.T) {
	g := launchGateway(t, "[access]\nmode = \"open\"\n")
	has(t, g.stderr(), "access is open")
	_, key := newClient(t)
	if _, err := dial(t, g.uri, key).Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestGatewayPrintsPublicNames(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "gateway.toml")
	writeFile(t, file, fmt.Sprintf("state_dir = %q\npublic = [\"gw.example\", \"203.0.113.7:443\"]\n", dir)+loopbackListen, 0o600)
	g := launch(t, environment(dir), "gateway", "--config", file, "--json")
	var facts struct {
		Identity     string
		URIs, Listen []string
		TCP          []string `json:"listen_tcp"`
		Access       string
	}
	parseJSON(t, g.awaitLine("{"), &facts)
	if len(facts.Listen) != 1 || len(facts.TCP) != 1 || len(facts.URIs) != 2 || facts.Access != "listed" {
		t.Fatalf("JSON says %+v", facts)
	}
	_, port, err := net.SplitHostPort(facts.Listen[0])
	if err != nil {
		t.Fatal(err)
	}
	_, tcp, err := net.SplitHostPort(facts.TCP[0])
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"gw.example:" + port, "203.0.113.7:443"} {
		if want = "lewes://" + facts.Identity + "@" + want + "?tcp=" + tcp; facts.URIs[i] != want {
			t.Errorf("got %s, want %s", facts.URIs[i], want)
		}
	}
	g.awaitLog("ready")
	hasNot(t, g.stderr(), "no global address")
}

func TestGatewayGivesMetrics(t *testing.T) {
	g := launchGateway(t, "[metrics]\nlisten = \"127.0.0.1:0\"\n")
	found := regexp.MustCompile(`"url": "(http://127\.0\.0\.1:\d+/metrics)"`).FindStringSubmatch(g.stderr())
	if found == nil {
		t.Fatal("it does not say where")
	}
	answer, err := http.Get(found[1])
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Error(answer.Status)
	}
}

// TestClientsAddWithoutGateway warns where no gateway has run, as on the client's own machine, and works
// nevertheless: a list may be prepared.
func TestClientsAddWithoutGateway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	add := func(client byte, more ...string) string {
		t.Helper()
		id := identity.FromSeed(&[32]byte{client}).Public().String()
		stdout, stderr, code := lewes(t, environment(dir), append([]string{"clients", "add", id}, more...)...)
		if code != exitOK || !strings.Contains(stdout, "added "+id) {
			t.Errorf("exit code %d: %s", code, stdout)
		}
		return stderr
	}
	const warning = "warning: no gateway has run here: there is no "
	has(t, add(1), warning+filepath.Join(dir, "lewes", "identity"), "run this on the gateway's machine")
	has(t, add(2, "--state", filepath.Join(dir, "other")), warning+filepath.Join(dir, "other", "identity"))
	has(t, add(3, "--file", filepath.Join(dir, "list")), warning)
	hasNot(t, add(4, "--file", filepath.Join(dir, "list")), warning) // there is a list
	g := launchGateway(t, "")
	hasNot(t, add(5, "--state", g.dir), warning)
	hasNot(t, add(6, "--file", filepath.Join(g.dir, "clients")), warning)
}
