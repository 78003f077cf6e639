package sink

import (
	"context"
	"net/netip"

	"lewes/bench/worker"
)

// Params start a sink as a worker, which answers with its address. The calls are
// "expect" (a run), "count", "sources" and "send" (a Plan).
type Params struct {
	At netip.AddrPort `json:"at"`
}

// Role is a sink as a worker.
var Role = worker.Start(func(_ context.Context, p Params) (*worker.Service, error) {
	s, err := New(p.At)
	if err != nil {
		return nil, err
	}
	return &worker.Service{
		Result: s.Addr(),
		Close:  s.Close,
		Calls: map[string]worker.Handler{
			"expect": worker.Method(func(_ context.Context, run uint32) (worker.None, error) {
				s.Expect(run)
				return worker.None{}, nil
			}),
			"count":   worker.Method(func(context.Context, worker.None) (Count, error) { return s.Count(), nil }),
			"sources": worker.Method(func(context.Context, worker.None) (int, error) { return s.Sources(), nil }),
			"send":    worker.Method(s.Send),
		},
	}, nil
})
