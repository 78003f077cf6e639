package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/pprof"
	"time"

	"lewes/bench/measure"
)

// None is what a call without parameters, or without a result, has in their place.
type None struct{}

// Handler answers one call.
type Handler func(ctx context.Context, params json.RawMessage) (any, error)

// Service is a worker that has started.
type Service struct {
	Result any // of the start, for who started it
	Calls  map[string]Handler
	Close  func() // may be nil
}

// Role makes a process what it is.
type Role func(ctx context.Context, params json.RawMessage) (*Service, error)

// Method makes a Handler of a function.
func Method[P, R any](f func(context.Context, P) (R, error)) Handler {
	return func(ctx context.Context, params json.RawMessage) (any, error) {
		var p P
		if err := json.Unmarshal(params, &p); err != nil {
			return nil, fmt.Errorf("parameters: %w", err)
		}
		return f(ctx, p)
	}
}

// Start makes a Role of a function.
func Start[P any](f func(context.Context, P) (*Service, error)) Role {
	return func(ctx context.Context, params json.RawMessage) (*Service, error) {
		var p P
		if err := json.Unmarshal(params, &p); err != nil {
			return nil, fmt.Errorf("parameters: %w", err)
		}
		return f(ctx, p)
	}
}

// request and answer are what goes over the pipes.
type request struct {
	Call   string          `json:"call"` // or "start"
	Role   string          `json:"role,omitempty"`
	Params json.RawMessage `json:"params"`
}

type answer struct {
	Result json.RawMessage `json:"result,omitempty"`
	Error  string          `json:"error,omitempty"`
}

// The calls that every worker has.
const (
	callUsage        = "usage"
	callSettle       = "settle"
	callProfileStart = "profile start"
	callProfileStop  = "profile stop"
)

// afterInput is how long a worker may take to end once its input has.
const afterInput = 2 * time.Second

// Main is a worker's main function: it serves its standard input until that ends.
func Main(roles map[string]Role) error {
	if err := enterNamespace(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	return Serve(ctx, inputThatEnds{input()}, os.Stdout, roles)
}

// inputThatEnds sees to it that the process does not outlive its input for long,
// whatever it is busy with.
type inputThatEnds struct{ io.Reader }

func (r inputThatEnds) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil {
		time.AfterFunc(afterInput, func() { os.Exit(1) })
	}
	return n, err
}

// Serve answers the requests in in until it ends, which ends the calls under way as
// well, by their context.
func Serve(ctx context.Context, in io.Reader, out io.Writer, roles map[string]Role) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	requests := make(chan request)
	go func() {
		defer close(requests)
		defer cancel()
		for decoder := json.NewDecoder(in); ; {
			var r request
			if decoder.Decode(&r) != nil {
				return
			}
			select {
			case requests <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	w := &served{roles: roles}
	defer w.close()
	encoder := json.NewEncoder(out)
	for r := range requests {
		var a answer
		result, err := w.answer(ctx, &r)
		if err == nil {
			a.Result, err = json.Marshal(result)
		}
		if err != nil {
			a = answer{Error: err.Error()}
		}
		if err := encoder.Encode(&a); err != nil {
			return fmt.Errorf("worker: answering %q: %w", r.Call, err)
		}
	}
	return nil
}

// served is a worker as it answers.
type served struct {
	roles   map[string]Role
	service *Service
	profile *os.File
}

func (w *served) answer(ctx context.Context, r *request) (any, error) {
	if r.Call == "start" {
		return w.start(ctx, r)
	}
	switch r.Call {
	case callUsage:
		return measure.Self(), nil
	case callSettle:
		measure.Settle()
		return measure.Self(), nil
	case callProfileStart:
		return None{}, w.startProfile(r.Params)
	case callProfileStop:
		return None{}, w.stopProfile()
	}
	if w.service == nil {
		return nil, fmt.Errorf("the worker has not been started, and is asked for %q", r.Call)
	}
	handler := w.service.Calls[r.Call]
	if handler == nil {
		return nil, fmt.Errorf("this worker has no call %q", r.Call)
	}
	return handler(ctx, r.Params)
}

func (w *served) start(ctx context.Context, r *request) (any, error) {
	role := w.roles[r.Role]
	switch {
	case w.service != nil:
		return nil, errors.New("the worker has been started already")
	case role == nil:
		return nil, fmt.Errorf("this program has no worker %q", r.Role)
	}
	service, err := role(ctx, r.Params)
	if err != nil {
		return nil, err
	}
	w.service = service
	return service.Result, nil
}

func (w *served) startProfile(params json.RawMessage) error {
	var file string
	if err := json.Unmarshal(params, &file); err != nil {
		return fmt.Errorf("parameters: %w", err)
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		_ = f.Close()
		return err
	}
	w.profile = f
	return nil
}

func (w *served) stopProfile() error {
	if w.profile == nil {
		return errors.New("no profile is being taken")
	}
	pprof.StopCPUProfile()
	err := w.profile.Close()
	w.profile = nil
	return err
}

func (w *served) close() {
	if w.profile != nil {
		_ = w.stopProfile() // what was profiled until now is better than nothing
	}
	if w.service != nil && w.service.Close != nil {
		w.service.Close()
	}
}
