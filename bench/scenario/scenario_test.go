package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"lewes/bench/gateway"
	"lewes/bench/machine"
	"lewes/bench/measure"
	"lewes/bench/report"
	"lewes/bench/worker"
)

const testVar = "LEWES_TEST_SCENARIO"

func TestMain(m *testing.M) {
	if os.Getenv(testVar) == "" {
		os.Exit(m.Run())
	}
	if err := worker.Main(Roles()); err != nil {
		_, _ = os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
}

func settings(t *testing.T, scenarios ...Scenario) Settings {
	return Settings{
		Launcher:  worker.Launcher{Path: os.Args[0], Env: []string{testVar + "=1"}},
		Scenarios: scenarios,
		Quick:     true,
		Trial:     50 * time.Millisecond,
		Rounds:    2,
		Sessions:  50,
		Progress:  func(s string) { t.Log(s) },
	}
}

// childless fails if a process of this test is left.
func childless(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		return
	}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range stats {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // gone meanwhile
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // state, parent, …
		if fields[1] == strconv.Itoa(os.Getpid()) {
			t.Errorf("a process is left: %s", stat)
		}
	}
}

// The smallest contest there is: a loop and a gateway, between processes over
// loopback.
func TestContest(t *testing.T) {
	defer childless(t)
	profiles := t.TempDir()
	s := settings(t, Scenario{"test", "", func(ctx context.Context, c *crew) error {
		c.bench.probe = 50 * time.Millisecond
		g := c.gather(ctx)
		g.add("the loop")(c.loop(ctx, outward, loopOptions{suite: best()}))
		g.add("gateway")(c.gateway(ctx, outward, gatewayOptions{suite: best(), sessions: 3, flows: 2, train: 16}))
		g.add("a gateway that never was")(nil, errors.New("it is not there"))
		broken := g.add("broken")(c.loop(ctx, outward, loopOptions{}))
		broken.row.Subject = "broken"
		broken.subject.Stop()
		return c.bench.contest(ctx, report.Group{Scenario: "test", Title: "Test", Unit: "datagram", Payload: payloadSize}, g.rigs)
	}})
	s.Profiles = profiles
	r, err := Run(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Groups) != 1 || len(r.Groups[0].Rows) != 2 {
		t.Fatalf("%+v, left out %+v", r.Groups, r.LeftOut)
	}
	for _, row := range r.Groups[0].Rows {
		for name, s := range map[string]measure.Summary{"max": row.Max, "at": row.At, "CPU": row.CPU, "load's CPU": row.LoadCPU, "sink's CPU": row.SinkCPU, "p50": row.P50} {
			if !s.Measured() || s.Median <= 0 || s.Low > s.Median || s.High < s.Median {
				t.Errorf("%s: %s is %+v", row.Subject, name, s)
			}
		}
		if row.CPU.N != 2 || row.At.Median > row.Max.High*1.1 || row.CPU.Median > 1000 {
			t.Errorf("%s: %+v", row.Subject, row)
		}
	}
	if gateway := r.Groups[0].Rows[1]; gateway.TrainIn.Median < 1 || gateway.TrainOut.Median < 1 {
		t.Errorf("trains of %v in, %v out", gateway.TrainIn, gateway.TrainOut)
	}
	if _, ok := r.Groups[0].Rows[1].ToLoop(); !ok {
		t.Error("the gateway is compared with nothing")
	}
	if len(r.LeftOut) != 2 || !strings.Contains(r.LeftOut[0].Why, "not there") || !strings.Contains(r.LeftOut[1].What, "broken") {
		t.Errorf("left out: %+v", r.LeftOut)
	}
	if len(r.Profiles) != 1 {
		t.Fatalf("profiles: %q", r.Profiles)
	}
	if p, err := os.ReadFile(r.Profiles[0]); err != nil || !bytes.HasPrefix(p, []byte{0x1f, 0x8b}) || filepath.Dir(r.Profiles[0]) != profiles {
		t.Errorf("profile %s: %d bytes, %v", r.Profiles[0], len(p), err)
	}
}

// Over TCP datagrams go out, each on a connection of its own, and come back by Polls.
func TestOverTCP(t *testing.T) {
	defer childless(t)
	const rate = 400.0
	var got *trial
	r, err := Run(t.Context(), settings(t, Scenario{"test", "", func(ctx context.Context, c *crew) error {
		r, err := c.gateway(ctx, bothWays, gatewayOptions{suite: best(), apart: true, train: 1, tcp: true})
		if err == nil {
			got, err = c.bench.try(ctx, r, rate, 500*time.Millisecond)
		}
		if err != nil {
			return err
		}
		var moved gateway.Traffic
		err = r.subject.Call(ctx, "traffic", worker.None{}, &moved)
		if n := moved.Clients.Received.Packets; n != 0 {
			t.Errorf("%d packets came by UDP", n)
		}
		return err
	}}))
	if err != nil || got == nil {
		t.Fatalf("%v, left out %+v", err, r.LeftOut)
	}
	if got.sent < rate/4 || got.arrived != got.sent {
		t.Errorf("of %d datagrams %d arrived", got.sent, got.arrived)
	}
}

