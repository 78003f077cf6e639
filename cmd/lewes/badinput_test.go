//go:build unix

package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lewes/cmd/lewes/internal/config"
	"lewes/crypto/identity"
	"lewes/router"
	"lewes/router/gatewaytest"
	"lewes/transport/client"
)

// silent returns the address of a socket that takes datagrams and never answers.
func silent(t *testing.T) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.LocalAddr().String()
}

// unused returns an address on which nothing listens.
func unused(t *testing.T) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.LocalAddr().String()
}

// reachArgs are what probe and forward have in common in the tests below.
func reachArgs(command, file, gateway string) []string {
	args := []string{command, "--identity", file, "--timeout", "1500ms"}
	if command == "forward" {
		return append(args, "--gateway", gateway, "0=9.9.9.9:53")
	}
	return append(args, gateway)
}

// TestCannotConnect tells each way of not reaching a gateway from the others, with
// both commands that try to.
func TestCannotConnect(t *testing.T) {
	t.Parallel()
	file, key := newClient(t)
	g := launchGateway(t, "", key)
	address, _ := g.address()
	other := identity.FromSeed(&[32]byte{9}).Public().String()
	down, mute := unused(t), silent(t)
	for _, row := range []struct {
		name, gateway string
		want          []string
	}{
		{"wrong identity in the URI", "lewes://" + other + "@" + address,
			[]string{"no session with gateway " + address, "no answer within 1.", "another identity than the one in the URI answers at this address"}},
		{"gateway down", "lewes://" + other + "@" + down,
			[]string{"no session with gateway " + down, "likely cause: nothing listens on port"}},
		{"UDP silently dropped", "lewes://" + other + "@" + mute,
			[]string{"no session with gateway " + mute, "no answer within 1.", "UDP is blocked on the way"}},
		{"name that does not resolve", "lewes://" + other + "@does-not-resolve.invalid",
			[]string{"does-not-resolve.invalid", "check the URI"}},
	} {
		for _, command := range []string{"probe", "forward"} {
			t.Run(row.name+", "+command, func(t *testing.T) {
				t.Parallel()
				sentence := fails(t, environment(t.TempDir()), exitFailed, reachArgs(command, file, row.gateway)...)
				has(t, sentence, row.want...)
				if strings.Count(sentence, "\n") > 5 {
					t.Errorf("more than a line per cause: %s", sentence)
				}
			})
		}
	}
}

// TestClockOff runs the program against gateways whose clock is an hour ahead. One
// with the usual tolerance is content with a client that goes by the gateway's clock
// for the handshake (R2.12); one that takes no difference at all is not, and then the
// client says what both clocks show.
func TestClockOff(t *testing.T) {
	t.Parallel()
	file, key := newClient(t)
	ahead := time.Hour
	start := func(t *testing.T, tolerance time.Duration) string {
		return gatewaytest.Start(t, gatewaytest.Options{Clients: []identity.PublicKey{key.Public()}, Config: func(c *router.Config) {
			c.Tolerance = tolerance
			c.Clock = func() time.Time { return time.Now().Add(ahead) }
		}}).URI.String()
	}
	t.Run("content", func(t *testing.T) {
		mustLewes(t, environment(t.TempDir()), reachArgs("probe", file, start(t, 30*time.Second))...)
	})
	for _, command := range []string{"probe", "forward"} {
		t.Run("strict, "+command, func(t *testing.T) {
			gateway := start(t, time.Nanosecond)
			before := time.Now().UTC()
			sentence := fails(t, environment(t.TempDir()), exitFailed, reachArgs(command, file, gateway)...)
			after := time.Now().UTC()
			var here, there time.Time
			for at := before.Truncate(time.Second); !at.After(after); at = at.Add(time.Second) {
				if strings.Contains(sentence, "it is "+at.Format(time.RFC3339)+" here") {
					here = at
				}
				if strings.Contains(sentence, at.Add(ahead).Format(time.RFC3339)+" at the gateway") {
					there = at.Add(ahead)
				}
			}
			if here.IsZero() || there.IsZero() || there.Sub(here) < ahead-2*time.Second || there.Sub(here) > ahead+2*time.Second {
				t.Errorf("it does not give both clocks: %s", sentence)
			}
			has(t, sentence, "the gateway refuses this machine's clock", "set the clock")
		})
	}
}

