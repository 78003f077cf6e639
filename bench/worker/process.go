package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"lewes/bench/measure"
)

// stopWait is how long a worker may take to end before it is killed.
const stopWait = 4 * time.Second

// Launcher knows how a worker is started.
type Launcher struct {
	Path string   // of the program
	Args []string // that make it call Main
	Env  []string // in addition to this process's
}

// Where says in which network a worker runs. The zero value is this process's own.
type Where struct {
	New bool     // one of its own, with nothing in it
	In  *Process // that of another worker
}

// ErrNoNamespaces means that this system has no network namespaces, or that this user may
// not make one.
var ErrNoNamespaces = errors.New("no network namespace can be made here")

// Process is a worker under way. Its methods may be called by several goroutines; the
// worker answers one call after the other.
type Process struct {
	role   string
	cmd    *exec.Cmd
	input  io.WriteCloser
	stderr *tail

	mu      sync.Mutex
	encoder *json.Encoder
	answers chan answer // closed when the worker's output ends
	broken  error

	once  sync.Once
	ended chan struct{}
}

// Start starts a worker in a role and fills result with what it says, unless that is nil.
func (l Launcher) Start(ctx context.Context, role string, params, result any, where Where) (*Process, error) {
	p, err := l.start(role, where)
	if err != nil {
		return nil, fmt.Errorf("worker %q: %w", role, err)
	}
	if err := p.do(ctx, request{Call: "start", Role: role}, params, result); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

func (l Launcher) start(role string, where Where) (*Process, error) {
	cmd := exec.Command(l.Path, l.Args...)
	cmd.Env = append(os.Environ(), l.Env...)
	if err := isolate(cmd, where); err != nil {
		return nil, err
	}
	p := &Process{role: role, cmd: cmd, stderr: new(tail), answers: make(chan answer), ended: make(chan struct{})}
	cmd.Stderr = p.stderr
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		if where.New && errors.Is(err, os.ErrPermission) {
			return nil, fmt.Errorf("%w: %w; run as root", ErrNoNamespaces, err)
		}
		return nil, err
	}
	p.input, p.encoder = input, json.NewEncoder(input)
	go p.read(output)
	return p, nil
}

// read passes the worker's answers on until it ends.
func (p *Process) read(output io.Reader) {
	for decoder := json.NewDecoder(output); ; {
		var a answer
		if decoder.Decode(&a) != nil {
			break
		}
		select {
		case p.answers <- a:
		case <-p.ended:
		}
	}
	close(p.answers)
	_ = p.cmd.Wait() // how it ended is of no matter any more
	close(p.ended)
}

// PID returns the worker's process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Call asks the worker and fills result with the answer, unless that is nil. Where ctx
// ends first, the worker cannot be asked again.
func (p *Process) Call(ctx context.Context, call string, params, result any) error {
	return p.do(ctx, request{Call: call}, params, result)
}

func (p *Process) do(ctx context.Context, r request, params, result any) error {
	what := r.Call
	if what == "start" {
		what = "starting"
	}
	if err := p.exchange(ctx, r, params, result); err != nil {
		return fmt.Errorf("worker %q: %s: %w", p.role, what, err)
	}
	return nil
}

func (p *Process) exchange(ctx context.Context, r request, params, result any) (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil {
		return p.broken
	}
	if r.Params, err = json.Marshal(params); err != nil {
		return err
	}
	if err := p.encoder.Encode(&r); err != nil {
		p.broken = p.gone()
		return p.broken
	}
	select {
	case <-ctx.Done():
		p.broken = ctx.Err()
		return p.broken
	case a, ok := <-p.answers:
		switch {
		case !ok:
			p.broken = p.gone()
			return p.broken
		case a.Error != "":
			return errors.New(a.Error)
		case result == nil:
			return nil
		}
		return json.Unmarshal(a.Result, result)
	}
}

// gone says why there is no answer.
func (p *Process) gone() error {
	<-p.ended
	if said := strings.TrimSpace(p.stderr.String()); said != "" {
		return fmt.Errorf("it has ended (%v) and said: %s", p.cmd.ProcessState, said)
	}
	return fmt.Errorf("it has ended (%v)", p.cmd.ProcessState)
}

// Usage returns what the worker has used so far.
func (p *Process) Usage(ctx context.Context) (u measure.Usage, err error) {
	err = p.Call(ctx, callUsage, None{}, &u)
	return u, err
}

// Settle makes the worker give back what memory it does not need, and returns what it
// has used.
func (p *Process) Settle(ctx context.Context) (u measure.Usage, err error) {
	err = p.Call(ctx, callSettle, None{}, &u)
	return u, err
}

// StartProfile makes the worker write a CPU profile to a file until StopProfile.
func (p *Process) StartProfile(ctx context.Context, file string) error {
	return p.Call(ctx, callProfileStart, file, nil)
}

// StopProfile ends the profile.
func (p *Process) StopProfile(ctx context.Context) error {
	return p.Call(ctx, callProfileStop, None{}, nil)
}

// Stop ends the worker and waits until it is gone.
func (p *Process) Stop() {
	p.once.Do(func() {
		_ = p.input.Close()
		kill := time.AfterFunc(stopWait, func() { _ = p.cmd.Process.Kill() })
		defer kill.Stop()
		for {
			select {
			case <-p.answers: // of a call that nobody waits for any more
			case <-p.ended:
				return
			}
		}
	})
	<-p.ended
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	kept []byte
}

const tailSize = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - tailSize; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.kept)
}
