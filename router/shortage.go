package router

import (
	"sync"
	"time"

	"go.uber.org/zap"

	"lewes/router/egress"
	"lewes/state/ratelimit"
	"lewes/state/wire"
)

// shortages logs that the machine lacks something for the sockets of flows, once a minute with the count.
// The gateway's shards share it.
type shortages struct {
	mu      sync.Mutex
	repeats ratelimit.Repeats
}

// add counts a socket.
func (s *shortages) add(now time.Time, log *zap.Logger, what string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if skipped, ok := s.repeats.Add(now, 1); ok {
		log.Warn("cannot open sockets for flows", zap.String("lacking", what), zap.Uint64("refused", skipped+1), zap.Error(err))
	}
}

// dialFailed returns the reason that the client gets for a failed Dial: only what the machine lacks
// is the gateway's shortage.
func (st *shardState) dialFailed(err error) (wire.FlowReason, string) {
	what := egress.Shortage(err)
	if what == "" {
		return wire.FlowUnreachable, "no way to the target"
	}
	st.shortages.add(st.now(), st.config.Logger, what, err)
	return wire.FlowBound, "the gateway is out of " + what
}