func TestPortTaken(t *testing.T) {
	taken, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	address := taken.LocalAddr().String()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("gateway", func(t *testing.T) {
		dir := t.TempDir()
		file := filepath.Join(dir, "gateway.toml")
		writeFile(t, file, fmt.Sprintf("state_dir = %q\n[listen]\naddresses = [\"127.0.0.1\"]\nport = %s\n[tcp]\nport = 0\n", dir, port), 0o600)
		has(t, fails(t, environment(dir), exitFailed, "gateway", "--config", file), "bind "+address, "the port is in use", "choose another port")
	})
	t.Run("gateway, by another gateway", func(t *testing.T) {
		first := launchGateway(t, "")
		_, port := first.address()
		dir := t.TempDir()
		file := filepath.Join(dir, "gateway.toml")
		writeFile(t, file, fmt.Sprintf("state_dir = %q\n[listen]\naddresses = [\"127.0.0.1\"]\nport = %s\n[tcp]\nport = 0\n", dir, port), 0o600)
		has(t, fails(t, environment(dir), exitFailed, "gateway", "--config", file), "another gateway?")
	})
	t.Run("gateway, TCP", func(t *testing.T) {
		taken, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		dir := t.TempDir()
		file := filepath.Join(dir, "gateway.toml")
		writeFile(t, file, fmt.Sprintf("state_dir = %q\n[listen]\naddresses = [\"127.0.0.1\"]\nport = 0\n[tcp]\nport = %d\n", dir, taken.Addr().(*net.TCPAddr).Port), 0o600)
		g := launch(t, environment(dir), "gateway", "--config", file)
		if uri := g.awaitLine("lewes://"); strings.Contains(uri, "?tcp=") {
			t.Errorf("the URI %s names a port that is not served", uri)
		}
		g.awaitLog("  ready  ")
		has(t, g.stderr(), "cannot serve TCP", "bind "+taken.Addr().String(), "the port is in use")
	})
	t.Run("forward", func(t *testing.T) {
		file, _ := newClient(t)
		gateway := "lewes://" + identity.FromSeed(&[32]byte{9}).Public().String() + "@" + silent(t)
		sentence := fails(t, environment(t.TempDir()), exitFailed, "forward", "--identity", file, "--gateway", gateway, port+"=9.9.9.9:53")
		has(t, sentence, "listen for 9.9.9.9:53", "bind "+address, "the port is in use", "choose another port")
	})
}

// TestBadKeys: whoever needs a key says what is wrong with the file.
func TestBadKeys(t *testing.T) {
	gateway := "lewes://" + identity.FromSeed(&[32]byte{9}).Public().String() + "@" + silent(t)
	// Each returns the path of a bad key file, and what is to be said about it.
	kinds := []struct {
		name string
		make func(t *testing.T, path string)
		want []string
	}{
		{"world-readable", func(t *testing.T, path string) {
			if _, err := config.CreateIdentity(path); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, 0o644); err != nil {
				t.Fatal(err)
			}
		}, []string{"has mode 0644", "others can read or write it", "run: chmod 600 "}},
		{"unreadable", func(t *testing.T, path string) {
			if os.Geteuid() == 0 { // may read everything but this
				if err := os.Mkdir(path, 0o700); err != nil {
					t.Fatal(err)
				}
				return
			}
			writeFile(t, path, "key", 0o000)
		}, []string{"identity: "}},
		{"no key", func(t *testing.T, path string) { writeFile(t, path, "key", 0o600) },
			[]string{"not an Ed25519 private key in PKCS#8 PEM", "restore a backup of it", "make a new one with lewes keygen"}},
		{"missing", func(*testing.T, string) {}, []string{"no key file", "make one with lewes keygen"}},
	}
	for _, kind := range kinds {
		t.Run(kind.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "the.key")
			kind.make(t, path)
			config := filepath.Join(dir, "gateway.toml")
			writeFile(t, config, fmt.Sprintf("identity = %q\nstate_dir = %q\n", path, dir)+loopbackListen, 0o600)
			for _, args := range [][]string{
				{"gateway", "--config", config},
				reachArgs("probe", path, gateway),
				reachArgs("forward", path, gateway),
				{"keygen", "--show", path},
			} {
				has(t, fails(t, environment(dir), exitFailed, args...), append(kind.want, path)...)
			}
		})
	}
}

