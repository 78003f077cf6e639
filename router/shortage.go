package router

import (
	"sync"
	"time"

	"go.uber.org/zap"

	"lewes/router/egress"
	"lewes/state/wire"
)

// shortageInterval is the least time between two log lines about sockets that could not be opened.
const shortageInterval = time.Minute

// shortages logs that the machine lacks something for the sockets of flows. The gateway's shards
// share it.
type shortages struct {
	mu    sync.Mutex
	last  time.Time
	count uint64 // since the last line
}

// add counts a socket, and logs the count at most once a minute.
func (s *shortages) add(now time.Time, log *zap.Logger, what string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count++; !s.last.IsZero() && now.Sub(s.last) < shortageInterval {
		return
	}
	log.Warn("cannot open sockets for flows", zap.String("lacking", what), zap.Uint64("refused", s.count), zap.Error(err))
	s.last, s.count = now, 0
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
