// Package worker runs the parts of a bench in processes of their own, so that the CPU time of
// each can be measured.
//
// A worker is this program again, or another that calls Main. It reads requests as JSON from
// standard input, one at a time, and writes a response to each to standard output. The first
// request starts it in a role. Further requests are calls of that role, and a few that every
// worker has: resource usage and a CPU profile. A worker exits when its input ends, also if the
// bench was killed.
//
//	worker.Main(map[string]worker.Role{"sink": sink.Role})
//
// and in the bench
//
//	p, err := launcher.Start(ctx, "sink", sink.Params{…}, &at, worker.Where{})
//	defer p.Stop()
//	err = p.Call(ctx, "count", worker.None{}, &count)
//
// On Linux a worker can run in a new network namespace, which others can join. The namespace
// ends with its last process.
package worker
