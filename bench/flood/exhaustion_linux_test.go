package flood

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"lewes/crypto/identity"
	"lewes/transport"
	"lewes/transport/client"
	udpconn "lewes/transport/udp"
)

// loopback is the configuration of a gateway that is reachable on loopback only and whose
// clients may send to targets there.
const loopback = `[listen]
addresses = ["127.0.0.1"]
port = 0
[tcp]
port = 0
[egress]
allow = ["127.0.0.1"]
[metrics]
listen = "127.0.0.1:0"
`

// local runs functions in this network namespace, or in one of a test's machines.
type local func(func() error) error

var here local = func(f func() error) error { return f() }

// echo starts a target that echoes every datagram until the test ends.
func (do local) echo(t *testing.T) string {
	t.Helper()
	var conn *net.UDPConn
	if err := do(func() (err error) {
		conn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 0})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	go func() {
		buffer := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return
			}
			_, _ = conn.WriteToUDPAddrPort(buffer[:n], from) // a lost echo is sent for again
		}
	}()
	return conn.LocalAddr().String()
}

// dial makes a session with a gateway.
func (do local) dial(t *testing.T, g *gateway) *client.Session {
	t.Helper()
	key, err := identity.Generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := client.Dial(t.Context(), client.Config{
		Gateway: g.uri, Identity: key, Keys: new(client.KeyCache), NoReconnect: true,
		Underlay: func(_ context.Context, to netip.AddrPort) (conn transport.Conn, err error) {
			err = do(func() error {
				conn, err = udpconn.Dial(to, udpconn.Options{Pooled: true, SendWait: 100 * time.Millisecond})
				return err
			})
			return conn, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// metrics reads a gateway's metrics.
func (do local) metrics(t *testing.T, g *gateway) map[string]float64 {
	t.Helper()
	_, at, _ := strings.Cut(g.output(), `{"url": "`)
	at, _, found := strings.Cut(at, `"`)
	if !found {
		t.Fatal("the gateway logged no metrics URL")
	}
	c := http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
			err = do(func() error {
				conn, err = new(net.Dialer).DialContext(ctx, network, address)
				return err
			})
			return conn, err
		},
	}}
	answer, err := c.Get(at)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	page, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return parseMetrics(string(page))
}

// flow opens a flow and sends on it until an echo or an error of the gateway arrives.
func flow(t *testing.T, s *client.Session, target string) (net.Conn, error) {
	t.Helper()
	conn, err := s.DialContext(t.Context(), "udp", target)
	if err != nil {
		return nil, err
	}
	buffer := make([]byte, 64)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if _, err := conn.Write([]byte("hello")); err != nil {
			return nil, err
		}
		if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(buffer); err == nil {
			return conn, nil
		} else if !errors.Is(err, os.ErrDeadlineExceeded) {
			_ = conn.Close()
			return nil, err
		}
	}
	t.Fatal("neither an echo nor an error")
	return nil, nil
}

// exhaust opens flows until the gateway refuses one for the given reason, checks that the others still
// work, closes two, and opens another to next in their place. most bounds the flows.
func exhaust(t *testing.T, do local, g *gateway, most int, detail, target, next string) {
	t.Helper()
	s := do.dial(t, g)
	refused := do.metrics(t, g)[`lewes_flows_refused_total{reason="bound"}`]
	var flows []net.Conn
	var failed *client.FlowError
	for failed == nil {
		conn, err := flow(t, s, target)
		if err != nil && !errors.As(err, &failed) {
			t.Fatalf("flow %d: %v", len(flows), err)
		}
		if err == nil {
			flows = append(flows, conn)
		}
		if len(flows) > most {
			t.Fatalf("%d flows are open, want at most %d", len(flows), most)
		}
	}
	t.Logf("%d flows were opened, then: %v", len(flows), failed)
	if failed.Reason != client.ReasonLimit || !strings.Contains(failed.Detail, detail) || len(flows) < 2 {
		t.Errorf("flow %d was refused by %v", len(flows), failed)
	}
	buffer := make([]byte, 64)
	for i, conn := range flows {
		for again := 0; ; again++ {
			if _, err := conn.Write([]byte("again")); err != nil {
				t.Fatal(err)
			}
			if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(buffer); err == nil {
				break
			} else if again == 10 {
				t.Fatalf("flow %d stopped working: %v", i, err)
			}
		}
	}
	for _, conn := range flows[:2] {
		_ = conn.Close()
	}
	var err error
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if _, err = flow(t, s, next); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("with room again: %v", err)
		}
	}
	if _, err := do.dial(t, g).Ping(t.Context()); err != nil {
		t.Errorf("another session: %v", err)
	}
	for _, conn := range flows[2:] {
		_ = conn.Close()
	}
	if n := do.metrics(t, g)[`lewes_flows_refused_total{reason="bound"}`] - refused; n < 1 {
		t.Errorf("%.0f flows were counted as refused", n)
	}
	g.alive()
}

