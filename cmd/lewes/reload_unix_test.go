//go:build unix

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"lewes/transport/client"
	"lewes/transport/uri"
)

// reload writes a gateway's configuration anew and has it read, until it says what.
func (g *runningGateway) reload(more, says string) {
	g.t.Helper()
	before := strings.Count(g.stderr(), says)
	file := filepath.Join(g.dir, "gateway.toml")
	writeFile(g.t, file, fmt.Sprintf("state_dir = %q\n", g.dir)+more, 0o600)
	g.signal(syscall.SIGHUP)
	g.await(says, func(_, stderr string) bool { return strings.Count(stderr, says) > before })
}

// TestReload changes a configuration under a gateway that serves: what can take effect
// does, what cannot is named, and the client's session goes on.
func TestReload(t *testing.T) {
	_, key := newClient(t)
	target := echo(t)
	g := launchGateway(t, allowEcho, key)
	s := dial(t, g.uri, key)
	conn, err := s.DialContext(t.Context(), "udp", target)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answered := func() bool {
		for range 5 {
			if _, err := conn.Write([]byte("x")); err != nil {
				return false
			}
			_ = conn.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := conn.Read(make([]byte, 10)); err == nil {
				return true
			}
		}
		return false
	}
	if !answered() {
		t.Fatal("no answer")
	}

	g.reload(loopbackListen+allowEcho+"[handshake]\nrate = 7.0\n[log]\nlevel = \"debug\"\n", "reloaded the configuration")
	has(t, g.stderr(), `"changed": ["log.level"], "needs_upgrade": ["handshake.rate"], "needs_restart": [], "sessions_closed": 0, "flows_closed": 0`)
	if !answered() {
		t.Error("no answer after a reload that has nothing to do with the flow")
	}

	const kept = "keeping the previous one"
	g.reload(loopbackListen+"[nonsense]\n", kept)
	g.reload("not TOML at all", kept)
	g.reload(loopbackListen+"[access]\nclients = \"/\"\n", kept)
	if n := strings.Count(g.stderr(), kept); n != 3 {
		t.Errorf("%d errors are logged, want one each", n)
	}
	if !answered() {
		t.Error("no answer after configurations that cannot be read")
	}

	g.reload(strings.Replace(loopbackListen, "port = 0", "port = 9", 1)+"[flows]\nmax = 1200\n", `"flows_closed": 1`)
	has(t, g.stderr(), `"changed": ["flows.max", "egress.allow", "log.level"], "needs_upgrade": [], "needs_restart": ["listen.port"]`)
	if answered() {
		t.Error("the target still answers, though the policy denies it")
	}
	if _, err := s.Ping(t.Context()); err != nil {
		t.Errorf("the session has ended: %v", err)
	}
	g.reload(loopbackListen+"[access]\nmode = \"open\"\n", "reloaded the configuration")
	_, stranger := newClient(t)
	if _, err := dial(t, g.uri, stranger).Ping(t.Context()); err != nil {
		t.Errorf("a stranger at a gateway that is open by now: %v", err)
	}
	g.reload(loopbackListen, `"sessions_closed": 1`)
	if code := g.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// TestReloadRemovesGateway removes the exit from an entry's configuration: the flow to it ends, although
// its session is open, and the session with the entry goes on.
func TestReloadRemovesGateway(t *testing.T) {
	_, key := newClient(t)
	exit := launchGateway(t, allowEcho, key)
	entry := launchGateway(t, fmt.Sprintf("[[gateway]]\nuri = %q\n", exit.uri), key)
	to, err := uri.Parse(exit.uri)
	if err != nil {
		t.Fatal(err)
	}
	via, err := uri.Parse(entry.uri)
	if err != nil {
		t.Fatal(err)
	}
	s, err := client.Dial(t.Context(), client.Config{Gateway: to, Via: []client.Gateway{via}, Identity: key, ViaIdentity: key, Keys: new(client.KeyCache), NoReconnect: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	entry.reload(loopbackListen, `"changed": ["gateway"], "needs_upgrade": [], "needs_restart": [], "sessions_closed": 0, "flows_closed": 1`)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := s.Ping(ctx); err == nil {
		t.Error("the exit answers through an entry that no longer knows it")
	}
}