func TestUnknownConfigurationKey(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "gateway.toml")
	writeFile(t, file, "[session]\nrekey_afer = \"1m\"\n", 0o600)
	for _, args := range [][]string{{"gateway", "--config", file}, {"config", "check", file}, {"clients", "list", "--config", file}} {
		has(t, fails(t, environment(dir), exitFailed, args...), file, "line 2", "rekey_afer", "did you mean session.rekey_after?")
	}
}

// TestRefusedTargets: what the gateway says about a target reaches the user.
func TestRefusedTargets(t *testing.T) {
	file, key := newClient(t)
	g := launchGateway(t, "", key)
	env := environment(t.TempDir())
	refused := []string{"gateway policy denies 10.1.2.3:53", "it is a private address (10.0.0.0/8)", "ask the gateway's operator to allow it", "choose another target"}
	t.Run("policy, probe", func(t *testing.T) {
		has(t, fails(t, env, exitFailed, "probe", "--identity", file, "--target", "10.1.2.3:53", g.uri), refused...)
	})
	t.Run("policy, forward", func(t *testing.T) {
		p, ready := launchForward(t, env, "--identity", file, "--gateway", g.uri, "0=10.1.2.3:53")
		if _, err := localSocket(t, ready.Mappings[0].Local).Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
		if code := p.wait(); code != exitFailed {
			t.Errorf("exit code %d", code)
		}
		has(t, p.stderr(), refused...)
	})
	// One mapping of two: the other goes on.
	t.Run("policy, one of two", func(t *testing.T) {
		p, ready := launchForward(t, env, "--identity", file, "--gateway", g.uri, "0=10.1.2.3:53", "0=10.1.2.4:53")
		if _, err := localSocket(t, ready.Mappings[0].Local).Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
		p.awaitLog("denies 10.1.2.3:53")
		if _, err := localSocket(t, ready.Mappings[1].Local).Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
		if code := p.wait(); code != exitFailed {
			t.Errorf("exit code %d", code)
		}
		has(t, p.stderr(), "denies 10.1.2.4:53")
	})
	unresolved := []string{"gateway found no address for does-not-resolve.invalid:53"}
	t.Run("name, probe", func(t *testing.T) {
		has(t, fails(t, env, exitFailed, "probe", "--identity", file, "--target", "does-not-resolve.invalid:53", g.uri), append(unresolved, "choose another target")...)
	})
	t.Run("name, forward", func(t *testing.T) {
		p, ready := launchForward(t, env, "--identity", file, "--gateway", g.uri, "0=does-not-resolve.invalid:53")
		if _, err := localSocket(t, ready.Mappings[0].Local).Write([]byte("question")); err != nil {
			t.Fatal(err)
		}
		p.awaitLog(unresolved[0])
		if code := p.end(); code != exitOK { // the name may come to be
			t.Errorf("exit code %d", code)
		}
	})
	t.Run("entry without a directory", func(t *testing.T) {
		other := identity.FromSeed(&[32]byte{9}).Public().String()
		has(t, fails(t, env, exitFailed, "probe", "--identity", file, "--via-identity", "same", "--via", g.uri, "lewes://"+other+"@gw.example"),
			"entry does not forward", other, "is not in its directory")
	})
}

// TestRemedyFitsTheReason: only the target or the policy is a reason to choose another target.
func TestRemedyFitsTheReason(t *testing.T) {
	for reason, remedy := range map[client.FlowReason]string{
		client.ReasonPolicy:      "choose another target",
		client.ReasonUnreachable: "choose another target",
		client.ReasonLimit:       "try again later",
		client.ReasonBandwidth:   "lewes register --mode balance",
	} {
		err := withRemedy(&client.FlowError{Target: "192.0.2.7:53", Reason: reason, Detail: "the gateway is out of local ports"}, &client.Config{})
		has(t, err.Error(), remedy, "out of local ports")
		if remedy != "choose another target" && strings.Contains(err.Error(), "choose another target") {
			t.Errorf("%v", err)
		}
	}
}