// leave lowers a running gateway's limit on open files, so that it has this many left.
func leave(t *testing.T, g *gateway, room int) {
	t.Helper()
	files := uint64(g.descriptors() + room)
	if err := unix.Prlimit(g.cmd.Process.Pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: files}, nil); err != nil {
		t.Skipf("cannot lower the limit of a process: %v", err)
	}
}

// TestExhaustionOfDescriptors takes descriptors from a running gateway, beyond its reserve: it refuses
// flows that it has none for, and reports that once; sessions need none.
func TestExhaustionOfDescriptors(t *testing.T) {
	t.Parallel()
	g := startGateway(t, where{}, loopback)
	const room = 20
	leave(t, g, room)
	target := here.echo(t)
	exhaust(t, here, g, 2*room, "out of file descriptors", target, target)
	if n := strings.Count(g.output(), "cannot open sockets for flows"); n != 1 {
		t.Errorf("%d lines in the log", n)
	}
	g.end()
}

// TestExhaustionOfConnections holds so many TCP connections that the gateway has no descriptor
// for another: sessions over UDP are unaffected, and the waiting connections are served later.
func TestExhaustionOfConnections(t *testing.T) {
	t.Parallel()
	const limit = 48
	g := startGateway(t, where{}, loopback)
	leave(t, g, limit/2)
	before := here.metrics(t, g)
	s := here.dial(t, g)
	at := net.JoinHostPort("127.0.0.1", fmt.Sprint(g.uri.TCPPort))
	for range limit {
		conn, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	if _, err := s.Ping(t.Context()); err != nil {
		t.Errorf("a session over UDP: %v", err)
	}
	if _, err := here.dial(t, g).Ping(t.Context()); err != nil {
		t.Errorf("a new session over UDP: %v", err)
	}
	// The gateway closes silent connections, so every one is accepted in the end.
	for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		f := here.metrics(t, g)
		errs := f["lewes_tcp_accept_errors_total"] - before["lewes_tcp_accept_errors_total"]
		served := f["lewes_tcp_accepted_connections_total"] - before["lewes_tcp_accepted_connections_total"]
		if f["lewes_tcp_connections"] == 0 && served >= limit && errs > 0 {
			t.Logf("%.0f connections served, %.0f accept errors", served, errs)
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%.0f connections are open, %.0f were served, %.0f errors", f["lewes_tcp_connections"], served, errs)
		}
	}
	g.alive()
	g.end()
}

