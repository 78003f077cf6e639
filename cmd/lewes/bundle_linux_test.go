package main

import (
	"archive/tar"
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lewes/cmd/lewes/internal/gatewayd"
	"lewes/crypto/identity"
	"lewes/router/access"
	"lewes/transport/client"
	"lewes/transport/uri"
)

// unpack returns the files of an archive by their base names.
func unpack(t *testing.T, name string) map[string]string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[filepath.Base(h.Name)] = string(text)
	}
}

// TestBundleRevealsNothing plants a canary in each place that has a secret, an address, a name or a path.
func TestBundleRevealsNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "canarystate")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	_, key := newClient(t)
	other := identity.FromSeed(&[32]byte{7}).Public()
	if err := access.Add(filepath.Join(dir, "clients"), access.Entry{Identity: key.Public(), Name: "canaryclient", Comment: "canarycomment"}); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "gateway.toml")
	writeFile(t, config, fmt.Sprintf("public = [\"canarypublic.example\"]\nstate_dir = %q\n", dir)+loopbackListen+fmt.Sprintf(`
[egress]
deny = ["198.51.100.77/32"]
own = ["203.0.113.77"]
[[gateway]]
uri = "lewes://%s@canaryhost.invalid"
name = "canarygateway"
[control]
group = "canarygroup"
`, other), 0o600)
	p := launch(t, environment(dir), "gateway", "--config", config)
	g := &runningGateway{p, dir, p.awaitLine("lewes://")}
	g.awaitLog("  ready  ")
	address := g.listensOn()
	_, port, _ := net.SplitHostPort(address)
	at := g.parsed()
	at.Host = "127.0.0.1"
	s, err := client.Dial(t.Context(), client.Config{Gateway: at, Identity: key, NoReconnect: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	conn, err := s.DialContext(t.Context(), "udp", "198.51.100.77:7")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Fatal("the denied target answers")
	}
	strangerFile, stranger := newClient(t)
	fails(t, environment(t.TempDir()), exitFailed, "probe", "--identity", strangerFile, "--timeout", "1s", at.String())

	first, second := filepath.Join(t.TempDir(), "a.tar.gz"), filepath.Join(t.TempDir(), "b.tar.gz")
	env := environment(t.TempDir())
	has(t, mustLewes(t, env, "bundle", "--dry-run", "-o", first, "--config", config), "contents:", "status.json", "config.json")
	if _, err := os.Stat(first); err == nil {
		t.Error("--dry-run writes")
	}
	text := mustLewes(t, env, "bundle", "-o", first, "--config", config)
	has(t, text, "metrics.txt", "wrote "+first)
	if strings.Index(text, "contents:") > strings.Index(text, "wrote ") {
		t.Errorf("the contents are listed after writing: %s", text)
	}
	mustLewes(t, env, "bundle", "-o", second, "--config", config)
	fails(t, env, exitFailed, "bundle", "-o", second, "--config", config) // replaces nothing
	if info, err := os.Stat(first); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}

	gatewayKey, err := os.ReadFile(filepath.Join(dir, "identity"))
	if err != nil {
		t.Fatal(err)
	}
	handle := s.Info().Handle
	canaries := []string{"canary", "198.51.100.77", "203.0.113.77", "127.0.0.1", ":" + port, "PRIVATE KEY", strings.Split(string(gatewayKey), "\n")[1], hex.EncodeToString(handle[:]), dir}
	for _, id := range []identity.PublicKey{key.Public(), stranger.Public(), other, at.Identity} {
		canaries = append(canaries, id.String(), hex.EncodeToString(id[:]))
	}
	files := unpack(t, first)
	if len(files) != 5 {
		t.Errorf("%d files", len(files))
	}
	for name, text := range files {
		for _, c := range canaries {
			if strings.Contains(text, c) {
				t.Errorf("%s has %q: %s", name, c, text)
			}
		}
	}

	// What it is for is in it.
	var a, b bundledClients
	parseJSON(t, files["clients.json"], &a)
	parseJSON(t, unpack(t, second)["clients.json"], &b)
	if len(a.Sessions) != 1 || len(a.Unlisted) != 1 || len(b.Sessions) != 1 || a.Sessions[0].Address != "127.0.0.x" || a.Sessions[0].Client == b.Sessions[0].Client {
		t.Errorf("clients %+v, in another bundle %+v", a, b)
	}
	var status bundledStatus
	parseJSON(t, files["status.json"], &status)
	if status.Sessions != 1 || len(status.Sockets) == 0 || len(status.Refusals) == 0 || status.Build.Go == "" || len(status.Directory) != 1 {
		t.Errorf("status %+v", status)
	}
	has(t, files["metrics.txt"], "lewes_build_info{", "\nlewes_sessions 1\n")
	var keys map[string]any
	if err := json.Unmarshal([]byte(files["config.json"]), &keys); err != nil {
		t.Fatal(err)
	}
	if keys["access.mode"] != "listed" || keys["control.group"] != "(set)" || keys["identity"] != "(not set)" || keys["gateway"] != "(1)" || keys["egress.deny"] != "(1)" {
		t.Errorf("configuration %v", keys)
	}
	for _, k := range harmlessKeys {
		if _, ok := keys[k]; !ok {
			t.Errorf("the configuration has no key %s", k)
		}
	}
	has(t, files["doctor.json"], "GSO")
}

// parsed returns the gateway's URI.
func (g *runningGateway) parsed() uri.Gateway {
	g.t.Helper()
	at, err := uri.Parse(g.uri)
	if err != nil {
		g.t.Fatal(err)
	}
	return at
}

// listensOn returns the UDP address that a gateway listens on, from its status.
func (g *runningGateway) listensOn() string {
	g.t.Helper()
	var s gatewayd.Status
	parseJSON(g.t, g.control("status", "--json"), &s)
	return s.Sockets[0].Listen
}
