package router

import (
	"context"
	"math"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// How a gateway that is given a memory limit keeps to it (section 12 of PROTOCOL.md).
// Between the two shares nothing changes, so that it does not waver.
const (
	memoryShort  = 80 // percent of the limit: above, new handshakes are refused
	memoryEnough = 75 // percent of the limit: below, they are taken again
	memoryNear   = 50 // percent of the limit: above, it is looked at more often

	memoryEvery     = time.Second
	memoryEveryNear = 100 * time.Millisecond
	collectEvery    = 10 * time.Second // garbage, while memory is short
)

// memory watches how much of its limit the process uses. The limit is the Go
// runtime's (GOMEMLIMIT). The zero value is one that has enough.
type memory struct {
	short       atomic.Bool
	used, limit atomic.Uint64 // bytes when last looked; limit 0: there is none

	// Of the goroutine that looks.
	read      func() (used, limit uint64)
	collect   func()
	collected time.Time
}

// readMemory returns what the Go runtime holds of the system's memory and needs, and
// its limit, 0 where there is none. What it could give back at once does not count.
func readMemory() (used, limit uint64) {
	samples := [...]metrics.Sample{
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(samples[:])
	used = samples[0].Value.Uint64() - samples[1].Value.Uint64() - samples[2].Value.Uint64()
	if n := debug.SetMemoryLimit(-1); n != math.MaxInt64 {
		limit = uint64(n)
	}
	return used, limit
}

// look finds out whether memory is short and returns when to look again. Before it
// says so, and now and then as long as it does, garbage is collected: nothing else
// would, once nothing new comes in.
func (m *memory) look(now time.Time, log *zap.Logger) (again time.Duration) {
	used, limit := m.read()
	above := func(percent uint64) bool { return limit > 0 && used*100 > limit*percent }
	short := m.short.Load()
	if (short || above(memoryShort)) && now.Sub(m.collected) >= collectEvery {
		m.collect()
		m.collected = now
		used, limit = m.read()
	}
	m.used.Store(used)
	m.limit.Store(limit)
	switch figures := []zap.Field{zap.Uint64("used_bytes", used), zap.Uint64("limit_bytes", limit)}; {
	case !short && above(memoryShort):
		m.short.Store(true)
		log.Warn("memory is short: new handshakes are refused, sessions go on", figures...)
	case short && !above(memoryEnough):
		m.short.Store(false)
		log.Info("memory suffices: new handshakes are taken again", figures...)
	}
	if above(memoryNear) {
		return memoryEveryNear
	}
	return memoryEvery
}

// watchMemory looks until ctx is done.
func (g *Gateway) watchMemory(ctx context.Context) {
	for sleep(ctx, g.memory.look(time.Now(), g.log)) {
	}
}
