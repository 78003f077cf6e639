//go:build unix

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestSignalsWithinASecondAreOne sends signals in virtual time.
func TestSignalsWithinASecondAreOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signals, done, second := make(chan os.Signal), make(chan struct{}), make(chan os.Signal, 1)
		first := 0
		go func() { second <- awaitSecond(signals, done, func() { first++ }) }()
		for range 10 { // within 900 ms
			signals <- syscall.SIGTERM
			synctest.Wait()
			time.Sleep(90 * time.Millisecond)
		}
		signals <- os.Interrupt
		synctest.Wait()
		if first != 1 || len(second) != 0 {
			t.Fatalf("%d first signals, %d second ones", first, len(second))
		}
		time.Sleep(secondSignal - 900*time.Millisecond)
		signals <- os.Interrupt
		if s := <-second; s != os.Interrupt || first != 1 {
			t.Errorf("%v after %d first signals", s, first)
		}

		go func() { second <- awaitSecond(signals, done, func() {}) }()
		close(done)
		if s := <-second; s != nil {
			t.Errorf("%v without a signal", s)
		}
	})
}

// TestGatewayOutlivesItsLog: the reader of its output ends, and the gateway writes on.
func TestGatewayOutlivesItsLog(t *testing.T) {
	t.Parallel()
	g := launchGateway(t, "")
	g.closeOutput()
	// The reload logs that access is open before it opens it.
	writeFile(t, filepath.Join(g.dir, "gateway.toml"), fmt.Sprintf("state_dir = %q\n", g.dir)+loopbackListen+"[access]\nmode = \"open\"\n", 0o600)
	g.signal(syscall.SIGHUP)
	_, key := newClient(t)
	if _, err := dial(t, g.uri, key).Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if code := g.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// TestGatewayOutlivesFullLogDisk: standard output and error are on a full disk.
func TestGatewayOutlivesFullLogDisk(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip(err)
	}
	servesWithoutLog(t, `exec "$0" gateway --config "$1" >/dev/full 2>&1`)
}

// TestGatewayOutlivesStuckLogReader: the log is a pipe that is full and that nothing reads.
func TestGatewayOutlivesStuckLogReader(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := w.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 1<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the pipe is not full: %v", err)
	}
	servesWithoutLog(t, `exec "$0" gateway --config "$1" 2>&3`, w)
}

// servesWithoutLog starts a gateway whose log cannot be written. It has to serve a client, answer on its
// control socket and end as ever.
func servesWithoutLog(t *testing.T, script string, files ...*os.File) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "gateway.toml")
	writeFile(t, file, fmt.Sprintf("state_dir = %q\n", dir)+loopbackListen+"[access]\nmode = \"open\"\n", 0o600)
	cmd := exec.Command("sh", "-c", script, program, file)
	cmd.Env, cmd.ExtraFiles = environment(dir), files
	g := launchCommand(t, cmd)
	var status struct {
		URIs     []string `json:"uris"`
		Problems []string `json:"problems"`
	}
	timeout := time.After(patience)
	for len(status.URIs) == 0 {
		if text, _, code := lewes(t, environment(dir), "status", "--json", "--state", dir); code == exitOK {
			parseJSON(t, text, &status)
			continue
		}
		select {
		case <-g.done:
			t.Fatal("the gateway has ended")
		case <-timeout:
			t.Fatal("the gateway does not answer")
		case <-time.After(50 * time.Millisecond):
		}
	}
	if len(files) == 0 {
		has(t, strings.Join(status.Problems, "\n"), "the log cannot be written")
	}
	_, key := newClient(t)
	if _, err := dial(t, status.URIs[0], key).Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if code := g.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// TestGatewayStartsWithoutReader: nothing reads the URIs.
func TestGatewayStartsWithoutReader(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	defer w.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "gateway.toml")
	writeFile(t, file, fmt.Sprintf("state_dir = %q\n", dir)+loopbackListen, 0o600)
	cmd := exec.Command("sh", "-c", `exec "$0" gateway --config "$1" >&3`, program, file)
	cmd.Env, cmd.ExtraFiles = environment(dir), []*os.File{w}
	g := launchCommand(t, cmd)
	g.awaitLog("cannot print the URIs")
	g.awaitLog("  ready  ")
	if code := g.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// TestForwardOutlivesItsLog: the reader of its output ends, and forward writes on.
func TestForwardOutlivesItsLog(t *testing.T) {
	t.Parallel()
	file, key := newClient(t)
	g := launchGateway(t, allowEcho, key)
	p, ready := launchForward(t, environment(t.TempDir()), "--gateway", g.uri, "--identity", file, "0="+echo(t))
	conn := localSocket(t, ready.Mappings[0].Local)
	p.closeOutput()
	if _, err := conn.Write(make([]byte, 2000)); err != nil { // too large, which is logged
		t.Fatal(err)
	}
	ask(t, conn, []byte("a small one"))
	if code := p.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}

// TestForwardEndsWithItsTerminal: SIGHUP ends it as SIGTERM does, with its session closed.
func TestForwardEndsWithItsTerminal(t *testing.T) {
	if signal.Ignored(syscall.SIGHUP) {
		t.Skip("SIGHUP is ignored here, as under nohup, and so it is in the programs that this one starts")
	}
	t.Parallel()
	file, key := newClient(t)
	g := launchGateway(t, allowEcho+withMetrics, key)
	p, _ := launchForward(t, environment(t.TempDir()), "--gateway", g.uri, "--identity", file, "0="+echo(t))
	p.signal(syscall.SIGHUP)
	if code := p.wait(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	g.until("the session closed", func(f map[string]float64) bool { return f["lewes_sessions"] == 0 })
}

// TestForwardOutlivesItsTerminalWithNohup: a signal that was ignored at the start stays so.
func TestForwardOutlivesItsTerminalWithNohup(t *testing.T) {
	t.Parallel()
	file, key := newClient(t)
	g := launchGateway(t, allowEcho, key)
	target := echo(t)
	cmd := exec.Command("sh", "-c", `trap "" HUP; exec "$0" "$@"`, program, "forward", "--gateway", g.uri, "--identity", file, "0="+target)
	cmd.Env = environment(t.TempDir())
	p := launchCommand(t, cmd)
	local, _, _ := strings.Cut(strings.TrimPrefix(p.awaitLine("ready: "), "ready: "), " ")
	p.signal(syscall.SIGHUP)
	ask(t, localSocket(t, local), []byte("after the terminal"))
	if text, err := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/status"); err == nil { // on Linux
		_, mask, _ := strings.Cut(string(text), "SigIgn:\t")
		mask, _, _ = strings.Cut(mask, "\n")
		if ignored, err := strconv.ParseUint(mask, 16, 64); err != nil || ignored&(1<<(syscall.SIGHUP-1)) == 0 {
			t.Errorf("ignored signals %q, want SIGHUP among them", mask)
		}
	}
	if code := p.end(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
}
