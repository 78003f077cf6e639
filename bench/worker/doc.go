// Package worker runs the parts of a bench as processes of their own, so that each has CPU time
// of its own, and asks them things.
//
// A worker is the same program again, or another that calls Main. It reads requests
// as JSON from its standard input, one at a time, and writes an answer to each to its
// standard output. The first request starts it in a role, with parameters; the rest
// are calls that the role has, and a few that all have: what the process has used, a
// profile. When its input ends, because the bench is over or was killed, it ends.
//
//	worker.Main(map[string]worker.Role{"sink": sink.Role})
//
// and at the other end
//
//	p, err := launcher.Start(ctx, "sink", sink.Params{…}, &at, worker.Where{})
//	defer p.Stop()
//	err = p.Call(ctx, "count", worker.None{}, &count)
//
// On Linux a worker can be given a network of its own, with nothing in it, and others
// can join it there. It is gone when its last process is.
package worker
