//go:build linux

package flood

import (
	"flag"
	"os"
	"testing"
	"time"

	"lewes/bench/e2e/netns"
	"lewes/bench/load"
	"lewes/bench/sink"
	"lewes/bench/worker"
	_ "lewes/router" // so that a change of the gateway invalidates cached results
)

var long = flag.Bool("long", false, "measure throughput and handshake times too")

const (
	roleVar = "LEWES_TEST_FLOOD"
	// patience bounds every wait for an event.
	patience = 30 * time.Second
)

// program is the path of the real program, built once.
var program string

func TestMain(m *testing.M) {
	if os.Getenv(roleVar) == "" {
		os.Exit(worker.RunTests(m, &program))
	}
	if err := worker.Main(map[string]worker.Role{
		netns.RoleName: netns.Role,
		"sink":         sink.Role,
		"load":         load.Role,
		"attacker":     attackerRole,
		"honest":       honestRole,
	}); err != nil {
		_, _ = os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
}

// launcher starts this program as a worker.
func launcher() worker.Launcher {
	return worker.Launcher{Path: os.Args[0], Env: []string{roleVar + "=1"}}
}
