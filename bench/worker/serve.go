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

// None stands for no parameters or no result.
type None struct{}

// Handler handles a call.
type Handler func(ctx context.Context, params json.RawMessage) (any, error)

// Service is a worker that has started.
type Service struct {
	Result any // of the start
	Calls  map[string]Handler
	Close  func() // may be nil
}

// Role starts a service.
type Role func(ctx context.Context, params json.RawMessage) (*Service, error)

// Method makes a Handler from a function.
func Method[P, R any](f func(context.Context, P) (R, error)) Handler {
	return func(ctx context.Context, params json.RawMessage) (any, error) {
		var p P
		if err := json.Unmarshal(params, &p); err != nil {
			return nil, fmt.Errorf("parameters: %w", err)
		}
		return f(ctx, p)
	}
}

// Start makes a Role from a function.
func Start[P any](f func(context.Context, P) (*Service, error)) Role {
	return func(ctx context.Context, params json.RawMessage) (*Service, error) {
		var p P
		if err := json.Unmarshal(params, &p); err != nil {
			return nil, fmt.Errorf("parameters: %w", err)
		}
		return f(ctx, p)
	}
}

// request and response are the messages on the pipes.
type request struct {
	Call   string          `json:"call"` // or "start"
	Role   string          `json:"role,omitempty"`
	Params json.RawMessage `json:"params"`
}

type response struct {
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

// afterInput is how long a worker may take to exit after its input has ended.
const afterInput = 2 * time.Second

// Main is the main function of a worker: it serves standard input until that ends.
func Main(roles map[string]Role) error {
	if err := enterNamespace(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	return Serve(ctx, exitingInput{input()}, os.Stdout, roles)
}

// exitingInput exits the process some time after its input has ended, even if a call hangs.
type exitingInput struct{ io.Reader }

func (r exitingInput) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil {
		time.AfterFunc(afterInput, func() { os.Exit(1) })
	}
	return n, err
}

// Serve handles the requests in in until it ends, which cancels the current call.
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
		var a response
		result, err := w.handle(ctx, &r)
		if err == nil {
			a.Result, err = json.Marshal(result)
		}
		if err != nil {
			a = response{Error: err.Error()}
		}
		if err := encoder.Encode(&a); err != nil {
			return fmt.Errorf("worker: respond to %q: %w", r.Call, err)
		}
	}
	return nil
}

// served is the state of a worker.
type served struct {
	roles   map[string]Role
	service *Service
	profile *os.File
}

func (w *served) handle(ctx context.Context, r *request) (any, error) {
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
		return nil, fmt.Errorf("call %q before start", r.Call)
	}
	handler := w.service.Calls[r.Call]
	if handler == nil {
		return nil, fmt.Errorf("no call %q", r.Call)
	}
	return handler(ctx, r.Params)
}

func (w *served) start(ctx context.Context, r *request) (any, error) {
	role := w.roles[r.Role]
	switch {
	case w.service != nil:
		return nil, errors.New("already started")
	case role == nil:
		return nil, fmt.Errorf("no role %q", r.Role)
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
		return errors.New("no profile was started")
	}
	pprof.StopCPUProfile()
	err := w.profile.Close()
	w.profile = nil
	return err
}

func (w *served) close() {
	if w.profile != nil {
		_ = w.stopProfile() // an incomplete profile is still useful
	}
	if w.service != nil && w.service.Close != nil {
		w.service.Close()
	}
}
