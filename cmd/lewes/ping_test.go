//go:build unix

package main

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestPing(t *testing.T) {
	file, key := newClient(t)
	g := launchGateway(t, "", key)
	env := environment(t.TempDir())

	var r pingResult
	parseJSON(t, mustLewes(t, env, "ping", "--json", "-c", "3", "-i", "20ms", "-s", "1452", "--identity", file, g.uri), &r)
	if r.Gateway != g.uri || r.Transport != "udp" || r.Size != 1452 || r.Sent != 3 || len(r.Times) != r.Received || r.Received+r.Lost != r.Sent || r.Received == 0 || r.Min <= 0 {
		t.Errorf("result %+v", r)
	}
	has(t, mustLewes(t, env, "ping", "-c", "1", "--transport", "tcp", "--identity", file, g.uri), "1 sent, 1 answered, 0.0 % lost, 64 bytes over tcp", "round trip min ")
	for _, args := range [][]string{{"-s", "63"}, {"-s", "1453"}, {"-c", "-1"}, {"-i", "1ms"}} {
		fails(t, env, exitUsage, append([]string{"ping", g.uri}, args...)...)
	}
}

// TestPingCountsLoss stops the gateway for a while and then interrupts.
func TestPingCountsLoss(t *testing.T) {
	file, key := newClient(t)
	g := launchGateway(t, "", key)
	p := launch(t, environment(t.TempDir()), "ping", "-c", "0", "-i", "100ms", "--identity", file, g.uri)
	p.awaitLine("ping ")
	if err := g.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	p.await("a lost ping", func(stdout, _ string) bool { return strings.Contains(stdout, "no answer") })
	if err := g.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	p.await("the summary", func(stdout, _ string) bool {
		return strings.Contains(stdout, "% lost") && !strings.Contains(stdout, " 0.0 % lost")
	})
}

func TestPingSummary(t *testing.T) {
	r := pingResult{Sent: 5, Times: []float64{10, 14, 12, 12}}
	r.summarize()
	if r.Received != 4 || r.Lost != 1 || r.Min != 10 || r.Max != 14 || r.Mean != 12 || r.Jitter != 2 || r.percent() != 20 {
		t.Errorf("%+v", r)
	}
}
