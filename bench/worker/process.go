package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
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
	stderr tail
	stop   sync.Once

	mu      sync.Mutex
	encoder *json.Encoder
	decoder *json.Decoder
	broken  error
}

// Start starts a worker in a role and stores the result of the role in result, unless that is nil.
func (l Launcher) Start(ctx context.Context, role string, params, result any, where Where) (*Process, error) {
	p := &Process{role: role, cmd: exec.Command(l.Path, l.Args...)}
	if err := p.start(l.Env, where); err != nil {
		return nil, fmt.Errorf("worker %q: %w", role, err)
	}
	if err := p.do(ctx, request{Call: callStart, Role: role}, params, result); err != nil {
		p.Stop()
		return nil, err
	}
	return p, nil
}

func (p *Process) start(env []string, where Where) error {
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = &p.stderr
	if err := isolate(p.cmd, where); err != nil {
		return err
	}
	output, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if p.input, err = p.cmd.StdinPipe(); err != nil {
		return err
	}
	p.encoder, p.decoder = json.NewEncoder(p.input), json.NewDecoder(output)
	if err = p.cmd.Start(); where.New && errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w: %w; run as root", ErrNoNamespaces, err)
	}
	return err
}

// PID returns the worker's process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Call performs a call and stores the response in result, unless that is nil. If ctx ends first,
// no further call is possible.
func (p *Process) Call(ctx context.Context, call string, params, result any) error {
	return p.do(ctx, request{Call: call}, params, result)
}

func (p *Process) do(ctx context.Context, r request, params, result any) error {
	if err := p.exchange(ctx, &r, params, result); err != nil {
		return fmt.Errorf("worker %q: %s: %w", p.role, r.Call, err)
	}
	return nil
}

func (p *Process) exchange(ctx context.Context, r *request, params, result any) (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil {
		return p.broken
	}
	if r.Params, err = json.Marshal(params); err != nil {
		return err
	}
	a := new(response)
	done := make(chan error, 1)
	go func() {
		err := p.encoder.Encode(r)
		if err == nil {
			err = p.decoder.Decode(a)
		}
		done <- err
	}()
	select {
	case <-ctx.Done():
		p.broken = ctx.Err()
		return p.broken
	case err := <-done:
		switch {
		case err != nil:
			p.Stop()
			p.broken = fmt.Errorf("worker exited: %v: %s", p.cmd.ProcessState, bytes.TrimSpace(p.stderr))
			return p.broken
		case a.Error != "":
			return errors.New(a.Error)
		case result == nil:
			return nil
		}
		return json.Unmarshal(a.Result, result)
	}
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

// Profile starts a CPU profile of the worker in a file, or completes it if file is "".
func (p *Process) Profile(ctx context.Context, file string) error {
	return p.Call(ctx, callProfile, file, nil)
}

// Stop stops the worker and waits for its exit.
func (p *Process) Stop() {
	p.stop.Do(func() {
		_ = p.input.Close()
		kill := time.AfterFunc(stopWait, func() { _ = p.cmd.Process.Kill() })
		_ = p.cmd.Wait() // ProcessState holds the result
		kill.Stop()
	})
}

// tail keeps the end of its input.
type tail []byte

func (t *tail) Write(p []byte) (int, error) {
	const size = 4 << 10
	*t = append(*t, p...)
	*t = (*t)[max(0, len(*t)-size):]
	return len(p), nil
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
