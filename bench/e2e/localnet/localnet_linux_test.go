package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"lewes/bench/worker"
)

// program is the path of the real program, which is built once.
var program string

const commandVar = "LEWES_TEST_LOCALNET"

func TestMain(m *testing.M) {
	// A worker has its own argument; what else the program is started with is a command.
	if os.Getenv(commandVar) != "" {
		main()
	}
	os.Exit(worker.RunTests(m, &program))
}

// localnetCommand starts this program as localnet.
func localnetCommand(t *testing.T, socket string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], append(args, "--program", program, "--socket", socket)...)
	cmd.Env = append(os.Environ(), commandVar+"=1")
	return cmd
}

// needed skips a test where such a network cannot be made.
func needed(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("a network takes seconds")
	}
	if err := allowed(os.Geteuid()); err != nil {
		t.Skip(err)
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("no TUN devices:", err)
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip(err)
	}
}

func TestNeedsRoot(t *testing.T) {
	for _, args := range [][]string{{"up"}, {"down"}, {"set"}, {"shell"}, {"test"}} {
		cmd := command(1000, new(bytes.Buffer))
		cmd.SetArgs(args)
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "root is required") {
			t.Errorf("%v without root: %v", args, err)
		}
	}
}

func TestKnobs(t *testing.T) {
	for _, bad := range []knobs{{loss: -1}, {loss: 101}, {delay: -time.Second}} {
		if f, err := bad.faults(); err == nil {
			t.Errorf("%+v is accepted: %+v", bad, f)
		}
	}
	f, err := (&knobs{loss: 5, delay: time.Second, blockUDP: true}).faults()
	if err != nil || f.Loss != 0.05 || f.Delay != time.Second || len(f.Block) != 1 {
		t.Errorf("%+v, %v", f, err)
	}
}

// TestChecks: all of them pass with the real program.
func TestChecks(t *testing.T) {
	needed(t)
	out, err := localnetCommand(t, "unused", "test").CombinedOutput()
	if lines := regexp.MustCompile(`(?m)^ok     `).FindAll(out, -1); err != nil || len(lines) != len(checks) {
		t.Errorf("%v:\n%s", err, out)
	}
}

// running is a localnet that is up.
type running struct {
	cmd    *exec.Cmd
	output *bufio.Scanner
	socket string
	dir    string // for temporary files
}

func startUp(t *testing.T, args ...string) *running {
	t.Helper()
	r := &running{dir: t.TempDir(), socket: filepath.Join(t.TempDir(), "socket")}
	r.cmd = localnetCommand(t, r.socket, append([]string{"up"}, args...)...)
	r.cmd.Env = append(r.cmd.Env, "TMPDIR="+r.dir)
	r.cmd.Stderr = os.Stderr
	stdout, err := r.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.cmd.Process.Kill() }) // it has ended unless the test failed
	r.output = bufio.NewScanner(stdout)
	for r.output.Scan() {
		if strings.HasPrefix(r.output.Text(), "up: ") {
			return r
		}
	}
	t.Fatal("up failed:", r.cmd.Wait())
	return nil
}

// shell runs a command on a machine.
func (r *running) shell(t *testing.T, args ...string) string {
	t.Helper()
	cmd := localnetCommand(t, r.socket)
	cmd.Args = append([]string{cmd.Args[0], "shell", "--socket", r.socket}, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("shell %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// ended waits for the process and fails the test if it has left something.
func (r *running) ended(t *testing.T, pids []string) {
	t.Helper()
	for r.output.Scan() {
	}
	if err := r.cmd.Wait(); err != nil {
		t.Error(err)
	}
	for _, pid := range pids {
		if _, err := os.Stat("/proc/" + pid); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("process %s is left: %v", pid, err)
		}
	}
	if _, err := os.Stat(r.socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	if left, err := os.ReadDir(r.dir); err != nil || len(left) > 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
}

// children returns the processes that the process has started.
func (r *running) children(t *testing.T) (pids []string) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", r.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if b, err := os.ReadFile(file); err == nil { // a thread may have ended
			pids = append(pids, strings.Fields(string(b))...)
		}
	}
	if len(pids) < 7 { // machines, gateways, forward
		t.Fatalf("processes %v", pids)
	}
	return pids
}

func TestUpShellSetDown(t *testing.T) {
	needed(t)
	r := startUp(t, "--delay", "1ms")
	if out := r.shell(t, "client", "ip", "-o", "-4", "addr", "show", "dev", "link0"); !strings.Contains(out, "192.0.2.1/24") {
		t.Errorf("address of the client: %s", out)
	}
	if out := r.shell(t, "entry", "sh", "-c", "lewes status --ready && echo $EXIT $ENTRY"); strings.Count(out, "lewes://") != 2 {
		t.Errorf("environment: %s", out)
	}
	if out, err := localnetCommand(t, r.socket, "up").CombinedOutput(); err == nil || !strings.Contains(string(out), "a network is up") {
		t.Errorf("a second network: %v: %s", err, out)
	}
	if out, err := localnetCommand(t, r.socket, "set", "--block-udp").CombinedOutput(); err != nil {
		t.Errorf("set: %v: %s", err, out)
	}
	if out := r.shell(t, "client", "sh", "-c", "lewes probe --transport tcp $ENTRY"); !strings.Contains(out, "tcp") {
		t.Errorf("probe without UDP: %s", out)
	}
	if out := r.shell(t, "client", "sh", "-c", "lewes doctor --timeout 2s $ENTRY"); !strings.Contains(out, "udp over IPv4: blocked on the way") || !strings.Contains(out, "tcp over IPv4: connected") {
		t.Errorf("doctor without UDP: %s", out)
	}
	if out, err := localnetCommand(t, r.socket, "set", "--loss", "20").CombinedOutput(); err != nil {
		t.Errorf("set: %v: %s", err, out)
	}
	if out := r.shell(t, "client", "sh", "-c", "lewes doctor $ENTRY || true"); !regexp.MustCompile(`loss +[1-9]\d* of 20 pings lost`).MatchString(out) {
		t.Errorf("doctor with 36 %% loss: %s", out)
	}
	pids := r.children(t)
	if out, err := localnetCommand(t, r.socket, "down").CombinedOutput(); err != nil {
		t.Errorf("down: %v: %s", err, out)
	}
	r.ended(t, pids)
	if out, err := localnetCommand(t, r.socket, "down").CombinedOutput(); err == nil || !strings.Contains(string(out), "no network is up") {
		t.Errorf("down again: %v: %s", err, out)
	}
}

func TestInterrupt(t *testing.T) {
	needed(t)
	r := startUp(t)
	pids := r.children(t)
	if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	r.ended(t, pids)
}

// TestFailure: what has been made before a failure is removed.
func TestFailure(t *testing.T) {
	needed(t)
	r := &running{dir: t.TempDir()}
	cmd := localnetCommand(t, filepath.Join(r.dir, "socket"), "up")
	cmd.Args[3] = "/bin/false" // of --program
	cmd.Env = append(cmd.Env, "TMPDIR="+r.dir)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "exit: the process exited") {
		t.Errorf("%v: %s", err, out)
	}
	if left, err := os.ReadDir(r.dir); err != nil || len(left) > 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
}
