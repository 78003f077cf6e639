package main

import (
	"os"
	"path/filepath"
	"testing"

	"lewes/state/ledger"
)

// TestLedgerCommands checks and copies the ledger of a gateway that runs, has stopped, and was given a backup.
func TestLedgerCommands(t *testing.T) {
	t.Parallel()
	const settings = "[access]\nmode = \"open\"\n[registration]\naccess = \"open\"\n"
	g := launchGateway(t, settings)
	env := environment(g.dir)
	state := []string{"--state", g.dir}
	copied := filepath.Join(g.dir, "copy")
	run := func(args ...string) []string { return append(append([]string{"ledger"}, args...), state...) }

	has(t, fails(t, env, exitFailed, run("check")...), "in use by another process", "lewes ledger backup")
	has(t, mustLewes(t, env, run("backup", copied)...), copied+" is in order", "accounts      0")
	has(t, fails(t, env, exitFailed, run("backup", copied)...), copied, "exists")
	has(t, fails(t, env, exitFailed, run("backup", "--previous", filepath.Join(g.dir, "previous"))...), "in use")
	g.end()

	var report ledger.Report
	parseJSON(t, mustLewes(t, env, run("check", "--json")...), &report)
	if report.File != filepath.Join(g.dir, "ledger") || report.Transactions == 0 {
		t.Errorf("%+v", report)
	}
	has(t, mustLewes(t, env, run("backup", "--previous", filepath.Join(g.dir, "previous"))...), "is in order")
	has(t, mustLewes(t, env, run("check", copied)...), "is in order")
	has(t, fails(t, env, exitFailed, run("check", filepath.Join(g.dir, "none"))...), "none: no such file", "name the file")
	has(t, fails(t, env, exitFailed, run("backup", copied)...), "file exists", "name a new file")
	has(t, fails(t, env, exitFailed, run("check", filepath.Join(g.dir, "gateway.toml"))...), "gateway.toml: ledger: not this gateway's ledger", "name another file")

	if err := os.Rename(copied, filepath.Join(g.dir, "ledger")); err != nil {
		t.Fatal(err)
	}
	g = launchGatewayIn(t, g.dir, settings)
	g.awaitLog("the ledger is a restored backup")
	g.end()
	if err := os.Truncate(filepath.Join(g.dir, "ledger"), 5000); err != nil {
		t.Fatal(err)
	}
	has(t, fails(t, env, exitFailed, "gateway", "--config", filepath.Join(g.dir, "gateway.toml")), filepath.Join(g.dir, "ledger"), "damaged", "lewes ledger backup --previous")
}
