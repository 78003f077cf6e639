package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"lewes/cmd/lewes/internal/config"
	"lewes/cmd/lewes/internal/gatewayd"
)

// metricsAddress returns where a gateway serves metrics, or an empty string.
func (g *runningGateway) metricsAddress() string {
	g.t.Helper()
	var s gatewayd.Status
	parseJSON(g.t, g.control("status", "--json"), &s)
	return strings.TrimSuffix(strings.TrimPrefix(s.Metrics, "http://"), "/metrics")
}

// get requests a path of the metrics address.
func (g *runningGateway) get(path string) (code int, text string) {
	g.t.Helper()
	answer, err := http.Get("http://" + g.metricsAddress() + path)
	if err != nil {
		g.t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

// TestDefaultMetricsAddress starts gateways without [metrics]: the first has the default address, the
// second warns and works without.
func TestDefaultMetricsAddress(t *testing.T) {
	if l, err := net.Listen("tcp", config.DefaultMetrics); err != nil {
		t.Skipf("%s is in use on this machine: %v", config.DefaultMetrics, err)
	} else {
		_ = l.Close()
	}
	u := launchUpgradable(t, "")
	first := &runningGateway{u.process, filepath.Dir(u.config), u.uri}
	if first.metricsAddress() != config.DefaultMetrics {
		t.Skip("another program has taken the address in the meantime")
	}
	second := launchGateway(t, "")
	if n := strings.Count(second.stderr(), "no metrics: cannot listen on their address"); n != 1 {
		t.Errorf("%d warnings:\n%s", n, second.stderr())
	}
	has(t, second.control("status"), `metrics.listen "127.0.0.1:9264": `, "address already in use")
	mustLewes(t, environment(second.dir), "status", "--ready", "--state", second.dir)
	if second.end() != exitOK {
		t.Error("the second gateway failed")
	}

	// The successor has the same socket: a connection made before it serves waits in its queue.
	u.upgrade()
	if code, _ := first.get("/livez"); code != http.StatusOK || first.metricsAddress() != config.DefaultMetrics {
		t.Errorf("after an upgrade: %d", code)
	}
}

// TestConfiguredMetricsAddressTaken refuses to start where the configured address is in use, unless
// metrics are not required.
func TestConfiguredMetricsAddressTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	section := fmt.Sprintf("[metrics]\nlisten = %q\n", taken.Addr())
	g := launchGateway(t, section+"required = false\n")
	has(t, g.stderr(), "no metrics: cannot listen on their address")
	has(t, g.control("status"), taken.Addr().String(), "address already in use")

	dir := t.TempDir()
	file := filepath.Join(dir, "gateway.toml")
	writeFile(t, file, fmt.Sprintf("state_dir = %q\n", dir)+loopbackListen+section, 0o600)
	p := launch(t, environment(dir), "gateway", "--config", file)
	if code := p.wait(); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	has(t, p.stderr(), "metrics.listen", "address already in use", "metrics.required")
	hasNot(t, p.stdout(), "lewes://")
}

// TestMetricsOff serves nothing with an empty address.
func TestMetricsOff(t *testing.T) {
	g := launchGateway(t, "[metrics]\nlisten = \"\"\n")
	hasNot(t, g.stderr(), "metrics")
	if at := g.metricsAddress(); at != "" {
		t.Error(at)
	}
}

// TestClientsListenNowhere shows that a forward command has no TCP socket that listens.
func TestClientsListenNowhere(t *testing.T) {
	file, key := newClient(t)
	g := launchGateway(t, "[metrics]\nlisten = \"\"\n", key)
	f := launch(t, environment(t.TempDir()), "forward", "--identity", file, "--gateway", g.uri, "0=127.0.0.1:9")
	f.awaitLine("ready: ")
	if n := listening(t, f.cmd.Process.Pid); n != 0 {
		t.Errorf("%d TCP sockets listen", n)
	}
	if n := listening(t, g.cmd.Process.Pid); n == 0 {
		t.Error("the gateway's own are not found")
	}
}

// TestHealth asks a gateway whether it is alive and ready, over HTTP, on the control socket and by the
// command for containers.
func TestHealth(t *testing.T) {
	g := launchGateway(t, withMetrics)
	check := func(wantCode int, wantReady bool, wantProblems ...string) {
		t.Helper()
		if code, text := g.get("/livez"); code != http.StatusOK || text != "ok\n" {
			t.Errorf("live: %d %q", code, text)
		}
		code, text := g.get("/readyz")
		onSocket, same := request(t, g.socket(), "GET", "/readyz", "")
		if code != wantCode || onSocket != code || same != text {
			t.Errorf("ready: %d %s, on the control socket %d %s", code, text, onSocket, same)
		}
		var r gatewayd.Readiness
		parseJSON(t, text, &r)
		var problems []string
		for _, p := range r.Problems {
			problems = append(problems, p.Code)
		}
		if r.Ready != wantReady || !strings.HasPrefix(strings.Join(problems, " "), strings.Join(wantProblems, " ")) {
			t.Errorf("%s", text)
		}
		stdout, stderr, exit := lewes(t, environment(g.dir), "status", "--ready", "--state", g.dir)
		if stdout != "" || (exit == exitOK) != wantReady || (stderr == "") != wantReady {
			t.Errorf("exit code %d: %s %s", exit, stdout, stderr)
		}
	}
	check(http.StatusOK, true, "no_clients")
	g.control("drain")
	check(http.StatusServiceUnavailable, false, "draining", "no_clients")
	g.control("drain", "--off")
	check(http.StatusOK, true, "no_clients")
	list := filepath.Join(g.dir, "clients")
	writeFile(t, list, "anna\n", 0o600)
	g.awaitLog("cannot reload the list of clients")
	check(http.StatusOK, true, "clients", "no_clients")
	if err := os.Remove(list); err != nil {
		t.Fatal(err)
	}
	g.awaitLog("reloaded the list of clients")
	check(http.StatusOK, true, "no_clients")
	if code, _ := g.get("/debug/pprof/"); code != http.StatusNotFound {
		t.Errorf("profiles: %d", code)
	}
	has(t, fails(t, environment(t.TempDir()), exitFailed, "status", "--ready", "--state", t.TempDir()), "no gateway is running here")
	fails(t, environment(g.dir), exitUsage, "status", "--ready", "--clients")
}

// TestExportedMetricsLint applies the rules of "promtool check metrics" to what a gateway exports, and
// promtool itself if it is installed.
func TestExportedMetricsLint(t *testing.T) {
	g := launchGateway(t, withMetrics)
	_, page := g.get("/metrics")
	has(t, page, "\nlewes_build_info{", "\ngo_goroutines ", "\nprocess_open_fds ", `lewes_flows_refused_total{reason="policy"} 0`)
	problems, err := promlint.New(strings.NewReader(page)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	check := exec.Command("promtool", "check", "metrics")
	check.Stdin = strings.NewReader(page)
	if out, err := check.CombinedOutput(); err != nil && !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("promtool: %v: %s", err, out)
	}
}

// listening returns the number of TCP sockets on which a process listens.
func listening(t *testing.T, pid int) (n int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("no descriptors: %v", err)
	}
	sockets := make(map[string]bool)
	for _, table := range []string{"tcp", "tcp6"} {
		content, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, table)) // there is no tcp6 without IPv6
		for line := range strings.Lines(string(content)) {
			if f := strings.Fields(line); len(f) > 9 && f[3] == "0A" { // TCP_LISTEN
				sockets["socket:["+f[9]+"]"] = true
			}
		}
	}
	for _, file := range files {
		buffer := make([]byte, 64)
		if size, err := syscall.Readlink(file, buffer); err == nil && sockets[string(buffer[:size])] {
			n++
		}
	}
	return n
}
