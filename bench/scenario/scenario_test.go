//go:build linux

package scenario

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"lewes/bench/report"
	"lewes/bench/worker"
	"lewes/router/costs"
)

const testVar = "LEWES_TEST_SCENARIO"

var lewes string // the path of the gateway program

func TestMain(m *testing.M) {
	if os.Getenv(testVar) == "" {
		os.Exit(worker.RunTests(m, &lewes))
	}
	if err := worker.Main(Roles()); err != nil {
		_, _ = os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
}

func settings(t *testing.T, run func(context.Context, *env) error) Settings {
	return Settings{
		Launcher:  worker.Launcher{Path: os.Args[0], Env: []string{testVar + "=1"}},
		Scenarios: []Scenario{{"test", "", run}},
		Quick:     true,
		Trial:     50 * time.Millisecond,
		Rounds:    2,
		Sessions:  50,
		Progress:  func(s string) { t.Log(s) },
	}
}

// noChildren fails if a process of this test is left.
func noChildren(t *testing.T) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range stats {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // exited
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // state, parent, …
		if fields[1] == strconv.Itoa(os.Getpid()) {
			t.Errorf("process left: %s", stat)
		}
	}
}

func TestTopologies(t *testing.T) {
	defer noChildren(t)
	s := settings(t, func(ctx context.Context, e *env) error {
		e.add(e.loop(ctx, options{back: true, suite: best(), train: 4}))
		e.add(e.loop(ctx, options{suite: best(), sockets: 5, single: true, train: 4}))
		e.gateway(ctx, options{back: true, suite: best(), sessions: 3, flows: 2, train: 4})
		e.gateway(ctx, options{suite: best(), sockets: 2, train: 4, chain: "exit"})
		e.gateway(ctx, options{back: true, suite: best(), single: true, train: 1, tcp: true})
		broken := e.add(e.loop(ctx, options{train: 4}))
		broken.row.Subject = "broken"
		broken.subject.Stop()
		broken.load.Stop()
		e.quiet = patience / 8
		e.rounds(ctx, "measuring", 1, func(*topology) float64 { return 500 })
		return e.addGroup(ctx, report.Group{Title: "Test", Unit: "datagram"})
	})
	r, err := Run(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Groups) != 1 || len(r.Groups[0].Rows) != 5 {
		t.Fatalf("%+v, left out %+v", r.Groups, r.LeftOut)
	}
	for _, row := range r.Groups[0].Rows {
		for _, m := range []report.Metric{report.CPU, report.LoadCPU, report.SinkCPU, report.Rate, report.P50} {
			if len(row.Samples[m]) != 2 || !(row.Median(m) > 0) {
				t.Errorf("%s: %s is %v", row.Subject, m, row.Samples[m])
			}
		}
	}
	if len(r.LeftOut) != 1 || r.LeftOut[0].What != "test, broken" {
		t.Errorf("left out: %+v", r.LeftOut)
	}
}

// TestCostTable measures every kind of packet.
func TestCostTable(t *testing.T) {
	r, err := Run(t.Context(), settings(t, costTable))
	if err != nil || len(r.LeftOut) > 0 || len(r.Groups) != 1 || len(r.Groups[0].Rows) != len(costs.Kinds) {
		t.Fatalf("%v, %+v, left out %+v", err, r.Groups, r.LeftOut)
	}
	for _, row := range r.Groups[0].Rows {
		if len(row.Samples[report.CPU]) != 2 || !(row.Median(report.CPU) > 0) {
			t.Errorf("%s: %v", row.Subject, row.Samples)
		}
	}
}

// TestRegister measures spends, and a start with their accounts.
func TestRegister(t *testing.T) {
	if testing.Short() {
		t.Skip("makes an RSA key and thousands of syncs")
	}
	defer noChildren(t)
	r, err := Run(t.Context(), settings(t, register))
	if err != nil || len(r.LeftOut) > 0 || len(r.Groups) != 2 || len(r.Groups[0].Rows) != 5 {
		t.Fatalf("%v, %+v, left out %+v", err, r.Groups, r.LeftOut)
	}
	for _, row := range r.Groups[0].Rows {
		if len(row.Samples[report.Max]) != 2 || !(row.Median(report.Max) > 0) {
			t.Errorf("%s: %v", row.Subject, row.Samples)
		}
	}
}

// Over TCP datagrams go out, each on a connection of its own, and come back by Polls.
func TestOverTCP(t *testing.T) {
	for _, back := range []bool{false, true} {
		var got *run
		r, err := Run(t.Context(), settings(t, func(ctx context.Context, e *env) error {
			topology, err := e.oneGateway(ctx, options{back: back, suite: best(), single: true, train: 1, tcp: true})
			e.quiet = patience / 8
			if err == nil {
				got, err = e.try(ctx, topology, 200, 200*time.Millisecond)
			}
			return err
		}))
		if err != nil || got == nil {
			t.Fatalf("%v, left out %+v", err, r.LeftOut)
		}
		if got.arrived.Datagrams == 0 || got.arrived.Delays.N == 0 || got.arrived.Foreign != 0 {
			t.Errorf("back %v: %+v", back, got)
		}
	}
}

