package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lewes/bench/report"
	"lewes/bench/scenario"
	"lewes/bench/worker"
)

// Bounds of what a bench is asked for.
const (
	maxBenchTrial    = time.Minute
	maxBenchRounds   = 100
	maxBenchSessions = 2_000_000
)

// noPeers is what --peers is set to by who wants none.
const noPeers = "none"

func newBench() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "measure what a gateway costs on this machine",
		Long: `Bench measures what a datagram costs a gateway on this machine, beside a loop that
does nothing but receive and send, and beside other programs that do a like job. It
starts gateway, load and sink as processes of their own, over loopback, and prints a
table: the highest rate without loss, CPU time a datagram, delays, and ratios between
them. Ratios hold on a noisy machine; everything else is worth what the machine is.

The other programs, wireguard-go and masque-go, are built from bench/peers of the
project, if that is there and the program go is installed. WireGuard needs root: it runs
between two network namespaces that the bench makes and that are gone when it ends.
What cannot run is left out, and said.

All of it takes about half an hour, with --quick a few minutes. Ctrl-C ends it and
prints what was measured until then. Nothing is left behind.`,
		Example: `  lewes bench --quick
  lewes bench --list
  lewes bench --scenario bulk-out,sparse --duration 5s
  lewes bench --scenario idle --sessions 1000000
  lewes bench --json bench.json --markdown RESULTS.md     # charts beside it, in charts/
  lewes bench --scenario bulk-out --profile profiles      # for go tool pprof`,
		Args: arguments(0, 0, ""),
	}
	var o benchOptions
	flags := cmd.Flags()
	flags.BoolVar(&o.list, "list", false, "list the scenarios and measure nothing")
	flags.StringSliceVar(&o.scenarios, "scenario", nil, "`names` of scenarios, with commas between; all by default")
	flags.BoolVar(&o.quick, "quick", false, "short trials and few of them, for a first look")
	flags.DurationVar(&o.trial, "duration", 0, "how long one measured trial takes (default 2s, with --quick 300ms)")
	flags.IntVar(&o.rounds, "rounds", 0, "how many trials there are of each (default 7, with --quick 3)")
	flags.IntVar(&o.sessions, "sessions", 0, "how many sessions the scenario idle makes (default 200000, with --quick 5000)")
	flags.StringVar(&o.peers, "peers", "", "`folder` with the sources of the other programs, or none (default: bench/peers here or above)")
	flags.StringVar(&o.json, "json", "", "write everything to `FILE` as JSON; - is standard output, in place of the table")
	flags.StringVar(&o.markdown, "markdown", "", "write a page to `FILE`, with charts")
	flags.StringVar(&o.charts, "svg", "", "write charts to `folder` (default with --markdown: charts, beside the page)")
	flags.StringVar(&o.profiles, "profile", "", "write a CPU profile of the gateway to `folder` for each scenario")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return o.run(cmd) }
	cmd.AddCommand(newBenchWorker())
	return cmd
}

// newBenchWorker is how a bench starts its processes.
func newBenchWorker() *cobra.Command {
	return &cobra.Command{
		Use:    "worker",
		Short:  "be one of the processes of a bench, which speaks to it by standard input and output",
		Hidden: true,
		Args:   arguments(0, 0, ""),
		RunE:   func(*cobra.Command, []string) error { return worker.Main(scenario.Roles()) },
	}
}

type benchOptions struct {
	list, quick                             bool
	scenarios                               []string
	trial                                   time.Duration
	rounds, sessions                        int
	peers, json, markdown, charts, profiles string
}

func (o *benchOptions) run(cmd *cobra.Command) error {
	if o.list {
		for _, s := range scenario.All() {
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%-12s %s\n", s.Name, s.About); err != nil {
				return err
			}
		}
		return nil
	}
	settings, err := o.settings()
	if err != nil {
		return err
	}
	ctx, stop := untilSignal(cmd.Context(), cmd.ErrOrStderr())
	defer stop()
	show := newBenchProgress(cmd.ErrOrStderr())
	settings.Progress = show.say
	r, err := scenario.Run(ctx, *settings)
	show.clear()
	if r == nil {
		return err
	}
	if errors.Is(err, context.Canceled) {
		err = errors.New("it was ended before it had measured everything")
	}
	return errors.Join(o.write(cmd.OutOrStdout(), r), err)
}

