//go:build unix

package main

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lewes/transport/client"
	"lewes/transport/path"
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
			parseJSON(t, mustLewes(t, env, "probe", "--json", "--identity", file, "--transport", row.flag, "--target", target, row.uri), &r)
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
	has(t, stderr, "over UDP: nobody there proved", fmt.Sprintf("over TCP, port %d: ", blocked.TCPPort), "nothing listens on port")
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

// TestKillAndRestart kills a gateway with a client on it, starts it again after a
// while, and measures how long its client needs from then on: less than a second.
func TestKillAndRestart(t *testing.T) {
	for _, row := range []struct {
		over client.Transport
		away time.Duration
	}{{client.UDP, 0}, {client.UDP, 12 * time.Second}, {client.TCP, 2 * time.Second}} {
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
		took := back.Sub(ready)
		t.Logf("echoes again %s after the gateway was ready", took)
		if took >= time.Second {
			t.Errorf("the client needed %s", took)
		}
	case <-time.After(patience):
		t.Fatal("no echo any more: ", s.Info().Down)
	}
	want := path.UDP
	if over == client.TCP {
		want = path.TCP
	}
	if info := s.Info(); info.Transport != want || s.Stats().Reconnects != 1 {
		t.Errorf("over %s after %d new sessions", info.Transport, s.Stats().Reconnects)
	}
}
