//go:build linux

package flood

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"lewes/transport/uri"
)

// gateway is a process of the real program.
type gateway struct {
	t    *testing.T
	uri  uri.Gateway
	cmd  *exec.Cmd
	done chan struct{}

	mu  sync.Mutex
	log bytes.Buffer // standard output and standard error
}

// where describes how a gateway is started.
type where struct {
	do    func(func() error) error // runs the start, in a namespace for example; nil: here
	wrap  []string                 // a program that starts it
	env   []string
	state string // its state folder; "": a new one
}

// startGateway starts a gateway with open access. config is appended to its configuration.
func startGateway(t *testing.T, w where, config string) *gateway {
	t.Helper()
	g, err := tryGateway(t, w, config)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// tryGateway is startGateway for a gateway that may fail to start.
func tryGateway(t *testing.T, w where, config string) (*gateway, error) {
	t.Helper()
	if w.state == "" {
		w.state = t.TempDir()
	}
	file := filepath.Join(t.TempDir(), "gateway.toml")
	if err := os.WriteFile(file, []byte(fmt.Sprintf("state_dir = %q\n", w.state)+"access.mode = \"open\"\n"+config), 0o600); err != nil {
		t.Fatal(err)
	}
	args := append(w.wrap, program, "gateway", "--config", file)
	g := &gateway{t: t, cmd: exec.Command(args[0], args[1:]...), done: make(chan struct{})}
	g.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.state}, w.env...)
	pipe, err := g.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	g.cmd.Stderr = g.cmd.Stdout
	if w.do == nil {
		w.do = func(f func() error) error { return f() }
	}
	if err := w.do(g.cmd.Start); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(g.done)
		for lines := bufio.NewReader(pipe); ; {
			line, err := lines.ReadBytes('\n')
			g.mu.Lock()
			g.log.Write(line)
			g.mu.Unlock()
			if err != nil {
				break
			}
		}
		_ = g.cmd.Wait() // the exit code is in ProcessState
	}()
	t.Cleanup(func() {
		g.kill()
		if t.Failed() {
			t.Logf("output of the gateway:\n%s", shorten(g.output()))
		}
	})
	for deadline := time.Now().Add(patience); !strings.Contains(g.output(), "  ready  "); time.Sleep(time.Millisecond) {
		select {
		case <-g.done:
			return g, fmt.Errorf("the gateway did not start: %s", g.output())
		default:
		}
		if time.Now().After(deadline) {
			return g, fmt.Errorf("the gateway is not ready: %s", g.output())
		}
	}
	for line := range strings.Lines(g.output()) {
		if strings.HasPrefix(line, "lewes://") {
			g.uri, err = uri.Parse(strings.TrimSpace(line))
			return g, err
		}
	}
	return g, fmt.Errorf("no URI in the output: %s", g.output())
}

// shorten keeps a long log readable.
func shorten(s string) string {
	const most = 8 << 10
	if len(s) <= most {
		return s
	}
	return s[:most/2] + "\n…\n" + s[len(s)-most/2:]
}

// output returns what the gateway has written to standard output and error so far.
func (g *gateway) output() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.log.String()
}

// kill ends the process with SIGKILL.
func (g *gateway) kill() {
	_ = g.cmd.Process.Kill() // it may have ended by itself
	<-g.done
}

// end stops the gateway by SIGTERM and checks its exit code.
func (g *gateway) end() {
	g.t.Helper()
	g.alive()
	if err := g.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		g.t.Fatal(err)
	}
	select {
	case <-g.done:
	case <-time.After(patience):
		g.t.Fatal("the gateway did not stop")
	}
	if code := g.cmd.ProcessState.ExitCode(); code != 0 {
		g.t.Errorf("the gateway ended with exit code %d", code)
	}
}

// alive fails the test if the gateway has exited or panicked.
func (g *gateway) alive() {
	g.t.Helper()
	select {
	case <-g.done:
		g.t.Fatal("the gateway exited")
	default:
	}
	for _, bad := range []string{"panic", "fatal error", "DATA RACE"} {
		if strings.Contains(g.output(), bad) {
			g.t.Fatalf("the gateway printed %q", bad)
		}
	}
}

// descriptors returns the number of open descriptors.
func (g *gateway) descriptors() int {
	g.t.Helper()
	entries, err := os.ReadDir("/proc/" + strconv.Itoa(g.cmd.Process.Pid) + "/fd")
	if err != nil {
		g.t.Fatal(err)
	}
	return len(entries)
}

// peakMemory returns the most resident memory that the process has had, in bytes.
func (g *gateway) peakMemory() int {
	g.t.Helper()
	status, err := os.ReadFile("/proc/" + strconv.Itoa(g.cmd.Process.Pid) + "/status")
	if err != nil {
		g.t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmHWM:" {
			if n, err := strconv.Atoi(f[1]); err == nil {
				return n << 10
			}
		}
	}
	g.t.Fatalf("no VmHWM in %s", status)
	return 0
}

// parseMetrics parses a metrics page into values by series name, labels included as written.
func parseMetrics(page string) map[string]float64 {
	all := make(map[string]float64)
	for line := range strings.Lines(page) {
		line = strings.TrimSpace(line)
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || line[0] == '#' {
			continue
		}
		if v, err := strconv.ParseFloat(line[at+1:], 64); err == nil {
			all[line[:at]] = v
		}
	}
	return all
}
