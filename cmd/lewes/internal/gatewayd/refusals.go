package gatewayd

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"lewes/crypto/identity"
	"lewes/router/unlisted"
)

const (
	// refusalLines bounds the log lines about unlisted clients in each refusalInterval.
	refusalLines    = 10
	refusalInterval = time.Minute
)

// refusals passes unlisted clients, each of which the router reports once, to the log at a bounded rate.
// It is safe for concurrent use.
type refusals struct {
	queue chan refusal // to the goroutine that logs

	mu      sync.Mutex
	began   time.Time // of the interval
	lines   int       // in the interval
	skipped int       // identities without a line
}

// refusal is a line of the log.
type refusal struct {
	unlisted.Entry
	skipped int // identities before it
}

func newRefusals() *refusals { return &refusals{queue: make(chan refusal, refusalLines)} }

// note queues a line. It never blocks: the shard that calls it holds its lock.
func (r *refusals) note(e unlisted.Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Last.Sub(r.began) >= refusalInterval {
		r.began, r.lines = e.Last, 0
	}
	if r.lines == refusalLines {
		r.skipped++
		return
	}
	select {
	case r.queue <- refusal{e, r.skipped}:
		r.lines++
		r.skipped = 0
	default: // the log is slow
		r.skipped++
	}
}

// serve logs the queued lines until ctx is done. command returns the command that adds a client.
func (r *refusals) serve(ctx context.Context, log *zap.Logger, command func(identity.PublicKey) string) {
	for {
		select {
		case <-ctx.Done():
			return
		case one := <-r.queue:
			fields := []zap.Field{zap.Stringer("source", one.Source), zap.String("add_with", command(one.Identity))}
			if one.skipped > 0 {
				fields = append(fields, zap.Int("others_not_logged", one.skipped))
			}
			log.Warn("refused a client that is not in the list; add it only if you know this identity", fields...)
		}
	}
}