func TestGatewayProgram(t *testing.T) {
	defer noChildren(t)
	s := settings(t, func(ctx context.Context, e *env) error {
		e.gateway(ctx, options{suite: best(), train: 4})
		e.gateway(ctx, options{suite: best(), sockets: 2, train: 4, chain: "entry"})
		e.quiet = patience / 8
		e.rounds(ctx, "measuring", 0, func(*topology) float64 { return 500 })
		return e.addGroup(ctx, report.Group{Title: "Test", Unit: "datagram"})
	})
	s.Gateways = []string{lewes, "/does/not/exist"}
	r, err := Run(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Groups) != 1 || len(r.Groups[0].Rows) != 2 || len(r.LeftOut) != 2 {
		t.Fatalf("%+v, left out %+v", r.Groups, r.LeftOut)
	}
	for _, row := range r.Groups[0].Rows {
		if !strings.HasSuffix(row.Subject, ", "+lewes) || !(row.Median(report.CPU) > 0) || !(row.Median(report.P50) > 0) {
			t.Errorf("%+v", row)
		}
	}
}

func TestSearchAndProfile(t *testing.T) {
	s := settings(t, func(ctx context.Context, e *env) error {
		e.probe = 20 * time.Millisecond
		e.gateway(ctx, options{suite: best()})
		e.profile(ctx, func(*topology) float64 { return 1000 })
		e.each(ctx, "searching", func(t *topology) error { return e.search(ctx, t) })
		return e.addGroup(ctx, report.Group{Title: "Test", Unit: "datagram"})
	})
	s.Profiles = t.TempDir()
	r, err := Run(t.Context(), s)
	if err != nil || len(r.Groups) != 1 || !(r.Groups[0].Rows[0].Median(report.Max) > 0) {
		t.Errorf("%+v, %v", r, err)
	}
	files, _ := filepath.Glob(filepath.Join(s.Profiles, "test-gateway-*.cpu.pprof"))
	if len(files) != 1 {
		t.Fatalf("profiles %v", files)
	}
	if p, err := os.ReadFile(files[0]); err != nil || !bytes.HasPrefix(p, []byte{0x1f, 0x8b}) {
		t.Errorf("profile of %d bytes, %v", len(p), err)
	}
}

func TestSubsessionsAndIdle(t *testing.T) {
	s := settings(t, nil)
	s.Trial = 300 * time.Millisecond
	s.Rounds = 1
	var err error
	if s.Scenarios, err = Find([]string{"subsessions", " idle"}); err != nil {
		t.Fatal(err)
	}
	r, err := Run(t.Context(), s)
	if err != nil || len(r.Groups) != 2 || len(r.LeftOut) != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if rows := r.Groups[0].Rows; len(rows) != 2 || !(rows[1].Median(report.CPU) > 0) || !(rows[1].Median(report.Max) > 0) {
		t.Errorf("%+v", rows)
	}
	if row := r.Groups[1].Rows[0]; row.Median(report.Units) != 50 || row.Median(report.Resident) < 1<<20 {
		t.Errorf("%+v", row)
	}
}

func TestRunEndsWithContext(t *testing.T) {
	defer noChildren(t)
	ctx, cancel := context.WithCancel(t.Context())
	s := settings(t, bulk(0))
	s.Trial = time.Hour
	s.Progress = func(step string) {
		if strings.Contains(step, "warming up") {
			cancel()
		}
	}
	if r, err := Run(ctx, s); !errors.Is(err, context.Canceled) || r == nil {
		t.Errorf("%v, %+v", err, r)
	}
}

func TestMissingPeers(t *testing.T) {
	b := &bench{report: new(report.Report)}
	if _, err := b.peer(t.Context(), "wireguard"); !errors.Is(err, errNoPeers) {
		t.Errorf("without a folder: %v", err)
	}
	b = &bench{report: new(report.Report)}
	defer func() { b.peers.remove() }()
	b.settings.Peers = t.TempDir()
	if _, err := b.peer(t.Context(), "wireguard"); err == nil || !strings.Contains(err.Error(), "sources not found") {
		t.Errorf("an empty folder: %v", err)
	}
	dir := filepath.Join(b.settings.Peers, "broken")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"go.mod": "module broken\n", "main.go": "package main\nfunc main() { nothing() }\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.peer(t.Context(), "broken"); err == nil || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("sources that do not compile: %v", err)
	}
}

func TestFindPeers(t *testing.T) {
	root := t.TempDir()
	dir, deep := filepath.Join(root, "bench", "peers"), filepath.Join(root, "a", "b")
	for _, d := range []string{filepath.Join(dir, "wireguard"), deep} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "wireguard", "go.mod"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{root, deep} {
		if got := FindPeers(from); got != dir {
			t.Errorf("from %s: %q", from, got)
		}
	}
}

func TestFind(t *testing.T) {
	if found, err := Find([]string{"idle", " bulk-out "}); err != nil || len(found) != 2 || found[0].Name != "idle" || found[1].Name != "bulk-out" {
		t.Errorf("%v, %v", found, err)
	}
	if _, err := Find([]string{"idle", "bulkout"}); err == nil || !strings.Contains(err.Error(), `unknown scenario "bulkout"; the scenarios are bulk-out, `) {
		t.Errorf("%v", err)
	}
	seen := make(map[string]bool)
	for _, s := range All() {
		if s.Name == "" || s.About == "" || s.run == nil || seen[s.Name] {
			t.Errorf("scenario %q", s.Name)
		}
		seen[s.Name] = true
	}
}

func TestOperations(t *testing.T) {
	measured, err := measureOperations(7 * time.Millisecond)
	if err != nil || measured.handshake(true) <= 0 || measured.subsession() <= 0 {
		t.Errorf("%+v, %v", measured, err)
	}
	c := operations{Sign: 1, Verify: 10, Convert: 100, Generate: 1000, Agree: 10_000, Decapsulate: 100_000, Encapsulate: 1_000_000}
	if a, b, s := c.handshake(false), c.handshake(true), c.subsession(); a != 141_111 || b != 141_110 || s != 1_041_000 {
		t.Errorf("handshake %d, with a known key %d, subsession %d", a, b, s)
	}
}
