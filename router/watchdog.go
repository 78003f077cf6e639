package router

import (
	"cmp"
	"context"
	"errors"
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Intervals of the background work.
const (
	resolveInterval = 5 * time.Minute // of the directory's names
	addressInterval = time.Minute     // of the host's own addresses, which the policy denies
	minNetworkPause = time.Second     // between two changes of the network that are applied to open flows
)

// renewKeys renews the KEM keys when they are due.
func (g *Gateway) renewKeys(ctx context.Context) {
	for {
		next, err := g.kems.Tick(g.config.Clock())
		if err != nil {
			g.log.Error("cannot renew the KEM keys", zap.Error(err))
		}
		if !sleep(ctx, next.Sub(g.config.Clock())) {
			return
		}
	}
}

// watchNetwork signals each change of the system's network until ctx is done, or periodically where
// changes are not reported.
func (g *Gateway) watchNetwork(ctx context.Context, changed chan<- struct{}) {
	for {
		err := g.config.Policy.Wait(ctx)
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, errors.ErrUnsupported) {
				g.log.Warn("changes of the network are not reported", zap.Error(err))
			}
			if !sleep(ctx, addressInterval) {
				return
			}
		}
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}

// refreshPolicy applies changes of the network to the policy, and the policy to open flows.
// Where changes are frequent, it takes at most a tenth of the time.
func (g *Gateway) refreshPolicy(ctx context.Context, changed <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
		began := time.Now()
		changed, err := g.config.Policy.Refresh()
		if err != nil {
			g.log.Warn("cannot read the host's addresses; denying the known ones", zap.Error(err))
		}
		if changed {
			g.log.Info("applied a change of the network to open flows", zap.Int("flows_closed", g.ReapplyPolicy()))
		}
		if !sleep(ctx, max(minNetworkPause, 9*time.Since(began))) {
			return
		}
	}
}

func (g *Gateway) refreshDirectory(ctx context.Context) {
	for sleep(ctx, resolveInterval) {
		g.resolveDirectory(ctx)
	}
}

// resolveDirectory resolves the directory's names and applies them to open flows, plain ones too: the
// policy denies those to the directory's addresses.
func (g *Gateway) resolveDirectory(ctx context.Context) {
	if err := g.config.Directory.Refresh(ctx); err != nil {
		g.log.Warn("cannot resolve a gateway of the directory; using its last address", zap.Error(err))
	}
	g.ReapplyDirectory()
	g.ReapplyPolicy()
}

// sleep waits for d, and returns false when ctx is done.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(max(d, 0))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// Shares of the memory limit (section 12 of PROTOCOL.md). The gap between the first two gives
// hysteresis.
const (
	memoryShort  = 80 // percent: above, hellos are refused
	memoryEnough = 75 // percent: below, they are accepted again
	memoryNear   = 50 // percent: above, memory is read more often

	memoryInterval     = time.Second
	memoryIntervalNear = 100 * time.Millisecond
	collectInterval    = 10 * time.Second // of garbage collections while memory is short
)

// Memory in use by a gateway without clients, rounded up (lewes_memory_used_bytes).
const (
	memoryProcess = 12 << 20
	memoryShard   = 512 << 10
	memorySocket  = batchSize * (64<<10 + 8<<10) // of each shard and address: mostly receive buffers
)

// LeastMemoryLimit returns the smallest memory limit, in whole MiB, under which a gateway without
// clients is not short of memory. shards and addresses are those that it listens with; 0 stands for
// their defaults.
func LeastMemoryLimit(shards, addresses int) (bytes uint64) {
	shards, addresses = cmp.Or(shards, runtime.GOMAXPROCS(0)), cmp.Or(addresses, 2) // IPv4 and IPv6
	used := uint64(memoryProcess + shards*(memoryShard+addresses*memorySocket))
	const unit = 1 << 20
	return (used*100/memoryEnough + unit - 1) / unit * unit
}

// memory watches the memory use of the process against the Go runtime's limit (GOMEMLIMIT).
type memory struct {
	short       atomic.Bool
	used, limit atomic.Uint64 // bytes; limit 0: none

	// Used by the watching goroutine only.
	read      func() (used, limit uint64)
	collect   func()
	collected time.Time
}

