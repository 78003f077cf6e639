//go:build linux

package scenario

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"lewes/bench/e2e/netns"
	"lewes/bench/load"
	"lewes/bench/measure"
	"lewes/bench/relay"
	"lewes/bench/report"
	"lewes/bench/sink"
	"lewes/bench/worker"
)

// Scenario is one measurement of a bench.
type Scenario struct {
	Name  string
	About string // one line
	run   func(context.Context, *env) error
}

// All returns the scenarios in the order in which they run.
func All() []Scenario {
	return []Scenario{
		{"bulk-out", "one client, one flow, full speed: client → gateway → target", bulk(0)},
		{"bulk-back", "the same in the other direction: target → gateway → client", bulk(1)},
		{"sizes", "bulk-out with payloads from 64 to 1400 bytes", sizes},
		{"sparse", "10,000 sessions in turn, one datagram each, so that nothing coalesces", sparse},
		{"many-flows", "10,000 flows of 40 sessions in turn, one datagram each", manyFlows},
		{"exit", "through an entry to an exit: client → entry → exit → target", chained},
		{"shards", "one shard and two", shards},
		{"tcp", "over TCP, one connection per packet, beside single datagrams", overTCP},
		{"delay", "the delay that a gateway adds, idle and half loaded", delay},
		{"handshakes", "new sessions", handshakes},
		{"subsessions", "new keys for established sessions", subsessions},
		{"idle", "memory of idle sessions", idle},
		{"register", "durable spends of tickets, and the start with 100,000 accounts", register},
		{"costs", "every kind of packet that a gateway can receive, beside a data packet", costTable},
	}
}

// Find returns the scenarios with the given names.
func Find(names []string) (found []Scenario, err error) {
	all := All()
	for _, name := range names {
		i := slices.IndexFunc(all, func(s Scenario) bool { return s.Name == strings.TrimSpace(name) })
		if i < 0 {
			var known []string
			for _, s := range all {
				known = append(known, s.Name)
			}
			return nil, fmt.Errorf("unknown scenario %q; the scenarios are %s", name, strings.Join(known, ", "))
		}
		found = append(found, all[i])
	}
	return found, nil
}

// The roles of the workers.
const (
	roleGateway    = "gateway"
	roleLoad       = "load"
	roleSink       = "sink"
	roleRelay      = "relay"
	roleOperations = "operations"
	roleSpending   = "spending"
	roleAccounts   = "accounts"
)

// Roles returns the roles that a program must offer as a worker to run a bench.
func Roles() map[string]worker.Role {
	return map[string]worker.Role{
		roleGateway: gatewayRole,
		roleLoad:    load.Role,
		roleSink:    sink.Role,
		roleRelay:   relay.Role,
		roleOperations: worker.Start(func(context.Context, worker.None) (*worker.Service, error) {
			return &worker.Service{Result: worker.None{}, Calls: map[string]worker.Handler{
				"measure": worker.Method(func(_ context.Context, d time.Duration) (*operations, error) {
					return measureOperations(d)
				}),
			}}, nil
		}),
		roleSpending:   worker.Start(startSpending),
		roleAccounts:   worker.Start(startAccounts),
		netns.RoleName: netns.Role,
	}
}

// Settings are the options of a bench.
type Settings struct {
	Launcher  worker.Launcher // starts a program that has Roles
	Scenarios []Scenario      // none means all
	Quick     bool            // few short trials
	Trial     time.Duration   // of a measured trial; 0 means 2 s, quick 0.3 s
	Rounds    int             // of trials; 0 means 7, quick 3
	Sessions  int             // of the scenario idle; 0 means 200,000, quick 5,000
	Gateways  []string        // programs to measure as gateways; none means the gateway of this tree
	Peers     string          // folder with the peers' sources; "" leaves them out
	Profiles  string          // folder for CPU profiles; "" takes none
	Progress  func(string)    // receives the current step; may be nil
	Command   string          // for the report
	Commit    string
}

// bench is a bench in progress.
type bench struct {
	settings Settings
	probe    time.Duration // length of a trial of a search
	searches int
	quiet    time.Duration // without arrivals, after which the rest counts as lost
	report   *report.Report
	peers    peers
	run      uint32
	scenario string
}

