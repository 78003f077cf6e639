package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"lewes/bench/e2e/netns"
	"lewes/bench/gateway"
	"lewes/bench/load"
	"lewes/bench/machine"
	"lewes/bench/operations"
	"lewes/bench/relay"
	"lewes/bench/report"
	"lewes/bench/sink"
	"lewes/bench/worker"
)

// The roles of the workers that a bench starts.
const (
	roleGateway    = "gateway"
	roleLoad       = "load"
	roleSink       = "sink"
	roleRelay      = "relay"
	roleOperations = "operations"
)

// Roles is what a program has to offer as workers that is to run a bench.
func Roles() map[string]worker.Role {
	return map[string]worker.Role{
		roleGateway:    gateway.Role,
		roleLoad:       load.Role,
		roleSink:       sink.Role,
		roleRelay:      relay.Role,
		roleOperations: operations.Role,
		netns.RoleName: netns.Role,
	}
}

// Settings say what to run and how.
type Settings struct {
	Launcher  worker.Launcher // starts a program that has Roles
	Scenarios []Scenario      // none means all
	Quick     bool            // short trials and few of them
	Trial     time.Duration   // of a measured trial; 0 means 2 s, quick 0.3 s
	Rounds    int             // of trials; 0 means 7, quick 3
	Sessions  int             // of the scenario idle; 0 means 200,000, quick 5,000
	Peers     string          // the folder with the peers' programs; empty leaves them out
	Profiles  string          // a folder for CPU profiles; empty takes none
	Progress  func(string)    // told what is done now; may be nil

	Command, Version string // for the report
}

// Bench is a run under way.
type Bench struct {
	settings Settings
	probe    time.Duration // of one trial of a search
	searches int
	report   *report.Report
	peers    peers
	run      uint32
	doing    string
}

// patience bounds what is not a trial: a start, a handshake.
const patience = 30 * time.Second

// Run runs the scenarios. The report has what was measured until an error, or the end of
// ctx, stopped it.
func Run(ctx context.Context, s Settings) (*report.Report, error) {
	b := &Bench{settings: s, probe: 500 * time.Millisecond, searches: 3}
	if s.Quick {
		b.probe, b.searches = 150*time.Millisecond, 1
	}
	b.fill()
	b.report = &report.Report{
		Command: s.Command,
		Version: s.Version,
		Began:   time.Now(),
		Quick:   s.Quick,
		Trial:   b.settings.Trial,
		Rounds:  b.settings.Rounds,
		Machine: machine.Read(),
	}
	defer b.peers.remove()
	if dir := b.settings.Profiles; dir != "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("the folder for profiles: %w", err)
		}
		absolute, err := filepath.Abs(dir) // workers may be elsewhere
		if err != nil {
			return nil, err
		}
		b.settings.Profiles = absolute
	}
	for _, scenario := range b.settings.Scenarios {
		if ctx.Err() != nil {
			break
		}
		b.doing = scenario.Name
		if err := b.one(ctx, scenario); err != nil && ctx.Err() == nil {
			b.leaveOut(scenario.Name, err)
		}
	}
	b.report.Compare()
	b.report.Targets = targets(b.report)
	b.report.Took = time.Since(b.report.Began)
	return b.report, ctx.Err()
}

func (b *Bench) fill() {
	s := &b.settings
	if len(s.Scenarios) == 0 {
		s.Scenarios = All()
	}
	byDefault := func(v *int, full, quick int) {
		switch {
		case *v > 0:
		case s.Quick:
			*v = quick
		default:
			*v = full
		}
	}
	byDefault(&s.Rounds, 7, 3)
	byDefault(&s.Sessions, 200_000, 5_000)
	if s.Trial <= 0 {
		if s.Trial = 2 * time.Second; s.Quick {
			s.Trial = 300 * time.Millisecond
		}
	}
}

// one runs a scenario with a crew of its own.
func (b *Bench) one(ctx context.Context, s Scenario) error {
	c := &crew{bench: b}
	defer c.stop()
	return s.run(ctx, c)
}

// say tells what is done now.
func (b *Bench) say(format string, args ...any) {
	if b.settings.Progress != nil {
		b.settings.Progress(b.doing + ": " + fmt.Sprintf(format, args...))
	}
}

// leaveOut notes what could not be measured, once.
func (b *Bench) leaveOut(what string, why error) {
	l := report.LeftOut{What: what, Why: why.Error()}
	for _, known := range b.report.LeftOut {
		if known == l {
			return
		}
	}
	b.report.LeftOut = append(b.report.LeftOut, l)
	b.say("left out: %s: %v", what, why)
}

// crew is the processes of one scenario.
type crew struct {
	bench     *Bench
	processes []*worker.Process
	pairs     []*netns.Pair
}

// start starts a worker of this program.
func (c *crew) start(ctx context.Context, role string, params, result any, where worker.Where) (*worker.Process, error) {
	return c.startOf(ctx, c.bench.settings.Launcher, role, params, result, where)
}

// startOf starts a worker of another program.
func (c *crew) startOf(ctx context.Context, l worker.Launcher, role string, params, result any, where worker.Where) (*worker.Process, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	p, err := l.Start(ctx, role, params, result, where)
	if err != nil {
		return nil, err
	}
	c.processes = append(c.processes, p)
	return p, nil
}

// stop ends all of them.
func (c *crew) stop() {
	done := make(chan struct{})
	for _, p := range c.processes {
		go func() {
			p.Stop()
			done <- struct{}{}
		}()
	}
	for range c.processes {
		<-done
	}
	for _, p := range c.pairs {
		p.Close()
	}
	c.processes, c.pairs = nil, nil
}

// errNotMeasured is for what is there and gives no figure.
var errNotMeasured = errors.New("nothing could be measured")