func (o *benchOptions) settings() (*scenario.Settings, error) {
	found, err := scenario.Find(o.scenarios)
	switch {
	case err != nil:
		return nil, &usageError{err}
	case o.trial < 0 || o.trial > maxBenchTrial:
		return nil, usagef("--duration %v: a trial takes up to %v", o.trial, maxBenchTrial)
	case o.rounds < 0 || o.rounds > maxBenchRounds:
		return nil, usagef("--rounds %d: make from 1 to %d trials", o.rounds, maxBenchRounds)
	case o.sessions < 0 || o.sessions > maxBenchSessions:
		return nil, usagef("--sessions %d: make from 1 to %d", o.sessions, maxBenchSessions)
	}
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("a bench starts this program anew and cannot find it: %w", err)
	}
	peers := o.peers
	switch peers {
	case "":
		if here, err := os.Getwd(); err == nil {
			peers = scenario.FindPeers(here)
		}
	case noPeers:
		peers = ""
	}
	b := readBuild()
	return &scenario.Settings{
		Launcher:  worker.Launcher{Path: program, Args: []string{"bench", "worker"}},
		Scenarios: found,
		Quick:     o.quick,
		Trial:     o.trial,
		Rounds:    o.rounds,
		Sessions:  o.sessions,
		Peers:     peers,
		Profiles:  o.profiles,
		Command:   strings.Join(append([]string{"lewes"}, os.Args[1:]...), " "),
		Version:   strings.TrimSpace(b.Version + " " + b.Revision),
	}, nil
}

// write writes the report wherever it was asked for.
func (o *benchOptions) write(stdout io.Writer, r *report.Report) error {
	var errs []error
	if o.json == "-" {
		errs = append(errs, r.WriteJSON(stdout))
	} else {
		errs = append(errs, r.WriteTable(stdout))
		if o.json != "" {
			errs = append(errs, writeReport(o.json, r.WriteJSON))
		}
	}
	charts := o.charts
	if charts == "" && o.markdown != "" {
		charts = filepath.Join(filepath.Dir(o.markdown), "charts")
	}
	if charts != "" {
		errs = append(errs, r.WriteCharts(charts))
	}
	if o.markdown != "" {
		link := charts
		if relative, err := filepath.Rel(filepath.Dir(o.markdown), charts); err == nil {
			link = relative
		}
		errs = append(errs, writeReport(o.markdown, func(w io.Writer) error { return r.WriteMarkdown(w, filepath.ToSlash(link)) }))
	}
	return errors.Join(errs...)
}

// writeReport writes a file anew. One that was there stays until the new one is whole.
func writeReport(name string, write func(io.Writer) error) error {
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		f, err := os.OpenFile(name, os.O_WRONLY, 0) // a device or a pipe
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*.tmp")
	if err != nil {
		return err
	}
	err = errors.Join(write(f), f.Close())
	if err == nil {
		err = os.Chmod(f.Name(), 0o644)
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the error at hand is the one to tell
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// benchProgress says what a bench does: on a terminal in one line that is written over, else
// in a line every few seconds.
type benchProgress struct {
	w        io.Writer
	terminal bool
	last     time.Time
}

// progressInterval keeps a log of a bench short.
const progressInterval = 5 * time.Second

// overLine begins a line anew on a terminal.
const overLine = "\r\x1b[K"

func newBenchProgress(w io.Writer) *benchProgress {
	p := &benchProgress{w: w}
	if f, ok := w.(*os.File); ok {
		if info, err := f.Stat(); err == nil {
			p.terminal = info.Mode()&os.ModeCharDevice != 0
		}
	}
	return p
}

func (p *benchProgress) say(what string) {
	switch now := time.Now(); {
	case p.terminal:
		if line := []rune(what); len(line) > 78 {
			what = string(line[:77]) + "…"
		}
		fmt.Fprint(p.w, overLine+what)
	case now.Sub(p.last) >= progressInterval || strings.Contains(what, "left out"):
		p.last = now
		fmt.Fprintln(p.w, what)
	}
}

func (p *benchProgress) clear() {
	if p.terminal {
		fmt.Fprint(p.w, overLine)
	}
}
