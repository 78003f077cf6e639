package state

import (
	"cmp"
	"net/netip"
	"sync/atomic"
	"time"

	"lewes/state/ratelimit"
)

// GatewayBudgets are the bounds on strangers that the ResponderTables of one gateway share: they hold
// for the gateway, whichever shards a client's random indexes select. They are safe for concurrent
// use.
type GatewayBudgets struct {
	clients, gateways helloBudgets // gateways: those of the directory
	tries             perSecond    // of Handshake 1, and failed joins of its parts
	records           pool
	// Bytes of records and of queued handshake packets. Spoofed sources cannot displace what belongs
	// to others.
	memory, queued [Classes]pool
}

// Class tells sources that have shown that they receive packets at their address, by a cookie, by TCP or
// by Handshake 3, from those that have not and may be spoofed.
type Class uint8

// The classes.
const (
	Unproved Class = iota
	Proved
	Classes
)

// defaultHandshakeMemory is the memory of proved sources, in bytes.
const defaultHandshakeMemory = 64 << 20

// queueShare is the part of the memory of each class that queued packets have: a quarter.
const queueShare = 4

// SetMemory sets the bytes that records and queued packets of proved sources may take. Others may take
// a quarter of that. The sum of both is never exceeded by more than one packet of each shard.
func (b *GatewayBudgets) SetMemory(bytes int64) {
	for class, total := range [...]int64{Unproved: bytes / 4, Proved: bytes} {
		b.queued[class].setTotal(total / queueShare)
		b.memory[class].setTotal(total - total/queueShare)
	}
}

// Memory returns the bytes that records and queued packets of a class take.
func (b *GatewayBudgets) Memory(class Class) int64 {
	return b.memory[class].used.Load() + b.queued[class].used.Load()
}

// QueueShare returns a shard's share of the memory of queued handshake packets of a class.
func (b *GatewayBudgets) QueueShare(class Class) Share { return Share{pool: &b.queued[class]} }

// helloBudgets limit the hellos of one kind of source, by class: forged addresses cannot exhaust the
// budget of sources that have proved theirs.
type helloBudgets [Classes]*ratelimit.Table

// NewGatewayBudgets returns the budgets of a gateway with a number of shards, each with a
// ResponderTable of this configuration. Session.Rand must be safe for concurrent use.
func NewGatewayBudgets(now time.Time, config *GatewayConfig, shards int) (*GatewayBudgets, error) {
	b := &GatewayBudgets{}
	for _, p := range []*pool{&b.records, &b.memory[Unproved], &b.memory[Proved], &b.queued[Unproved], &b.queued[Proved]} {
		p.shards = int64(shards)
	}
	b.records.bound.Store(int64(config.maxHandshakes()))
	b.SetMemory(cmp.Or(config.Memory, defaultHandshakeMemory))
	rate, burst, trusted := cmp.Or(config.Rate, 20), cmp.Or(config.Burst, 40), cmp.Or(config.TrustedRate, 1000)
	for _, t := range []struct {
		table **ratelimit.Table
		rate  float64
		burst int
	}{
		{&b.clients[Proved], rate, burst},
		{&b.clients[Unproved], rate, burst},
		{&b.gateways[Proved], trusted, int(trusted)},
		{&b.gateways[Unproved], trusted, int(trusted)},
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

// setTotal sets a bound with which even the worst sum does not exceed total.
func (p *pool) setTotal(total int64) { p.bound.Store(total * p.shards / (2*p.shards - 1)) }

// Share is what one shard holds of a bound of its gateway. It is not safe for concurrent use.
type Share struct {
	pool *pool
	held int64
}

// Add adds n, which is negative where something was released.
func (s *Share) Add(n int64) {
	s.held += n
	s.pool.used.Add(n)
}

// Full reports whether the shard must give way before it adds n.
func (s *Share) Full(n int64) bool { return s.pool.full(s.held, n) }

// moreThanHalf reports whether more than half of the pool is in use.
func (p *pool) moreThanHalf() bool { return p.used.Load() > p.bound.Load()/2 }

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