// byName returns a scenario of the program's.
func byName(t *testing.T, name string) Scenario {
	t.Helper()
	found, err := Find([]string{name})
	if err != nil {
		t.Fatal(err)
	}
	return found[0]
}

func TestSubsessionsAndIdle(t *testing.T) {
	defer childless(t)
	s := settings(t, byName(t, "subsessions"), byName(t, "idle"))
	s.Trial = 500 * time.Millisecond
	r, err := Run(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Groups) != 2 || len(r.LeftOut) != 0 {
		t.Fatalf("%+v, left out %+v", r.Groups, r.LeftOut)
	}
	keys := &r.Groups[0]
	if v, ok := keys.Rows[1].ToOperations(); !ok || v <= 0.5 || keys.Rows[1].Max.Median <= 0 || !keys.Rows[1].P50.Measured() {
		t.Errorf("%+v", keys.Rows)
	}
	if runtime.GOOS == "linux" {
		memory := r.Groups[1].Rows[0]
		if memory.Units != 50 || memory.Resident.Median < 1<<20 {
			t.Errorf("%+v", memory)
		}
	}
}

// Whoever ends a bench gets what was measured, and nothing is left running.
func TestRunEndsAtOnce(t *testing.T) {
	defer childless(t)
	ctx, cancel := context.WithCancel(t.Context())
	s := settings(t, byName(t, "sparse"), byName(t, "bulk-out"))
	s.Trial = 20 * time.Second
	s.Progress = func(what string) {
		if strings.Contains(what, "warming up") {
			cancel()
		}
	}
	began := time.Now()
	r, err := Run(ctx, s)
	if !errors.Is(err, context.Canceled) || r == nil {
		t.Errorf("%v, %+v", err, r)
	}
	if took := time.Since(began); took > 60*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestPeersThatAreNotThere(t *testing.T) {
	b := &Bench{settings: settings(t), report: new(report.Report)}
	if _, err := b.peer(t.Context(), "wireguard"); !errors.Is(err, errNoPeers) {
		t.Errorf("without a folder: %v", err)
	}
	b = &Bench{settings: settings(t), report: new(report.Report)}
	defer b.peers.remove()
	b.settings.Peers = t.TempDir()
	if _, err := b.peer(t.Context(), "wireguard"); err == nil || !strings.Contains(err.Error(), "sources are not there") {
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
	_, err := b.peer(t.Context(), "broken")
	if err == nil || !strings.Contains(err.Error(), "cannot be built") || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("sources that do not compile: %v", err)
	}
	if _, again := b.peer(t.Context(), "broken"); again == nil || again.Error() != err.Error() {
		t.Errorf("asked again: %v", again)
	}
}

func TestFindPeers(t *testing.T) {
	root := t.TempDir()
	if got := FindPeers(root); got != "" && strings.HasPrefix(got, root) {
		t.Errorf("found %s where there is nothing", got)
	}
	dir := filepath.Join(root, "bench", "peers")
	deep := filepath.Join(root, "a", "b")
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
	found, err := Find([]string{"idle", " bulk-out "})
	if err != nil || len(found) != 2 || found[0].Name != "idle" || found[1].Name != "bulk-out" {
		t.Errorf("%v, %v", found, err)
	}
	if found, err := Find(nil); err != nil || len(found) != 0 {
		t.Errorf("of nothing: %v, %v", found, err)
	}
	for name, want := range map[string]string{"bulkout": "bulk-out", "shard": "shards", "LATENCY": "latency", "handshake": "handshakes", "sprase": "sparse", "": "tcp"} {
		_, err := Find([]string{"idle", name})
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("no scenario %q; did you mean %s?", name, want)) {
			t.Errorf("%q: %v", name, err)
		}
	}
	seen := make(map[string]bool)
	for _, s := range All() {
		if s.Name == "" || s.About == "" || s.run == nil || seen[s.Name] {
			t.Errorf("scenario %q", s.Name)
		}
		seen[s.Name] = true
	}
}

func TestDistance(t *testing.T) {
	for _, row := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "abc", 0}, {"", "abc", 3}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"idle", "idel", 2}} {
		if got := distance([]rune(row.a), []rune(row.b)); got != row.want {
			t.Errorf("%q to %q: %d, want %d", row.a, row.b, got, row.want)
		}
	}
}

