package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// program is the path of the real program, built once.
var program string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "lewes-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	// The tests mostly wait, so more of them run side by side than there are processors. The
	// command line overrides this.
	if err := flag.Set("test.parallel", "12"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	program = filepath.Join(dir, "lewes.exe") // a name that runs on every system
	if out, err := exec.Command("go", "build", "-o", program, "lewes/cmd/lewes").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build lewes: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// patience bounds every wait of a test; nothing takes that long on an idle
// machine.
const patience = 30 * time.Second

// environment returns the variables of a process whose state is in dir, and no one
// else's.
func environment(dir string, more ...string) []string {
	return append([]string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + dir,
		"XDG_STATE_HOME=" + dir,
		"XDG_RUNTIME_DIR=" + filepath.Join(filepath.Dir(program), "runtime"), // of all tests
	}, more...)
}

// process is the program, running.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}
	read []io.Closer // what reads its output

	mu     sync.Mutex
	out    bytes.Buffer
	errs   bytes.Buffer
	change chan struct{} // closed, and another made, when something is written
}

// launch starts the program; it is killed with the test.
func launch(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	return launchFile(t, program, env, args...)
}

// launchFile starts a copy of the program.
func launchFile(t *testing.T, file string, env []string, args ...string) *process {
	t.Helper()
	cmd := exec.Command(file, args...)
	cmd.Env = env
	return launchCommand(t, cmd)
}

// launchCommand starts a command that becomes the program.
func launchCommand(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, done: make(chan struct{}), change: make(chan struct{})}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.read = []io.Closer{stdout, stderr}
	var readers sync.WaitGroup
	readers.Go(func() { p.copy(&p.out, stdout) })
	readers.Go(func() { p.copy(&p.errs, stderr) })
	go func() {
		readers.Wait()
		_ = p.cmd.Wait() // the exit code is in ProcessState
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // it may have ended by itself
		<-p.done
		if t.Failed() {
			t.Logf("%s\nstdout:\n%sstderr:\n%s", strings.Join(cmd.Args[1:], " "), p.stdout(), p.stderr())
		}
	})
	return p
}

func (p *process) copy(to *bytes.Buffer, from io.Reader) {
	lines := bufio.NewReader(from)
	for {
		line, err := lines.ReadBytes('\n')
		p.mu.Lock()
		to.Write(line)
		close(p.change)
		p.change = make(chan struct{})
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (p *process) stdout() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

func (p *process) stderr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.errs.String()
}

// await waits until look finds what it looks for in what the process has written.
func (p *process) await(what string, look func(stdout, stderr string) bool) {
	p.t.Helper()
	timeout := time.After(patience)
	for {
		p.mu.Lock()
		found, change := look(p.out.String(), p.errs.String()), p.change
		p.mu.Unlock()
		if found {
			return
		}
		select {
		case <-change:
		case <-p.done:
			if !look(p.stdout(), p.stderr()) {
				p.t.Fatalf("the program has ended without %s", what)
			}
			return
		case <-timeout:
			p.t.Fatalf("no %s within %v", what, patience)
		}
	}
}

// awaitLog waits for a text on standard error.
func (p *process) awaitLog(text string) {
	p.t.Helper()
	p.await(fmt.Sprintf("%q in its log", text), func(_, stderr string) bool { return strings.Contains(stderr, text) })
}

// awaitLine waits for a line on standard output that begins with a prefix.
func (p *process) awaitLine(prefix string) (line string) {
	p.t.Helper()
	p.await(fmt.Sprintf("a line %q…", prefix), func(stdout, _ string) bool {
		for l := range strings.Lines(stdout) {
			if strings.HasPrefix(l, prefix) && strings.HasSuffix(l, "\n") {
				line = strings.TrimSuffix(l, "\n")
				return true
			}
		}
		return false
	})
	return line
}

// wait returns the exit code.
func (p *process) wait() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("the program did not end within %v", patience)
	}
	return p.cmd.ProcessState.ExitCode()
}

// closeOutput ends the reader of the program's output and log, as a log collector may end.
func (p *process) closeOutput() {
	p.t.Helper()
	for _, r := range p.read {
		if err := r.Close(); err != nil {
			p.t.Fatal(err)
		}
	}
}

// signal sends a signal.
func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// end asks the program to end and returns the exit code.
func (p *process) end() int {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	return p.wait()
}

// lewes runs the program to its end.
func lewes(t *testing.T, env []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = env
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
			t.Fatal(err)
		}
	}
	if ctx.Err() != nil {
		t.Fatalf("lewes %s did not end within %v; it said:\n%s%s", strings.Join(args, " "), patience, &out, &errs)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// mustLewes is lewes where it is to succeed.
func mustLewes(t *testing.T, env []string, args ...string) (stdout string) {
	t.Helper()
	stdout, stderr, code := lewes(t, env, args...)
	if code != exitOK {
		t.Fatalf("lewes %s: exit code %d: %s", strings.Join(args, " "), code, stderr)
	}
	return stdout
}

// fails runs the program to an exit code other than 0 and returns its last word,
// one line.
func fails(t *testing.T, env []string, code int, args ...string) (sentence string) {
	t.Helper()
	_, stderr, got := lewes(t, env, args...)
	if got != code {
		t.Fatalf("lewes %s: exit code %d, want %d: %s", strings.Join(args, " "), got, code, stderr)
	}
	return stderr
}

// has fails the test unless a text has all pieces in it.
func has(t *testing.T, text string, pieces ...string) {
	t.Helper()
	for _, piece := range pieces {
		if !strings.Contains(text, piece) {
			t.Errorf("%q is not in: %s", piece, text)
		}
	}
}

// hasNot fails the test if a text has one of the pieces in it.
func hasNot(t *testing.T, text string, pieces ...string) {
	t.Helper()
	for _, piece := range pieces {
		if strings.Contains(text, piece) {
			t.Errorf("%q is in: %s", piece, text)
		}
	}
}

// echo serves a target that sends back what comes to it.
func echo(t *testing.T) (address string) {
	t.Helper()
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buffer := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buffer)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = conn.WriteToUDPAddrPort(buffer[:n], from) // loss is for the test to see
			}
		}
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-ended
	})
	return conn.LocalAddr().String()
}

// localSocket is a program that uses a forward.
func localSocket(t *testing.T, forward string) net.Conn {
	t.Helper()
	conn, err := net.Dial("udp", forward)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// parseJSON reads what the program printed.
func parseJSON(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
}

// writeFile writes a file with a mode.
func writeFile(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask
		t.Fatal(err)
	}
}