// patience bounds everything but trials: a start, a handshake.
const patience = 30 * time.Second

// Run runs the scenarios. If ctx ends, the report has the results so far.
func Run(ctx context.Context, s Settings) (*report.Report, error) {
	b := &bench{settings: s, probe: 500 * time.Millisecond, searches: 3, quiet: drainQuiet}
	rounds, sessions, trial := 7, 200_000, 2*time.Second
	if s.Quick {
		rounds, sessions, trial = 3, 5_000, 300*time.Millisecond
		b.probe, b.searches = 150*time.Millisecond, 1
	}
	set := &b.settings
	set.Rounds, set.Sessions, set.Trial = cmp.Or(s.Rounds, rounds), cmp.Or(s.Sessions, sessions), cmp.Or(s.Trial, trial)
	if len(set.Scenarios) == 0 {
		set.Scenarios = All()
	}
	if s.Profiles != "" {
		var err error
		if set.Profiles, err = filepath.Abs(s.Profiles); err == nil {
			err = os.MkdirAll(set.Profiles, 0o755)
		}
		if err != nil {
			return nil, fmt.Errorf("create folder for profiles: %w", err)
		}
	}
	b.report = &report.Report{
		Command: s.Command,
		Commit:  s.Commit,
		Began:   time.Now(),
		Quick:   s.Quick,
		Trial:   b.settings.Trial,
		Rounds:  b.settings.Rounds,
		Machine: report.ReadMachine(),
	}
	defer b.peers.remove()
	for _, scenario := range b.settings.Scenarios {
		if ctx.Err() != nil {
			break
		}
		b.scenario = scenario.Name
		e := &env{bench: b}
		err := scenario.run(ctx, e)
		e.stop()
		if err != nil && ctx.Err() == nil {
			b.leaveOut(scenario.Name, err)
		}
	}
	b.report.Took = time.Since(b.report.Began)
	return b.report, ctx.Err()
}

// progress reports the current step.
func (b *bench) progress(format string, args ...any) {
	if b.settings.Progress != nil {
		b.settings.Progress(b.scenario + ": " + fmt.Sprintf(format, args...))
	}
}

// leaveOut records a subject that could not be measured, once.
func (b *bench) leaveOut(what string, why error) {
	l := report.LeftOut{What: what, Why: why.Error()}
	if slices.Contains(b.report.LeftOut, l) {
		return
	}
	b.report.LeftOut = append(b.report.LeftOut, l)
	b.progress("left out: %s: %v", what, why)
}

// process is a subject: a worker, or a program of its own.
type process interface {
	Usage(context.Context) (measure.Usage, error)
	Stop()
}

// env has the processes of one scenario.
type env struct {
	*bench
	processes  []process
	pairs      []*netns.Pair
	topologies []*topology
}

// start starts a worker of this program.
func (e *env) start(ctx context.Context, role string, params, result any, where worker.Where) (*worker.Process, error) {
	return e.startOf(ctx, e.settings.Launcher, role, params, result, where)
}

// startOf starts a worker of another program.
func (e *env) startOf(ctx context.Context, l worker.Launcher, role string, params, result any, where worker.Where) (*worker.Process, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	p, err := l.Start(ctx, role, params, result, where)
	if err != nil {
		return nil, err
	}
	e.processes = append(e.processes, p)
	return p, nil
}

// stop ends all processes and forgets the topologies.
func (e *env) stop() {
	var ended sync.WaitGroup
	for _, p := range e.processes {
		ended.Go(p.Stop)
	}
	ended.Wait()
	for _, p := range e.pairs {
		p.Close()
	}
	e.processes, e.pairs, e.topologies = nil, nil, nil
}

// add adds a topology, or leaves it out if it could not be started.
func (e *env) add(t *topology, err error) *topology {
	if err != nil {
		if !errors.Is(err, context.Canceled) {
			e.leaveOut(e.scenario+", "+t.row.Subject, err)
		}
		return nil
	}
	e.topologies = append(e.topologies, t)
	return t
}

var errNothingMeasured = errors.New("nothing could be measured")
