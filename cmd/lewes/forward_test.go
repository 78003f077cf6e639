//go:build unix

package main

import (
	"bytes"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/transport/client"
)

// ask sends a datagram and compares the echo. It asks again where none comes: a
// datagram may be lost while a session is made anew.
func ask(t *testing.T, conn net.Conn, question []byte) {
	t.Helper()
	buffer := make([]byte, 1<<16)
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if _, err := conn.Write(question); err != nil {
			t.Fatal(err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(buffer)
		if err == nil && bytes.Equal(buffer[:n], question) {
			return
		}
	}
	t.Fatalf("no echo of %q within %v", question, patience)
}

// readyForward is the line that forward prints with --json.
type readyForward struct {
	Gateway  string
	Via      []string
	Mappings []struct{ Local, Target string }
}

// launchForward starts a forward and waits until it is ready.
func launchForward(t *testing.T, env []string, args ...string) (*process, readyForward) {
	t.Helper()
	p := launch(t, env, append([]string{"forward", "--json"}, args...)...)
	var ready readyForward
	parseJSON(t, p.awaitLine("{"), &ready)
	return p, ready
}

func TestForward(t *testing.T) {
	first, second := echo(t), echo(t)
	file, key := newClient(t)
	g := launchGateway(t, allowEcho, key)
	dir := t.TempDir()
	p, ready := launchForward(t, environment(dir), "--gateway", g.uri, "--identity", file, "0="+first, "127.0.0.1:0="+second)
	if ready.Gateway != g.uri || len(ready.Mappings) != 2 || ready.Mappings[0].Target != first || ready.Mappings[1].Target != second {
		t.Fatalf("it says %+v", ready)
	}
	// Several mappings, several peers each, at once; nobody gets another's answer.
	var peers sync.WaitGroup
	for m, mapping := range ready.Mappings {
		for i := range 8 {
			conn := localSocket(t, mapping.Local)
			peers.Go(func() {
				for n := range 20 {
					ask(t, conn, fmt.Appendf(nil, "mapping %d, peer %d, datagram %d%s", m, i, n, strings.Repeat("x", 50*n)))
				}
			})
		}
	}
	peers.Wait()
	ask(t, localSocket(t, ready.Mappings[0].Local), nil) // an empty datagram is one, too

	if code := p.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// TestForwardThroughEntry goes through two gateways, each with an identity of the
// client's of its own.
func TestForwardThroughEntry(t *testing.T) {
	t.Parallel()
	target := echo(t)
	file, key := newClient(t)
	viaFile, viaKey := newClient(t)
	exit := launchGateway(t, allowEcho, key)
	entry := launchGateway(t, fmt.Sprintf("[[gateway]]\nuri = %q\n", exit.uri), viaKey)
	through := func(more ...string) {
		t.Helper()
		p, ready := launchForward(t, environment(t.TempDir()), append(more, "--gateway", exit.uri, "--via", entry.uri, "--identity", file, "0="+target)...)
		if len(ready.Via) != 1 || ready.Via[0] != entry.uri {
			t.Errorf("it says %+v", ready)
		}
		ask(t, localSocket(t, ready.Mappings[0].Local), []byte("through two"))
		if code := p.end(); code != exitOK {
			t.Errorf("exit code %d", code)
		}
	}
	through("--via-identity", viaFile)

	derived := strings.TrimSpace(mustLewes(t, nil, "keygen", "--show", "--for", entry.uri, file))
	if want := key.ForEntry(viaKey.Public()).Public().String(); derived == want || derived == key.Public().String() {
		t.Errorf("for another entry: %s", derived)
	}
	public, err := identity.ParsePublicKey(derived)
	if err != nil {
		t.Fatal(err)
	}
	entry.list(public)
	through()

	entry.list(key.Public())
	mustLewes(t, environment(entry.dir), "clients", "remove", "--state", entry.dir, derived)
	through("--via-identity", "same")

	if _, port, err := net.SplitHostPort(target); err != nil {
		t.Error(err)
	} else {
		hasNot(t, entry.stderr(), ":"+port)
	}
}

// TestForwardWaitsForBothLists: the newcomer's first use of a chain, by the lines that forward and the
// gateways print.
func TestForwardWaitsForBothLists(t *testing.T) {
	t.Parallel()
	target := echo(t)
	exit := launchGateway(t, allowEcho)
	entry := launchGateway(t, fmt.Sprintf("[[gateway]]\nuri = %q\n", exit.uri))
	dir := t.TempDir()
	p := launch(t, environment(dir), "forward", "--gateway", exit.uri, "--via", entry.uri, "--timeout", "2s", "0="+target)
	p.awaitLog("Waiting to be admitted")
	// addLine runs the command that forward prints for a gateway.
	addLine := func(g *runningGateway, role string) {
		t.Helper()
		address, _ := g.address()
		var found []string
		for line := range strings.Lines(p.stderr()) {
			if command, ok := strings.CutSuffix(strings.TrimSpace(line), "   # at the "+role+" "+address); ok {
				found = strings.Fields(command)
			}
		}
		if len(found) < 4 {
			t.Fatalf("no command for the %s", role)
		}
		mustLewes(t, environment(g.dir), append([]string{"clients", "--state", g.dir}, found[2:]...)...)
		// The gateway has logged the same identity.
		g.awaitLog("lewes clients add --file " + filepath.Join(g.dir, "clients") + " " + found[3])
	}
	addLine(entry, "entry")
	exit.awaitLog("only if you know this identity")
	addLine(exit, "exit")
	ready := p.awaitLine("ready: 127.0.0.1:")
	has(t, ready, "through entry ")
	stderr := p.stderr()
	if n := strings.Count(stderr, "Waiting to be admitted"); n != 1 {
		t.Errorf("it says %d times that it waits", n)
	}
	for _, g := range []*runningGateway{entry, exit} {
		if n := strings.Count(g.stderr(), "refused a client"); n != 1 {
			t.Errorf("a gateway logs one client %d times", n)
		}
		has(t, g.stderr(), "127.0.0.0/24")
	}
	if code := p.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// TestForwardEphemeral: a gateway that serves everyone needs no identity, and no file.
func TestForwardEphemeral(t *testing.T) {
	t.Parallel()
	target := echo(t)
	g := launchGateway(t, allowEcho+"[access]\nmode = \"open\"\n")
	has(t, g.uri, "access=open")
	dir := t.TempDir()
	args := []string{"--gateway", g.uri, "0=" + target}
	for _, more := range [][]string{nil, {"--identity", "ephemeral"}} {
		p, ready := launchForward(t, environment(dir), append(more, args...)...)
		ask(t, localSocket(t, ready.Mappings[0].Local), []byte("hello"))
		hasNot(t, p.stderr(), "Created")
		if code := p.end(); code != exitOK {
			t.Errorf("exit code %d", code)
		}
	}
	for _, more := range [][]string{nil, {"--identity", "ephemeral"}, {"--identity", "ephemeral", "--via-identity", "same"}} {
		mustLewes(t, environment(dir), append([]string{"probe", g.uri}, more...)...)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// TestForwardMakesAnIdentity on first use, says what the operator types, and uses it
// from then on.
func TestForwardMakesAnIdentity(t *testing.T) {
	t.Parallel()
	g := launchGateway(t, allowEcho)
	dir := t.TempDir()
	args := []string{"forward", "--gateway", g.uri, "--timeout", "1s", "0=" + echo(t)}
	waiting := launch(t, environment(dir), args...)
	waiting.awaitLog("Waiting to be admitted")
	public := strings.TrimSpace(mustLewes(t, environment(dir), "keygen", "--show"))
	line := "lewes clients add " + public + " "
	has(t, waiting.stderr(), "Created this client's identity", "The gateway's operator adds it with:", "\n  "+line)
	hasNot(t, waiting.stderr(), "no session with gateway") // it says once what to do
	if code := waiting.end(); code != exitOK {
		t.Errorf("exit code %d of one that waited", code)
	}

	waiting = launch(t, environment(dir), args...)
	waiting.awaitLog("Waiting to be admitted")
	has(t, waiting.stderr(), "no session with gateway", "a list does not name this client", "\n  "+line)
	hasNot(t, waiting.stderr(), "Created this client's identity")
	mustLewes(t, environment(g.dir), "clients", "add", "--state", g.dir, public)
	waiting.awaitLine("ready: 127.0.0.1:")
	if code := waiting.end(); code != exitOK {
		t.Errorf("exit code %d of one that was admitted", code)
	}
	p := launch(t, environment(dir), args...)
	line = p.awaitLine("ready: 127.0.0.1:")
	has(t, line, " to 127.0.0.1:", "through gateway 127.0.0.1:")
	hasNot(t, p.stderr(), "Created this client's identity")
	if code := p.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// TestForwardOutlivesItsGateway: the session is made anew with a gateway that was
// restarted.
func TestForwardOutlivesItsGateway(t *testing.T) {
	t.Parallel()
	target := echo(t)
	file, key := newClient(t)
	g := launchGateway(t, allowEcho, key)
	dir := g.dir
	p, ready := launchForward(t, environment(t.TempDir()), "--gateway", g.uri, "--identity", file, "0="+target)
	conn := localSocket(t, ready.Mappings[0].Local)
	ask(t, conn, []byte("before"))
	if code := g.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	p.awaitLog("reconnecting")

	_, port := g.address()
	before, _, _ := strings.Cut(g.uri, "?") // its TCP port will be another
	writeFile(t, filepath.Join(dir, "again.toml"), fmt.Sprintf("state_dir = %q\n[listen]\naddresses = [\"127.0.0.1\"]\nport = %s\n[tcp]\nport = 0\n", dir, port)+allowEcho, 0o600)
	launch(t, environment(dir), "gateway", "--config", filepath.Join(dir, "again.toml")).awaitLine(before)
	ask(t, conn, []byte("after"))
	has(t, p.stderr(), "reconnected")
	if code := p.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// TestForwardSaysWhatIsTooLarge, and goes on.
func TestForwardSaysWhatIsTooLarge(t *testing.T) {
	file, key := newClient(t)
	g := launchGateway(t, allowEcho, key)
	p, ready := launchForward(t, environment(t.TempDir()), "--gateway", g.uri, "--identity", file, "0="+echo(t))
	conn := localSocket(t, ready.Mappings[0].Local)
	if _, err := conn.Write(make([]byte, 2000)); err != nil {
		t.Fatal(err)
	}
	p.awaitLog("dropped a 2000-byte datagram for ")
	ask(t, conn, []byte("a small one"))
}

// TestForwardManyPeers has more local peers than a session has flows: the quietest
// give way, and come back.
func TestForwardManyPeers(t *testing.T) {
	file, key := newClient(t)
	g := launchGateway(t, allowEcho, key)
	_, ready := launchForward(t, environment(t.TempDir()), "--gateway", g.uri, "--identity", file, "0="+echo(t))
	var peers []net.Conn
	for i := range client.MaxFlows + 50 {
		conn := localSocket(t, ready.Mappings[0].Local)
		ask(t, conn, fmt.Appendf(nil, "peer %d", i))
		peers = append(peers, conn)
	}
	for i, conn := range peers[:50] {
		ask(t, conn, fmt.Appendf(nil, "peer %d again", i))
	}
}
