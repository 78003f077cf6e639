//go:build unix

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lewes/transport/client"
	"lewes/transport/uri"
)

// TestProbeTransport goes over each transport to a real gateway, and falls back where
// UDP is dropped.
func TestProbeTransport(t *testing.T) {
	t.Parallel()
	file, key := newClient(t)
	g := launchGateway(t, allowEcho, key)
	env := environment(t.TempDir())
	target := echo(t)
	blocked, err := uri.Parse(g.uri)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(silent(t))
	if _, err := fmt.Sscan(port, &blocked.Port); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ name, flag, uri, transport, reason string }{
		{"UDP", "udp", g.uri, "udp", ""},
		{"TCP", "tcp", g.uri, "tcp", ""},
		{"auto", "auto", g.uri, "udp", ""},
		{"auto, UDP dropped", "auto", blocked.String(), "tcp", "UDP did not answer in time"},
	} {
		t.Run(row.name, func(t *testing.T) {
			var r probeResult
			stdout, _, code := lewes(t, env, "probe", "--json", "--identity", file, "--transport", row.flag, "--target", target, row.uri)
			parseJSON(t, stdout, &r)
			fellBack := row.reason != ""
			if fellBack != (code == exitNoUDP) || fellBack != slices.Contains(r.steps(), "udp failed") || fellBack != (r.Failed == stepUDP) {
				t.Errorf("exit code %d: %+v", code, r)
			}
			if !r.OK || r.Transport != row.transport || r.Reason != row.reason || !strings.HasPrefix(r.Local, "127.0.0.1:") {
				t.Errorf("it says %+v", r)
			}
		})
	}
	has(t, mustLewes(t, env, "probe", "--identity", file, "--transport", "tcp", g.uri), "over     tcp from 127.0.0.1:")

	blocked.TCPPort = blocked.Port // nothing listens there on TCP
	_, stderr, code := lewes(t, env, "probe", "--identity", file, "--timeout", "2s", blocked.String())
	if code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	has(t, stderr, "over UDP: no answer within", fmt.Sprintf("over TCP, port %d: ", blocked.TCPPort), "nothing listens on port")
	has(t, fails(t, env, exitUsage, "probe", "--transport", "pigeon", g.uri), "--transport", `"pigeon"`, "auto, udp or tcp")
}

