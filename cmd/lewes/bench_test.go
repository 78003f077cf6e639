package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"lewes/bench/report"
	"lewes/bench/scenario"
)

// quickBench are arguments of the shortest bench there is.
func quickBench(more ...string) []string {
	return append([]string{"bench", "--quick", "--scenario", "subsessions", "--duration", "300ms", "--rounds", "1", "--peers", "none"}, more...)
}

// workerless fails if a process of a bench is left.
func workerless(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		left := 0
		for _, file := range lines {
			if line, err := os.ReadFile(file); err == nil && bytes.HasPrefix(line, []byte(program+"\x00bench\x00worker")) {
				left++
			}
		}
		if left == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d processes are left", left)
		}
	}
}

func TestBenchList(t *testing.T) {
	out := mustLewes(t, environment(t.TempDir()), "bench", "--list")
	for _, s := range scenario.All() {
		has(t, out, s.Name+" ", s.About)
	}
}

func TestBenchWrongCommandLine(t *testing.T) {
	env := environment(t.TempDir())
	for args, why := range map[string]string{
		"--scenario bulkout":    `no scenario "bulkout"; did you mean bulk-out?`,
		"--scenario idle,x":     `no scenario "x"`,
		"--duration 2h":         "--duration 2h0m0s",
		"--rounds -1":           "--rounds -1",
		"--sessions 2000000000": "--sessions 2000000000",
		"bulk-out":              "one argument too many",
	} {
		has(t, fails(t, env, exitUsage, append([]string{"bench"}, strings.Fields(args)...)...), why)
	}
}

func TestBenchWritesWhatItMeasures(t *testing.T) {
	dir := t.TempDir()
	page := filepath.Join(dir, "RESULTS.md")
	out := mustLewes(t, environment(dir), quickBench("--json", filepath.Join(dir, "bench.json"), "--markdown", page)...)
	has(t, out, "Subsessions", "its public-key operations", "× operations", "open ")
	text, err := os.ReadFile(filepath.Join(dir, "bench.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r report.Report
	parseJSON(t, string(text), &r)
	if len(r.Groups) != 1 || len(r.Groups[0].Rows) != 2 || !r.Groups[0].Rows[1].CPU.Measured() || len(r.LeftOut) > 0 {
		t.Errorf("%+v", r)
	}
	if !strings.HasPrefix(r.Command, "lewes bench --quick --scenario subsessions") {
		t.Errorf("the command was %q", r.Command)
	}
	text, err = os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	has(t, string(text), "# What a datagram costs", "(charts/subsessions.svg)")
	chart, err := os.ReadFile(filepath.Join(dir, "charts", "subsessions.svg"))
	if err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(bytes.NewReader(chart)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	workerless(t)
}

func TestBenchAsJSONAlone(t *testing.T) {
	dir := t.TempDir()
	charts := filepath.Join(dir, "pictures")
	var r report.Report
	parseJSON(t, mustLewes(t, environment(dir), quickBench("--json", "-", "--svg", charts)...), &r)
	if len(r.Groups) != 1 {
		t.Errorf("%+v", r)
	}
	if _, err := os.Stat(filepath.Join(charts, "subsessions.svg")); err != nil {
		t.Error(err)
	}
}

func TestBenchCannotWrite(t *testing.T) {
	dir := t.TempDir()
	has(t, fails(t, environment(dir), exitFailed, quickBench("--json", filepath.Join(dir, "no", "file"))...), "no such file")
}

// Ctrl-C ends a bench with what it has, and its processes.
func TestBenchEnds(t *testing.T) {
	p := launch(t, environment(t.TempDir()), "bench", "--scenario", "subsessions,shards", "--rounds", "1", "--duration", "300ms", "--peers", "none")
	p.await("its processes", func(_, stderr string) bool { return strings.Contains(stderr, "subsessions: ") })
	time.Sleep(50 * time.Millisecond)
	p.signal(os.Interrupt)
	if code := p.wait(); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	has(t, p.stderr(), "ended before it had measured everything")
	has(t, p.stdout(), "GSO", "Targets")
	workerless(t)
}

// A bench that is killed leaves nothing either.
func TestBenchKilled(t *testing.T) {
	p := launch(t, environment(t.TempDir()), "bench", "--scenario", "shards", "--peers", "none")
	p.await("its processes", func(_, stderr string) bool { return strings.Contains(stderr, "shards: ") })
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.wait()
	workerless(t)
}