// readMemory returns the memory in use, without the part that the Go runtime can release at once,
// and the limit, 0 if there is none. Both are in bytes.
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

// look updates short, and returns the time until the next look. It collects garbage before memory
// counts as short, and regularly while it does: without new handshakes nothing else would.
func (m *memory) look(now time.Time, log *zap.Logger) (next time.Duration) {
	used, limit := m.read()
	above := func(percent uint64) bool { return limit > 0 && used*100 > limit*percent }
	short := m.short.Load()
	if (short || above(memoryShort)) && now.Sub(m.collected) >= collectInterval {
		m.collect()
		m.collected = now
		used, limit = m.read()
	}
	m.used.Store(used)
	m.limit.Store(limit)
	switch fields := []zap.Field{zap.Uint64("used_bytes", used), zap.Uint64("limit_bytes", limit)}; {
	case !short && above(memoryShort):
		m.short.Store(true)
		log.Warn("memory is short; refusing new handshakes", fields...)
	case short && !above(memoryEnough):
		m.short.Store(false)
		log.Info("memory is no longer short; accepting handshakes", fields...)
	}
	if above(memoryNear) {
		return memoryIntervalNear
	}
	return memoryInterval
}

func (g *Gateway) watchMemory(ctx context.Context) {
	for {
		next := g.memory.look(time.Now(), g.log)
		g.limitHandshakes()
		if !sleep(ctx, next) {
			return
		}
	}
}

// handshakeShare is the part of a memory limit that handshakes of proved sources may take: a tenth.
// Together with those of others, a quarter as much, it is an eighth.
const handshakeShare = 10

// limitHandshakes sets the memory of handshakes according to the memory limit.
func (g *Gateway) limitHandshakes() {
	bytes := int64(g.config.HandshakeMemory)
	if limit := g.memory.limit.Load(); limit > 0 {
		bytes = min(bytes, int64(limit/handshakeShare))
	}
	g.budgets.SetMemory(bytes)
}

const (
	clockInterval = time.Second
	clockJump     = time.Second // smallest change of the offset that counts as a step
	clockSettle   = time.Minute // time until a step is applied
)

// wallClock corrects the gateway's clock, which starts at the system's time and is monotonic from
// there, for checking timestamps of handshakes (section 4 of PROTOCOL.md). If the system's clock is
// stepped and stays, the correction follows: forwards at once, backwards at half the speed of time,
// so that no time repeats and no recorded handshake becomes valid again. Deadlines and keys never
// depend on the system's clock.
type wallClock struct {
	correction atomic.Int64 // nanoseconds
	jumps      atomic.Uint64

	// Used by the watching goroutine only.
	looked time.Time     // by the gateway's clock
	offset time.Duration // of the system's clock from the gateway's
	since  time.Time     // of offset, by the gateway's clock
}

// corrected returns the time that timestamps are compared with.
func (w *wallClock) corrected(now time.Time) time.Time {
	return now.Add(time.Duration(w.correction.Load()))
}

// lead returns how far the corrected time is ahead of the system's. A successor starts from there.
func (w *wallClock) lead(now, system time.Time) time.Duration {
	return max(0, w.corrected(now.Round(0)).Sub(system.Round(0)))
}

// look compares the gateway's clock with the system's.
func (w *wallClock) look(now, system time.Time, log *zap.Logger) {
	offset := system.Round(0).Sub(now.Round(0))
	elapsed := now.Sub(w.looked)
	w.looked = now
	if change := offset - w.offset; change.Abs() > clockJump {
		w.offset, w.since = offset, now
		w.jumps.Add(1)
		log.Warn("system clock stepped; timestamps of new handshakes follow it once it is stable", zap.Float64("step_seconds", change.Seconds()))
	}
	if now.Sub(w.since) < clockSettle {
		return
	}
	applied := time.Duration(w.correction.Load())
	if ahead := applied - w.offset; ahead <= 0 {
		applied = w.offset
	} else {
		applied -= min(ahead, elapsed/2)
	}
	w.correction.Store(int64(applied))
}

func (g *Gateway) watchClock(ctx context.Context) {
	g.wall.looked = g.config.Clock()
	for sleep(ctx, clockInterval) {
		g.wall.look(g.config.Clock(), g.config.Wall(), g.log)
	}
}
