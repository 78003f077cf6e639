package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"lewes/bench/measure"
)

// stopWait is how long a worker may take to exit before it is killed.
const stopWait = 4 * time.Second

// Launcher starts workers.
type Launcher struct {
	Path string   // of the program
	Args []string // that make it call Main
	Env  []string // in addition to this process's
}

// Where selects the network of a worker. The zero value is this process's own.
type Where struct {
	New bool     // a new, empty one
	In  *Process // that of another worker
}

// ErrNoNamespaces means that this system has no network namespaces, or that this user must not
// create one.
var ErrNoNamespaces = errors.New("worker: network namespaces are not available")

// Process is a running worker. Its methods are safe for concurrent use; the worker handles one
// call at a time.
type Process struct {
	role   string
	cmd    *exec.Cmd
	input  io.WriteCloser
	stderr *tail

	mu        sync.Mutex
	encoder   *json.Encoder
	responses chan response // closed when the worker's output ends
	broken    error

	once  sync.Once
	ended chan struct{}
}

// Start starts a worker in a role and stores the result of the role in result, unless that is nil.
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
	p := &Process{role: role, cmd: cmd, stderr: new(tail), responses: make(chan response), ended: make(chan struct{})}
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

// read delivers the worker's responses until it exits.
func (p *Process) read(output io.Reader) {
	for decoder := json.NewDecoder(output); ; {
		var r response
		if decoder.Decode(&r) != nil {
			break
		}
		select {
		case p.responses <- r:
		case <-p.ended:
		}
	}
	close(p.responses)
	_ = p.cmd.Wait() // ProcessState holds the result
	close(p.ended)
}

// PID returns the worker's process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Call performs a call and stores the response in result, unless that is nil. If ctx ends first,
// no further call is possible.
func (p *Process) Call(ctx context.Context, call string, params, result any) error {
	return p.do(ctx, request{Call: call}, params, result)
}

func (p *Process) do(ctx context.Context, r request, params, result any) error {
	if err := p.exchange(ctx, r, params, result); err != nil {
		return fmt.Errorf("worker %q: %s: %w", p.role, r.Call, err)
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
	if p.encoder.Encode(&r) != nil {
		p.broken = p.exitError()
		return p.broken
	}
	select {
	case <-ctx.Done():
		p.broken = ctx.Err()
		return p.broken
	case a, ok := <-p.responses:
		switch {
		case !ok:
			p.broken = p.exitError()
			return p.broken
		case a.Error != "":
			return errors.New(a.Error)
		case result == nil:
			return nil
		}
		return json.Unmarshal(a.Result, result)
	}
}

// exitError returns the reason for a missing response.
func (p *Process) exitError() error {
	<-p.ended
	return fmt.Errorf("worker exited: %v: %s", p.cmd.ProcessState, strings.TrimSpace(p.stderr.String()))
}

// Usage returns the worker's usage so far.
func (p *Process) Usage(ctx context.Context) (u measure.Usage, err error) {
	err = p.Call(ctx, callUsage, None{}, &u)
	return u, err
}

// Settle makes the worker return unused memory to the system, and returns its usage.
func (p *Process) Settle(ctx context.Context) (u measure.Usage, err error) {
	err = p.Call(ctx, callSettle, None{}, &u)
	return u, err
}

// StartProfile starts a CPU profile of the worker.
func (p *Process) StartProfile(ctx context.Context, file string) error {
	return p.Call(ctx, callProfileStart, file, nil)
}

// StopProfile completes the profile.
func (p *Process) StopProfile(ctx context.Context) error {
	return p.Call(ctx, callProfileStop, None{}, nil)
}

// Stop stops the worker and waits for its exit.
func (p *Process) Stop() {
	p.once.Do(func() {
		_ = p.input.Close()
		kill := time.AfterFunc(stopWait, func() { _ = p.cmd.Process.Kill() })
		defer kill.Stop()
		for {
			select {
			case <-p.responses: // to a call that was abandoned
			case <-p.ended:
				return
			}
		}
	})
	<-p.ended
}

// tail keeps the end of its input.
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

// RunTests builds cmd/lewes, stores the path of the program in file, runs the tests, and returns
// their exit code. The program is removed afterwards.
func RunTests(m interface{ Run() int }, file *string) int {
	dir, err := os.MkdirTemp("", "lewes-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	*file = filepath.Join(dir, "lewes.exe") // a name that works on every system
	build := exec.Command("go", "build", "-o", *file, "lewes/cmd/lewes")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build lewes:", err)
		return 1
	}
	return m.Run()
}
