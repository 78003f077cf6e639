package deploy

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestOperating runs the blocks of OPERATING.md that are marked sh, in their order and in one folder, against a
// gateway with the configuration and the state directory that they name.
func TestOperating(t *testing.T) {
	root := t.TempDir()
	state, folder := filepath.Join(root, "lewes"), filepath.Join(root, "etc")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(folder, "gateway.toml")
	if err := os.WriteFile(file, []byte(anyPort+"[tcp]\nport = 0\n[metrics]\nlisten = \"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	environment := append(os.Environ(),
		"XDG_STATE_HOME="+root, "STATE_DIRECTORY=", "RUNTIME_DIRECTORY=",
		"PATH="+filepath.Dir(lewes)+string(os.PathListSeparator)+os.Getenv("PATH"))
	gateway := exec.Command(lewes, "gateway", "--config", file)
	gateway.Env, gateway.WaitDelay = environment, time.Second // the successor of lewes upgrade keeps its pipes
	startGateway(t, gateway)
	t.Cleanup(func() { killSuccessor(t, environment) })
	identity := strings.TrimSpace(run(t, exec.Command(lewes, "keygen", filepath.Join(root, "client"))))

	here := strings.NewReplacer("/etc/lewes", folder, "/var/lib/lewes", state, "IDENTITY", identity)
	blocks := regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllStringSubmatch(read("OPERATING.md"), -1)
	if len(blocks) < 5 {
		t.Fatalf("%d blocks", len(blocks))
	}
	for _, b := range blocks {
		block := exec.Command("sh", "-euc", here.Replace(b[1]))
		block.Dir, block.Env = root, environment
		run(t, block)
	}
}

// killSuccessor ends the gateway that lewes upgrade has left, which is no child of the test.
func killSuccessor(t *testing.T, environment []string) {
	t.Helper()
	status := exec.Command(lewes, "status", "--json")
	status.Env = environment
	var now struct{ PID int }
	out, err := status.Output()
	if err == nil {
		err = json.Unmarshal(out, &now)
	}
	if err != nil || now.PID <= 1 {
		t.Errorf("no gateway to end: %s (%v)", out, err)
		return
	}
	_ = syscall.Kill(now.PID, syscall.SIGKILL)
}