// reported is a report in which every target is met, or in which none is.
func reported(factor float64) *report.Report {
	one := func(v float64) measure.Summary { return measure.Series{v}.Summary() }
	row := func(subject string, kind report.Kind, aead string, micros float64) report.Row {
		return report.Row{Subject: subject, Kind: kind, AEAD: aead, CPU: one(micros), Allocs: one(0.0001 * factor * factor), Max: one(1e6), At: one(1e6)}
	}
	bulk := func(name string) report.Group {
		return report.Group{Scenario: name, Unit: "datagram", Rows: []report.Row{
			row("loop", report.Loop, "AES", 1), row("gateway", report.Gateway, "AES", factor),
			row(singly, report.Peer, "", 20), row(wireGuard, report.Peer, "", 5), row("masque-go", report.Peer, "", 30),
		}}
	}
	pair := func(name, subject string, kind report.Kind) report.Group {
		aead := "AES"
		if kind == report.Operations {
			aead = ""
		}
		return report.Group{Scenario: name, Unit: "unit", Rows: []report.Row{row("base", kind, aead, 1), row(subject, report.Gateway, aead, factor)}}
	}
	r := &report.Report{Trial: time.Second, Machine: machine.Machine{Cores: 8}, Groups: []report.Group{
		bulk("bulk-out"), bulk("bulk-back"),
		pair("sparse", "gateway", report.Loop),
		pair("exit", "gateway as entry, 1 shard, AES", report.Loop),
		pair("handshakes", "gateway", report.Operations),
		{Scenario: "idle", Unit: "session", Rows: []report.Row{{Subject: restedSubject, Kind: report.Gateway, Units: 9, PerUnit: one(1000 * factor)}}},
		{Scenario: "shards", Rows: []report.Row{{Kind: report.Gateway, Max: one(1e6)}, {Kind: report.Gateway, Max: one(2e6 / factor)}}},
		{Scenario: "tcp", Rows: []report.Row{
			{Kind: report.Gateway, Subject: "gateway over UDP", Max: one(100)},
			{Kind: report.Gateway, Subject: tcpSubject, Max: one(12_000 / factor)},
			{Kind: report.Gateway, Subject: tcpSubject, Max: one(20_000)},
		}},
		{Scenario: "latency", Title: "Delay, idle", Rows: []report.Row{
			{Kind: report.Direct, P50: one(20), P99: one(40)},
			{Kind: report.Gateway, P50: one(20 + 40*factor), P99: one(40 + 120*factor)},
		}},
	}}
	// An exit is no entry, and a session that was just made does not rest.
	r.Groups[3].Rows = append(r.Groups[3].Rows, row("gateway as exit, 1 shard, AES", report.Gateway, "AES", 100))
	r.Groups[5].Rows = append(r.Groups[5].Rows, report.Row{Subject: "gateway, sessions just made", Kind: report.Gateway, PerUnit: one(1e6)})
	r.Compare()
	return r
}

func TestTargets(t *testing.T) {
	for _, met := range []bool{true, false} {
		factor := 1.1
		if !met {
			factor = 4
		}
		all := targets(reported(factor))
		if len(all) != 13 {
			t.Errorf("%d targets", len(all))
		}
		for _, target := range all {
			if !target.Measured || target.Met != met {
				t.Errorf("%+v, should be met: %v", target, met)
			}
		}
	}
	if t.Failed() {
		return
	}
	for _, target := range targets(reported(1)) {
		if strings.HasPrefix(target.Name, singly[:12]) && (target.Value != 20 || !strings.Contains(target.Note, "5.00 times where trains")) {
			t.Errorf("%+v", target)
		}
	}
	// A ratio of shards means nothing where the load was the limit, or the cores were full.
	for name, change := range map[string]func(*report.Report){
		"the load":  func(r *report.Report) { r.Groups[6].Rows[0].Bound = measure.BoundSender },
		"the cores": func(r *report.Report) { r.Groups[6].Rows[1].LoadCPU = measure.Series{20}.Summary() },
	} {
		r := reported(4)
		change(r)
		for _, target := range targets(r) {
			if target.Name == "two shards against one" && (target.Measured || !strings.Contains(target.Note, name)) {
				t.Errorf("%s: %+v", name, target)
			}
		}
	}
	// A few datagrams say nothing of allocations.
	r := reported(4)
	r.Trial = time.Millisecond
	for _, target := range targets(r) {
		if strings.HasPrefix(target.Name, "allocations") && target.Measured {
			t.Errorf("%+v", target)
		}
	}
	for _, target := range targets(new(report.Report)) {
		if target.Measured || target.Met {
			t.Errorf("nothing was measured, and %+v", target)
		}
	}
}
