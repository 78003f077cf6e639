package e2e

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"lewes/bench/built"
	"lewes/bench/e2e/netns"
	"lewes/bench/worker"
)

var long = flag.Bool("world.long", false, "take the times of the real world: minutes, not seconds")

const (
	roleVar = "LEWES_TEST_E2E"
	// patience bounds every wait for what is not to be measured.
	patience = 30 * time.Second
)

// program is the path of the real program, built once.
var program string

func TestMain(m *testing.M) {
	if os.Getenv(roleVar) == "" {
		os.Exit(testMain(m))
	}
	if err := worker.Main(map[string]worker.Role{netns.RoleName: netns.Role, clientRole: runClient, targetRole: runTarget}); err != nil {
		_, _ = os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
}

func testMain(m *testing.M) int {
	// The tests wait for most of their time, so that more of them fit beside each other than
	// there are processors. The command line may say otherwise.
	if err := flag.Set("test.parallel", "6"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := built.Test(m, &program)
	figures.print(os.Stdout)
	return code
}

// launcher starts this program as a worker.
func launcher() worker.Launcher {
	return worker.Launcher{Path: os.Args[0], Env: []string{roleVar + "=1"}}
}

// scaled is a time of the real world, or a shorter one that shows the same.
func scaled(real, short time.Duration) time.Duration {
	if *long {
		return real
	}
	return short
}
