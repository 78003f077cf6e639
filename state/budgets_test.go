package state

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"lewes/state/path"
	"lewes/state/wire"
)

// shardedGateway returns the ends of a gateway's shards, which share their budgets.
func shardedGateway(t *testing.T, shards int, change func(*GatewayConfig)) []*gatewayEnd {
	t.Helper()
	config := gatewayConfig(t, 1)
	change(config)
	budgets, err := NewGatewayBudgets(epoch, config, shards)
	if err != nil {
		t.Fatal(err)
	}
	var all []*gatewayEnd
	for range shards {
		own := *config
		own.Budgets = budgets
		all = append(all, newGatewayEnd(t, &own))
	}
	return all
}

// TestHelloBudgetsAreOfTheGateway sends the hellos of one source, without and with cookies, to the
// shards in turn: the burst and the rate are those of the configuration, whatever the number of
// shards.
//
// Shows R12.2.
func TestHelloBudgetsAreOfTheGateway(t *testing.T) {
	for _, shards := range []int{1, 3, 16} {
		all := shardedGateway(t, shards, func(c *GatewayConfig) { c.Rate, c.Burst = 2, 5 })
		accepted := func(now time.Time, n int) (unproved, proved int) {
			for i := range n {
				g := all[i%shards]
				m := goodHello(now, 1000+uint32(now.Unix()+int64(i)))
				a := g.askOne(now, g.helloPacket(m), clientAt)
				if a.kind == wire.TypeAck {
					unproved++
					continue
				}
				if b := a.busy(t); b.HasCookie {
					m.HasCookie, m.Cookie = true, b.Cookie
				}
				if g.askOne(now, g.helloPacket(m), clientAt).kind == wire.TypeAck {
					proved++
				}
			}
			return unproved, proved
		}
		if u, p := accepted(epoch, 50); u != 5 || p != 5 {
			t.Errorf("%d shards: a burst of %d and %d with cookies, want 5", shards, u, p)
		}
		if u, p := accepted(epoch.Add(time.Second), 50); u != 2 || p != 2 {
			t.Errorf("%d shards: %d and %d with cookies a second later, want 2", shards, u, p)
		}
	}
}

// TestTriesAreOfTheGateway has one shard try more Handshake 1 messages than the gateway may before it
// requires cookies: every shard requires them, until two seconds later.
//
// Shows R4.17.
func TestTriesAreOfTheGateway(t *testing.T) {
	all := shardedGateway(t, 4, func(c *GatewayConfig) { c.CookieThreshold = 10 })
	all[0].responders.budgets.tries.add(epoch, 11)
	for n, c := range []struct {
		after  time.Duration
		cookie bool
	}{{0, true}, {1999 * time.Millisecond, true}, {2 * time.Second, false}} {
		now := epoch.Add(c.after)
		for shard, g := range all {
			a := g.askOne(now, g.helloPacket(goodHello(now, uint32(1+n))), addr(fmt.Sprintf("192.0.2.%d:%d", 1+shard, 1+n)))
			if busy := a.kind == wire.TypeBusy; busy != c.cookie {
				t.Errorf("shard %d after %v: the answer is %v", shard, c.after, a.kind)
			}
		}
	}
}

func TestPerSecond(t *testing.T) {
	var c perSecond
	if n := c.rate(epoch); n != 0 {
		t.Errorf("%d at first", n)
	}
	c.add(epoch, 3)
	c.add(epoch.Add(999*time.Millisecond), 4)
	for after, want := range map[time.Duration]int{0: 7, time.Second: 7, 1999 * time.Millisecond: 7, 2 * time.Second: 0, time.Hour: 0} {
		if n := c.rate(epoch.Add(after)); n != want {
			t.Errorf("after %v the rate is %d, want %d", after, n, want)
		}
	}
	c.add(epoch.Add(time.Second), 9)
	c.add(epoch.Add(2*time.Second), 1)
	if n := c.rate(epoch.Add(2 * time.Second)); n != 9 {
		t.Errorf("the rate is %d, want that of the second before", n)
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 1000 {
				c.add(epoch.Add(2*time.Second), 1)
			}
		})
	}
	all.Wait()
	if n := c.rate(epoch.Add(2 * time.Second)); n != 4001 {
		t.Errorf("%d concurrent events, want 4001", n)
	}
}

// TestRecordsAreOfTheGateway fills the store of handshakes from one shard, then from another: the
// second gets its share, and the first gives way with its next hellos.
//
// Shows R12.1.
func TestRecordsAreOfTheGateway(t *testing.T) {
	const most, shards = 16, 4
	all := shardedGateway(t, shards, func(c *GatewayConfig) { c.MaxHandshakes = most })
	count := func() (n int) {
		for _, g := range all {
			n += g.responders.Len()
		}
		return n
	}
	index := uint32(0)
	tcp := path.NewTCP(clientAt.Peer, netip.Addr{}, 1) // needs no cookie
	hello := func(shard int) {
		index++
		tcp.Peer = netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(index >> 8), byte(index)}), 1)
		if a := all[shard].askOne(epoch, all[shard].helloPacket(goodHello(epoch, index)), tcp); a.kind != wire.TypeAck {
			t.Fatalf("hello %d got %v", index, a.kind)
		}
	}
	for range 3 * most {
		hello(0)
	}
	if n := all[0].responders.Len(); n != most {
		t.Errorf("one shard alone holds %d records, want all %d", n, most)
	}
	for range most {
		hello(1)
	}
	if n := all[1].responders.Len(); n != most/shards || count() != most+most/shards {
		t.Errorf("the second shard holds %d records of %d", n, count())
	}
	for range most {
		hello(0)
	}
	if n := all[0].responders.Len(); count() != most || n != most-most/shards {
		t.Errorf("the first shard holds %d records of %d", n, count())
	}
	if got := all[0].responders.budgets.records.used.Load(); got != int64(count()) {
		t.Errorf("%d are counted of %d", got, count())
	}
	for _, g := range all {
		g.tick(epoch.Add(90 * time.Second))
	}
	if got := all[0].responders.budgets.records.used.Load(); count() != 0 || got != 0 {
		t.Errorf("%d records are left, %d counted", count(), got)
	}
}