// TestFlowsAndConnectionsLeaveDescriptors opens as many flows and TCP connections as a gateway with few
// descriptors accepts: it then still reads its configuration.
func TestFlowsAndConnectionsLeaveDescriptors(t *testing.T) {
	t.Parallel()
	const files = 100
	g := startGateway(t, where{wrap: []string{"sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$@"`, files), "sh"}}, loopback)
	if !strings.Contains(g.output(), "limit on open files too low") {
		t.Error("no warning at start")
	}
	s, target := here.dial(t, g), here.echo(t)
	for n := 0; ; n++ {
		_, err := flow(t, s, target)
		if failed := new(client.FlowError); errors.As(err, &failed) && failed.Reason == client.ReasonLimit {
			t.Logf("%d flows were opened, then: %v", n, failed)
			break
		}
		if err != nil || n > files {
			t.Fatalf("flow %d: %v", n, err)
		}
	}
	for range files {
		conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", fmt.Sprint(g.uri.TCPPort)))
		if errors.Is(err, syscall.ECONNRESET) {
			continue // beyond the bound
		}
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	if err := g.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); !strings.Contains(g.output(), "reloaded the configuration"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) || strings.Contains(g.output(), "cannot reload") {
			t.Fatal("the configuration was not read")
		}
	}
	if n := g.descriptors(); n > files*3/4 {
		t.Errorf("%d of %d descriptors are open", n, files)
	}
	if n := here.metrics(t, g)["lewes_tcp_accept_errors_total"]; n != 0 {
		t.Errorf("%.0f connections could not be accepted", n)
	}
	if _, err := here.dial(t, g).Ping(t.Context()); err != nil {
		t.Errorf("another session: %v", err)
	}
	g.alive()
	g.end()
}

// TestExhaustionOfPorts gives a gateway few local ports: they bound the flows to one target only.
func TestExhaustionOfPorts(t *testing.T) {
	t.Parallel()
	g := startGateway(t, where{}, strings.Replace(loopback, "[egress]\n", "[egress]\nports = \"19500-19599\"\n", 1))
	exhaust(t, here, g, 100, "out of local ports", here.echo(t), here.echo(t))
	g.end()
}

// TestExhaustionOfTheDisk fills the disk before a file is written: the program reports it,
// leaves no partial file, keeps the old one, and succeeds once there is room.
func TestExhaustionOfTheDisk(t *testing.T) {
	t.Parallel()
	if out, err := exec.Command("unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=64k none "+t.TempDir()).CombinedOutput(); err != nil {
		t.Skipf("no file system can be mounted here: %v: %s", err, out)
	}
	key, err := identity.Generate(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id := key.Public().String()
	for _, row := range []struct {
		name   string
		before string // with room
		run    string // on the full disk, and again with room
		kept   string // a file that must be as it was when run fails
	}{
		{"identity", "", `"$lewes" keygen key`, ""},
		{"identity of a gateway", "", `printf 'listen.addresses = ["127.0.0.1"]\nlisten.port = 0\ntcp.port = 0\n' >"$other"/config; timeout -s TERM 2 "$lewes" gateway --state state --config "$other"/config`, ""},
		{"first client", "mkdir state", `"$lewes" clients add --state state ` + id, ""},
		{"another client", `mkdir state; "$lewes" clients add --state state ` + id + ` first`, `"$lewes" clients add --state state ` + otherIdentity(t) + " second", "state/clients"},
		{"removed client", `mkdir state; "$lewes" clients add --state state ` + id + ` first; "$lewes" clients add --state state ` + otherIdentity(t) + " second", `"$lewes" clients remove --state state second`, "state/clients"},
	} {
		t.Run(row.name, func(t *testing.T) {
			script := `set -u
mount -t tmpfs -o size=64k none "$dir"
cd "$dir"
` + row.before + `
cat ` + orNothing(row.kept) + ` >"$other"/before
find . -type f | sort >"$other"/names
dd if=/dev/zero of=filler bs=4k 2>/dev/null
echo "== full"
` + row.run + ` 2>&1
echo "== exit $?"
rm filler
echo "== names"
find . -type f | sort | diff - "$other"/names
cat ` + orNothing(row.kept) + ` | cmp - "$other"/before
echo "== room"
` + row.run + ` 2>&1
echo "== exit $?"
`
			cmd := exec.Command("unshare", "-m", "sh", "-c", script)
			dir := t.TempDir()
			cmd.Env = append(os.Environ(), "lewes="+program, "dir="+dir, "other="+t.TempDir(), "HOME="+filepath.Join(dir, "home"))
			out, err := cmd.CombinedOutput()
			text := string(out)
			if err != nil {
				t.Fatalf("%v: %s", err, text)
			}
			full, rest, _ := strings.Cut(text, "== names\n")
			left, room, found := strings.Cut(rest, "== room\n")
			if !found || !strings.Contains(full, "no space left on device") || strings.Contains(full, "== exit 0") || strings.Contains(full, "== exit 124") || strings.Contains(full, "panic") {
				t.Errorf("on a full disk: %s", full)
			}
			if left != "" {
				t.Errorf("left behind: %s", left)
			}
			if !strings.Contains(room, "== exit 0") && !strings.Contains(room, "== exit 124") { // timeout ends a gateway
				t.Errorf("with room: %s", room)
			}
		})
	}
}

func orNothing(file string) string {
	if file == "" {
		return "/dev/null"
	}
	return file
}

func otherIdentity(t *testing.T) string {
	t.Helper()
	return identity.FromSeed(&[32]byte{7}).Public().String()
}
