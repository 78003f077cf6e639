package state

import (
	"cmp"
	"net/netip"
	"sync/atomic"
	"time"

	"lewes/state/ratelimit"
)

// resetRate is the number of Resets that a source gets per second (section 11).
const resetRate = 10

// GatewayBudgets are the bounds on strangers that the ResponderTables of one gateway share: they hold
// for the gateway, whichever shards a client's random indexes select. They are safe for concurrent
// use.
type GatewayBudgets struct {
	clients, gateways helloBudgets // gateways: those of the directory
	resets            *ratelimit.Table
	tries             perSecond // of Handshake 1, and failed joins of its parts
	records           pool
}

// helloBudgets limit the hellos of one kind of source. Sources that have proved their address by
// a cookie or TCP have a separate budget, which forged addresses cannot exhaust.
type helloBudgets struct{ proved, unproved *ratelimit.Table }

// NewGatewayBudgets returns the budgets of a gateway with a number of shards, each with a
// ResponderTable of this configuration. Session.Rand must be safe for concurrent use.
func NewGatewayBudgets(now time.Time, config *GatewayConfig, shards int) (*GatewayBudgets, error) {
	b := &GatewayBudgets{records: pool{shards: int64(shards)}}
	b.records.bound.Store(int64(config.maxHandshakes()))
	rate, burst, trusted := cmp.Or(config.Rate, 20), cmp.Or(config.Burst, 40), cmp.Or(config.TrustedRate, 1000)
	for _, t := range []struct {
		table **ratelimit.Table
		rate  float64
		burst int
	}{
		{&b.clients.proved, rate, burst},
		{&b.clients.unproved, rate, burst},
		{&b.gateways.proved, trusted, int(trusted)},
		{&b.gateways.unproved, trusted, int(trusted)},
		{&b.resets, resetRate, resetRate},
	} {
		var err error
		if *t.table, err = ratelimit.NewTable(now, t.rate, t.burst, config.Session.Rand); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// hellos returns the budgets of a source.
func (b *GatewayBudgets) hellos(config *GatewayConfig, source netip.Addr) *helloBudgets {
	if config.Trusted != nil && config.Trusted(source) {
		return &b.gateways
	}
	return &b.clients
}

// pool is a bound that the shards of a gateway share. A full pool admits nothing to a shard that holds
// its equal share of it, which gives way to its own additions, and anything to a shard that holds
// less. The sum exceeds the bound only while one shard keeps more than its share: in the worst case
// one shard has filled the pool and every other one adds its share, (2 - 1/shards) times the bound
// in all.
type pool struct {
	bound, used atomic.Int64
	shards      int64
}

// full reports whether a shard that holds held must give way before it adds n.
func (p *pool) full(held, n int64) bool {
	bound := p.bound.Load()
	return p.used.Load()+n > bound && (held+n)*p.shards > bound
}

// perSecond counts events in the present second and in the one before.
type perSecond struct {
	counts [2]atomic.Uint64 // of even and odd seconds: the second and the events in it, 32 bits each
}

func (c *perSecond) add(now time.Time, n uint32) {
	second := uint32(now.Unix())
	slot := &c.counts[second%2]
	for {
		last := slot.Load()
		next := uint64(second)<<32 | uint64(n)
		if uint32(last>>32) == second {
			next = last + uint64(n)
		}
		if slot.CompareAndSwap(last, next) {
			return
		}
	}
}

// rate returns the larger of the two counts.
func (c *perSecond) rate(now time.Time) (n int) {
	second := uint32(now.Unix())
	for i := range c.counts {
		if v := c.counts[i].Load(); second-uint32(v>>32) <= 1 {
			n = max(n, int(uint32(v)))
		}
	}
	return n
}
