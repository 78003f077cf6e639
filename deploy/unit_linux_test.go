package deploy

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const unitFile = "lewes-gateway.service"

// unit is a unit file: the values of each "Section.Key", in order.
type unit map[string][]string

func readUnit(t *testing.T) unit {
	t.Helper()
	u := make(unit)
	section := ""
	for n, line := range strings.Split(read(unitFile), "\n") {
		key, value, assigns := strings.Cut(line, "=")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]"):
			section = line[1 : len(line)-1]
		case !assigns:
			t.Fatalf("%s:%d: neither a section nor an assignment: %s", unitFile, n+1, line)
		default:
			u[section+"."+key] = append(u[section+"."+key], value)
		}
	}
	return u
}

// one returns the value of a key that has one.
func (u unit) one(t *testing.T, key string) string {
	t.Helper()
	if len(u[key]) != 1 {
		t.Fatalf("%s: %s has the values %q, want one", unitFile, key, u[key])
	}
	return u[key][0]
}

// TestUnitCommand starts what ExecStart names as systemd would: its configuration and
// state where the unit has them, with a socket for its reports.
func TestUnitCommand(t *testing.T) {
	u := readUnit(t)
	command := strings.Fields(u.one(t, "Service.ExecStart"))
	configured := filepath.Join("/etc", u.one(t, "Service.ConfigurationDirectory"), "gateway.toml")
	file := filepath.Join(t.TempDir(), "gateway.toml")
	writeConfig(t, file)
	at := slices.Index(command, configured)
	if at < 0 || command[0] != "/usr/local/bin/lewes" {
		t.Fatalf("ExecStart is %q; want /usr/local/bin/lewes with the configuration %s", command, configured)
	}
	command[at] = file

	reports, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer reports.Close()
	state := t.TempDir()
	gateway := exec.Command(lewes, command[1:]...)
	gateway.Env = []string{"NOTIFY_SOCKET=" + reports.LocalAddr().String(), "STATE_DIRECTORY=" + state}
	startGateway(t, gateway)
	if u.one(t, "Service.Type") != "notify" {
		t.Error("the unit does not wait for the gateway's report")
	}
	awaitReport(t, reports, "READY=1")
	if _, err := os.Stat(filepath.Join(state, "identity")); err != nil {
		t.Errorf("the gateway keeps its identity elsewhere than in StateDirectory: %v", err)
	}
	within, err := time.ParseDuration(u.one(t, "Service.TimeoutStopSec"))
	if err != nil {
		t.Fatal(err)
	}
	endGateway(t, gateway, within)
	awaitReport(t, reports, "STOPPING=1")
}

// TestUnitReload runs ExecReload beside a gateway: it ends when the successor serves, with an exit status
// of its own if that cannot.
func TestUnitReload(t *testing.T) {
	u := readUnit(t)
	reload := strings.Fields(u.one(t, "Service.ExecReload"))
	if reload[0] != "/usr/local/bin/lewes" || u.one(t, "Service.RuntimeDirectory") != "lewes" || u.one(t, "Service.RuntimeDirectoryMode") != "0750" {
		t.Fatalf("ExecReload is %q", reload)
	}
	reports, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer reports.Close()
	file := filepath.Join(t.TempDir(), "gateway.toml")
	writeConfig(t, file)
	directories := []string{"STATE_DIRECTORY=" + t.TempDir(), "RUNTIME_DIRECTORY=" + t.TempDir()}
	gateway := exec.Command(lewes, "gateway", "--config", file)
	gateway.Env = append([]string{"NOTIFY_SOCKET=" + reports.LocalAddr().String()}, directories...)
	startGateway(t, gateway)
	awaitReport(t, reports, "READY=1")
	run := func() error {
		cmd := exec.Command(lewes, reload[1:]...)
		cmd.Env = directories
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		return err
	}
	if err := run(); err != nil {
		t.Fatal(err)
	}
	report := make([]byte, 512)
	n, err := reports.Read(report)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimPrefix(string(report[:n]), "MAINPID="))
	if err != nil {
		t.Fatalf("the gateway reports %q", report[:n])
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) }) // it may have ended
	awaitReport(t, reports, "READY=1")
	if err := os.WriteFile(file, []byte("[nonsense]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run(); err == nil {
		t.Error("a reload that changes nothing succeeds")
	}
}

func awaitReport(t *testing.T, reports *net.UnixConn, want string) {
	t.Helper()
	if err := reports.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	report := make([]byte, 512)
	n, err := reports.Read(report)
	if err != nil {
		t.Fatalf("waiting for %s: %v", want, err)
	}
	if got := string(report[:n]); got != want {
		t.Fatalf("the gateway reports %q, want %q", got, want)
	}
}

// TestUnitRestart: an error in the command line is not tried again, all others are.
func TestUnitRestart(t *testing.T) {
	u := readUnit(t)
	never := u.one(t, "Service.RestartPreventExitStatus")
	for _, test := range []struct {
		args  []string
		again bool
	}{
		{[]string{"gateway", "--nonsense"}, false},
		{[]string{"gateway", "--config", filepath.Join(t.TempDir(), "missing.toml")}, true},
	} {
		var failed *exec.ExitError
		if err := exec.Command(lewes, test.args...).Run(); !errors.As(err, &failed) {
			t.Fatalf("lewes %q: %v", test.args, err)
		}
		if again := strconv.Itoa(failed.ExitCode()) != never; again != test.again {
			t.Errorf("lewes %q exits with %d; systemd tries again: %v, want %v", test.args, failed.ExitCode(), again, test.again)
		}
	}
	if got := u.one(t, "Service.Restart"); got != "on-failure" {
		t.Errorf("Restart is %s", got)
	}
}

// TestUnitOpenFiles: the gateway may open a socket for each flow and each TCP
// connection that its default configuration allows.
func TestUnitOpenFiles(t *testing.T) {
	limit, err := strconv.Atoi(readUnit(t).one(t, "Service.LimitNOFILE"))
	if err != nil {
		t.Fatal(err)
	}
	c := defaults(t)
	if flows, connections := c.Flows.Max, c.TCP.MaxConnections; limit <= flows+connections {
		t.Errorf("LimitNOFILE is %d, and there may be %d flows and %d connections", limit, flows, connections)
	}
}

// TestUnitVerifies lets systemd read the unit.
func TestUnitVerifies(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed: apt-get install systemd")
	}
	// It wants the program to be there.
	text := strings.ReplaceAll(read(unitFile), "/usr/local/bin/lewes", lewes)
	file := filepath.Join(t.TempDir(), unitFile)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	// Its exit code also judges the units of this machine that ours names.
	out, _ := exec.Command(analyze, "verify", "--man=no", file).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, unitFile) {
			t.Errorf("systemd-analyze verify: %s", line)
		}
	}
	out, err = exec.Command(analyze, "security", "--offline=true", "--threshold="+fmt.Sprint(exposure), file).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
}

// exposure is what systemd-analyze security may say at most, in tenths of its scale
// from 0, nothing is allowed, to 10.
const exposure = 20
