//go:build linux

// Bench measures what a datagram costs a gateway, beside a loop that only receives and sends and
// beside wireguard-go and masque-go:
//
//	go run ./bench --quick
//	go run ./bench > new.txt; benchstat old.txt new.txt
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"lewes/bench/scenario"
	"lewes/bench/worker"
)

const usage = `usage: go run ./bench [flags]

Bench measures what a datagram costs a gateway on this machine. It starts gateway, load
and sink as separate processes on loopback and prints every sample in Go's benchmark
format, which benchstat compares, and then tables: the highest rate without loss, CPU time
per datagram, delays, and ratios between them. The ratios hold on a noisy machine;
absolute figures depend on the machine.

wireguard-go and masque-go are built from bench/peers. WireGuard needs root: it runs
between two network namespaces. Anything that cannot run is left out and listed.

The scenario costs measures every kind of packet that a stranger, a client or an entry can
send, beside a data packet, and names the bound that covers it. The kinds are a table in
router/costs, where measured.txt has the figures that tests use; renew them with

  go run ./bench --scenario costs --rounds 5 | grep ^BenchmarkCosts >router/costs/measured.txt

A full run takes about half an hour, --quick a few minutes. Ctrl-C ends it and prints the
figures measured so far.

  go run ./bench --scenario bulk-out,sparse --duration 5s
  go run ./bench --scenario idle --sessions 1000000
  go run ./bench --scenario costs --peers none             # each kind of packet beside a data packet
  go run ./bench --json bench.json --markdown RESULTS.md
  go run ./bench --scenario bulk-out --profile profiles    # for go tool pprof
  go run ./bench --scenario bulk-out,exit --gateway-binary old/lewes,new/lewes

Flags:
`

func main() {
	if len(os.Args) == 2 && os.Args[1] == "worker" {
		exit(worker.Main(scenario.Roles()))
	}
	exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func exit(err error) {
	var misuse *usageError
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return
	case errors.As(err, &misuse):
		defer os.Exit(2)
	default:
		defer os.Exit(1)
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
}

type usageError struct{ error }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

func run(args []string, stdout, stderr io.Writer) error {
	var s scenario.Settings
	var list bool
	var scenarios, gateways, jsonFile, markdown string
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, usage)
		flags.PrintDefaults()
	}
	flags.BoolVar(&list, "list", false, "list the scenarios and exit")
	flags.StringVar(&scenarios, "scenario", "", "comma-separated `names` of scenarios (default all)")
	flags.BoolVar(&s.Quick, "quick", false, "few short trials, for a first look")
	flags.DurationVar(&s.Trial, "duration", 0, "`length` of a measured trial (default 2s, with --quick 300ms)")
	flags.IntVar(&s.Rounds, "rounds", 0, "`number` of trials of each (default 7, with --quick 3)")
	flags.IntVar(&s.Sessions, "sessions", 0, "`number` of sessions of the scenario idle (default 200000, with --quick 5000)")
	flags.StringVar(&gateways, "gateway-binary", "", "comma-separated `paths` of lewes programs to measure side by side as gateways (default: the gateway of this tree)")
	flags.StringVar(&s.Peers, "peers", "", "`folder` with the sources of the peers, or none (default bench/peers, here or above)")
	flags.StringVar(&jsonFile, "json", "", "write everything to `file` as JSON")
	flags.StringVar(&markdown, "markdown", "", "write the tables to `file` as Markdown")
	flags.StringVar(&s.Profiles, "profile", "", "write CPU profiles of the gateway to `folder`")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return &usageError{err}
	}
	switch {
	case flags.NArg() > 0:
		return usagef("unexpected argument %q", flags.Arg(0))
	case s.Trial < 0 || s.Trial > time.Minute:
		return usagef("--duration %v: the limit is 1m", s.Trial)
	case s.Rounds < 0 || s.Rounds > 100:
		return usagef("--rounds %d: the limit is 100", s.Rounds)
	case s.Sessions < 0 || s.Sessions > 2_000_000:
		return usagef("--sessions %d: the limit is 2000000", s.Sessions)
	}
	if list {
		for _, s := range scenario.All() {
			fmt.Fprintf(stdout, "%-12s %s\n", s.Name, s.About)
		}
		return nil
	}
	var err error
	if scenarios != "" {
		if s.Scenarios, err = scenario.Find(strings.Split(scenarios, ",")); err != nil {
			return &usageError{err}
		}
	}
	if gateways != "" {
		s.Gateways = strings.Split(gateways, ",")
	}
	switch s.Peers {
	case "":
		if here, err := os.Getwd(); err == nil {
			s.Peers = scenario.FindPeers(here)
		}
	case "none":
		s.Peers = ""
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own program: %w", err)
	}
	s.Launcher = worker.Launcher{Path: program, Args: []string{"worker"}}
	s.Command = strings.Join(append([]string{"go run ./bench"}, args...), " ")
	s.Commit = commit()
	s.Progress = newProgress(os.Stderr)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r, err := scenario.Run(ctx, s)
	s.Progress("")
	if r == nil {
		return err
	}
	if errors.Is(err, context.Canceled) {
		err = errors.New("interrupted; the report is incomplete")
	}
	err = errors.Join(err, r.WriteBenchmarks(stdout), r.WriteMarkdown(stdout))
	if jsonFile != "" {
		err = errors.Join(err, writeFile(jsonFile, r.WriteJSON))
	}
	if markdown != "" {
		err = errors.Join(err, writeFile(markdown, r.WriteMarkdown))
	}
	return err
}

// commit returns the commit of the source tree, as far as git knows it.
func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

func writeFile(name string, write func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// newProgress returns a function that shows the current step: in one line on a terminal, else in a
// line every few seconds. An empty step removes the line.
func newProgress(f *os.File) func(step string) {
	const interval = 5 * time.Second
	info, err := f.Stat()
	if terminal := err == nil && info.Mode()&os.ModeCharDevice != 0; terminal {
		return func(step string) { fmt.Fprintf(f, "\r\x1b[K%.78s", step) }
	}
	var last time.Time
	return func(step string) {
		if now := time.Now(); step != "" && (now.Sub(last) >= interval || strings.Contains(step, "left out")) {
			last = now
			fmt.Fprintln(f, step)
		}
	}
}
