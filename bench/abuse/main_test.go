//go:build linux

package abuse

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"lewes/bench/load"
	"lewes/bench/netns"
	"lewes/bench/sink"
	"lewes/bench/worker"
)

const (
	roleVar = "LEWES_TEST_ABUSE"
	// patience bounds every wait for what is not to be measured.
	patience = 30 * time.Second
)

// program is the path of the real program, built once.
var program string

func TestMain(m *testing.M) {
	if os.Getenv(roleVar) == "" {
		os.Exit(testMain(m))
	}
	if err := worker.Main(map[string]worker.Role{
		netns.RoleName: netns.Role,
		"sink":         sink.Role,
		"load":         load.Role,
		"attacker":     attackerRole,
		"visitor":      visitorRole,
	}); err != nil {
		_, _ = os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
}

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "lewes-abuse-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "lewes")
	build := exec.Command("go", "build", "-o", program, "lewes/cmd/lewes")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building the program:", err)
		return 1
	}
	return m.Run()
}

// launcher starts this program as a worker.
func launcher() worker.Launcher {
	return worker.Launcher{Path: os.Args[0], Env: []string{roleVar + "=1"}}
}
