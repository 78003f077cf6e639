package e2e

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"lewes/bench/e2e/netns"
	"lewes/bench/worker"
)

var long = flag.Bool("long", false, "use outages of minutes instead of seconds")

const (
	roleVar = "LEWES_TEST_E2E"
	// patience bounds every wait for an event.
	patience = 45 * time.Second
)

// program is the path of the real program, which is built once.
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
	// The tests mostly wait, so more of them run side by side than there are processors. The
	// command line overrides this.
	if err := flag.Set("test.parallel", "10"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := worker.RunTests(m, &program)
	figures.print(os.Stdout)
	return code
}

// launcher starts this program as a worker.
func launcher() worker.Launcher {
	return worker.Launcher{Path: os.Args[0], Env: []string{roleVar + "=1"}}
}

// scaled returns real with -long, short without.
func scaled(real, short time.Duration) time.Duration {
	if *long {
		return real
	}
	return short
}
