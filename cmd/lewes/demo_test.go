package main

import (
	"net/netip"
	"path/filepath"
	"testing"

	"lewes/cmd/lewes/internal/demo"
)

// TestDemo runs README.md's first command.
func TestDemo(t *testing.T) {
	dir := t.TempDir()
	env := environment(dir, "TMPDIR="+dir, "TMP="+dir)
	story := mustLewes(t, env, "demo")
	has(t, story, "entry saw    the client, 127.0.0.1:", "exit saw     the entry, 127.0.0.1:", "the exit, and no target",
		"ok   all 1000 datagrams came back", "ok   the session rekeyed in the middle",
		"1000 of 1000 datagrams came back", "0 lost", "round trip: median", "ML-KEM-768 for the handshake")
	hasNot(t, story, "NO ")
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}

	var r demo.Report
	parseJSON(t, mustLewes(t, env, "demo", "--json", "--datagrams", "300"), &r)
	if !r.OK || r.Sent != 300 || r.Back != 300 || r.Keys != 1 || r.KEM == "" || r.AEAD == "" || r.RTT.P50 <= 0 || r.RTT.P99 < r.RTT.P50 {
		t.Errorf("JSON says %+v", r)
	}
	p := r.Parties
	if p.EntrySaw != "the client, "+p.Client || p.ExitSaw != "the entry, "+p.EntryOut || p.ExitTo != "the target, "+p.Target || p.TargetSaw != "the exit, "+p.ExitOut {
		t.Errorf("who saw whom: %+v", p)
	}
	seen := make(map[string]bool)
	for _, a := range []string{p.Client, p.Entry, p.EntryOut, p.Exit, p.ExitOut, p.Target} {
		if _, err := netip.ParseAddrPort(a); err != nil || seen[a] {
			t.Errorf("%q is no address of one party: %v", a, err)
		}
		seen[a] = true
	}
}
