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
	return func(ctx context.Context, params json.RawMessage) (any, error) { return decoded(f)(ctx, params) }
}

// Start makes a Role from a function.
func Start[P any](f func(context.Context, P) (*Service, error)) Role { return decoded(f) }

// decoded returns f with parameters in JSON.
func decoded[P, R any](f func(context.Context, P) (R, error)) func(context.Context, json.RawMessage) (R, error) {
	return func(ctx context.Context, params json.RawMessage) (result R, err error) {
		var p P
		if err := json.Unmarshal(params, &p); err != nil {
			return result, fmt.Errorf("parameters: %w", err)
		}
		return f(ctx, p)
	}
}

// request and response are the messages on the pipes.
type request struct {
	Call   string          `json:"call"`
	Role   string          `json:"role,omitempty"`
	Params json.RawMessage `json:"params"`
}

type response struct {
	Result json.RawMessage `json:"result,omitempty"`
	Error  string          `json:"error,omitempty"`
}

// The calls that every worker has.
const (
	callStart   = "start"
	callUsage   = "usage"
	callSettle  = "settle"
	callProfile = "profile"
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
	switch {
	case r.Call == callStart:
		return w.start(ctx, r)
	case r.Call == callUsage:
		return measure.Self(), nil
	case r.Call == callSettle:
		measure.Settle()
		return measure.Self(), nil
	case r.Call == callProfile:
		return Method(w.setProfile)(ctx, r.Params)
	case w.service == nil || w.service.Calls[r.Call] == nil:
		return nil, fmt.Errorf("no call %q", r.Call)
	}
	return w.service.Calls[r.Call](ctx, r.Params)
}

func (w *served) start(ctx context.Context, r *request) (_ any, err error) {
	role := w.roles[r.Role]
	switch {
	case w.service != nil:
		return nil, errors.New("already started")
	case role == nil:
		return nil, fmt.Errorf("no role %q", r.Role)
	}
	if w.service, err = role(ctx, r.Params); err != nil {
		return nil, err
	}
	return w.service.Result, nil
}

// setProfile starts a profile, or completes it if file is "".
func (w *served) setProfile(_ context.Context, file string) (_ None, err error) {
	if file != "" {
		if w.profile, err = os.Create(file); err == nil {
			err = pprof.StartCPUProfile(w.profile)
		}
		return None{}, err
	}
	pprof.StopCPUProfile()
	return None{}, w.profile.Close() // an error if none was started
}

func (w *served) close() {
	pprof.StopCPUProfile() // an incomplete profile is still useful
	if w.service != nil && w.service.Close != nil {
		w.service.Close()
	}
}