// TestForwardOverTCP says what it goes over.
func TestForwardOverTCP(t *testing.T) {
	t.Parallel()
	target := echo(t)
	file, key := newClient(t)
	g := launchGateway(t, allowEcho, key)
	p := launch(t, environment(t.TempDir()), "forward", "--transport", "tcp", "--gateway", g.uri, "--identity", file, "0="+target)
	line := p.awaitLine("ready: ")
	has(t, line, " over tcp")
	_, after, _ := strings.Cut(line, "ready: ")
	local, _, _ := strings.Cut(after, " to ")
	conn := localSocket(t, local)
	for n := range 20 {
		ask(t, conn, fmt.Appendf(nil, "datagram %d%s", n, strings.Repeat("x", 60*n)))
	}
	if code := p.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// TestKillAndRestart kills a gateway with a client on it and starts it again after a while. The
// client makes one new session over the same transport, and logs how long that took.
func TestKillAndRestart(t *testing.T) {
	for _, row := range []struct {
		over client.Transport
		away time.Duration
	}{{client.UDP, 0}, {client.UDP, 4 * time.Second}, {client.TCP, 2 * time.Second}} {
		t.Run(fmt.Sprintf("%s, away for %s", row.over, row.away), func(t *testing.T) {
			t.Parallel()
			killAndRestart(t, row.over, row.away)
		})
	}
}

func killAndRestart(t *testing.T, over client.Transport, away time.Duration) {
	target := echo(t)
	_, key := newClient(t)
	g := launchGateway(t, allowEcho, key)
	at, err := uri.Parse(g.uri)
	if err != nil {
		t.Fatal(err)
	}
	s, err := client.Dial(t.Context(), client.Config{Gateway: at, Identity: key, Transport: over, Keys: new(client.KeyCache)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	conn, err := s.DialContext(t.Context(), "udp", target)
	if err != nil {
		t.Fatal(err)
	}
	ask(t, conn, []byte("a datagram before the gateway is killed"))
	_ = conn.SetReadDeadline(time.Time{})

	if err := g.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-g.done
	echoed := make(chan time.Time, 1)
	stop := make(chan struct{})
	defer close(stop)
	go func() { // as an application that notices nothing but loss
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			if _, err := fmt.Fprintf(conn, "a datagram while it is away, number %d", n); err != nil {
				return
			}
		}
	}()
	go func() {
		if _, err := conn.Read(make([]byte, 100)); err == nil {
			echoed <- time.Now()
		}
	}()
	time.Sleep(away)
	select {
	case <-echoed:
		t.Fatal("an echo without a gateway")
	default:
	}
	writeFile(t, filepath.Join(g.dir, "again.toml"), fmt.Sprintf("state_dir = %q\n[listen]\naddresses = [\"127.0.0.1\"]\nport = %d\n[tcp]\nport = %d\n", g.dir, at.Port, at.PortForTCP())+allowEcho, 0o600)
	again := launch(t, environment(g.dir), "gateway", "--config", filepath.Join(g.dir, "again.toml"))
	again.awaitLine(g.uri)
	ready := time.Now()
	select {
	case back := <-echoed:
		t.Logf("echoes again %s after the gateway was ready", back.Sub(ready))
	case <-time.After(patience):
		t.Fatal("no echo any more: ", s.Info().Down)
	}
	want := client.UDP
	if over == client.TCP {
		want = client.TCP
	}
	if info := s.Info(); info.Transport != want || s.Stats().Reconnects == 0 {
		t.Errorf("over %s after %d new sessions", info.Transport, s.Stats().Reconnects)
	}
}

// cut is a way for datagrams to a gateway that can be cut, and mended.
type cut struct {
	addr string
	open atomic.Bool
}

// wayTo relays datagrams to a gateway, each source from a socket of its own.
func wayTo(t *testing.T, gateway string) *cut {
	t.Helper()
	listener, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &cut{addr: listener.LocalAddr().String()}
	w.open.Store(true)
	var out, back sync.WaitGroup
	onward := make(map[string]net.Conn)
	out.Go(func() {
		buffer := make([]byte, 1<<16)
		for {
			n, from, err := listener.ReadFrom(buffer)
			if err != nil {
				return
			}
			if !w.open.Load() {
				continue
			}
			conn := onward[from.String()]
			if conn == nil {
				if conn, err = net.Dial("udp", gateway); err != nil {
					t.Error(err)
					return
				}
				onward[from.String()] = conn
				back.Go(func() {
					buffer := make([]byte, 1<<16)
					for {
						n, err := conn.Read(buffer)
						if errors.Is(err, net.ErrClosed) {
							return
						}
						if err == nil && w.open.Load() {
							_, _ = listener.WriteTo(buffer[:n], from) // lost where nobody is there any more
						}
					}
				})
			}
			_, _ = conn.Write(buffer[:n])
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		out.Wait()
		for _, conn := range onward {
			_ = conn.Close()
		}
		back.Wait()
	})
	return w
}

// echoes sends a datagram each 10 ms and notes when the echo of each came.
type echoes struct {
	mu   sync.Mutex
	last time.Time // when one came
	came int
}

func (e *echoes) run(t *testing.T, conn net.Conn) {
	stop := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
			if _, err := conn.Write([]byte("a datagram, and its echo")); err != nil {
				return
			}
		}
	})
	running.Go(func() {
		for {
			if _, err := conn.Read(make([]byte, 100)); err != nil {
				return
			}
			e.mu.Lock()
			e.last = time.Now()
			e.came++
			e.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		close(stop)
		_ = conn.Close()
		running.Wait()
	})
}

// after waits for an echo after a time, and returns how much later it came.
func (e *echoes) after(t *testing.T, since time.Time) time.Duration {
	t.Helper()
	for end := time.Now().Add(2 * patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		e.mu.Lock()
		last := e.last
		e.mu.Unlock()
		if last.After(since) {
			return last.Sub(since)
		}
	}
	t.Fatal("no echo any more")
	return 0
}

// more waits for n further echoes.
func (e *echoes) more(t *testing.T, n int) {
	t.Helper()
	e.mu.Lock()
	want := e.came + n
	e.mu.Unlock()
	for end := time.Now().Add(2 * patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		e.mu.Lock()
		came := e.came
		e.mu.Unlock()
		if came >= want {
			return
		}
	}
	t.Fatalf("fewer than %d echoes", n)
}

// TestTransportsChange cuts UDP under a session with a real gateway and restores it: the same
// session continues over TCP, and then over UDP.
//
// Shows R10.10.
func TestTransportsChange(t *testing.T) {
	t.Parallel()
	target := echo(t)
	_, key := newClient(t)
	g := launchGateway(t, allowEcho, key)
	at, err := uri.Parse(g.uri)
	if err != nil {
		t.Fatal(err)
	}
	address, _ := g.address()
	way := wayTo(t, address)
	port := netip.MustParseAddrPort(way.addr).Port()
	at.TCPPort, at.Port = at.PortForTCP(), port
	changes := make(chan client.Event, 16)
	s, err := client.Dial(t.Context(), client.Config{Gateway: at, Identity: key, Keys: new(client.KeyCache), OnEvent: func(e client.Event) {
		if e.Kind != client.Connected {
			changes <- e
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	conn, err := s.DialContext(t.Context(), "udp", target)
	if err != nil {
		t.Fatal(err)
	}
	var e echoes
	e.run(t, conn)
	e.after(t, time.Now())
	handle := s.Info().Handle
	next := func(to client.Transport, since time.Time) time.Duration {
		t.Helper()
		select {
		case change := <-changes:
			if change.Kind != client.PathChanged || change.To != to {
				t.Fatalf("event: %+v", change)
			}
			t.Logf("%s to %s after %s: %s", change.From, change.To, time.Since(since), change.Reason)
		case <-time.After(2 * patience):
			t.Fatalf("still over %s", s.Info().Transport)
		}
		return time.Since(since)
	}
	began := time.Now()
	way.open.Store(false)
	next(client.TCP, began)
	e.more(t, 50)
	began = time.Now()
	way.open.Store(true)
	next(client.UDP, began)
	e.more(t, 100)
	if s.Info().Handle != handle || s.Stats().Reconnects != 0 {
		t.Error("the client made another session")
	}
}
