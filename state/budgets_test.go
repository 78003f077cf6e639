package state

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"lewes/state/parts"
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

// flooder makes a stranger's handshakes from spoofed sources, as far as they go without a cookie.
type flooder struct {
	t    *testing.T
	all  []*gatewayEnd
	next uint32
}

// flood starts n handshakes, one in each shard in turn: hello, KKT request and parts of Handshake 1
// that join to nothing. more checks the bounds after each packet.
func (f *flooder) flood(n int, more func()) {
	f.t.Helper()
	for range n {
		f.next++
		g := f.all[int(f.next)%len(f.all)]
		from := path.Path{Peer: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(f.next >> 8), byte(f.next)}), 1)}
		m := goodHello(epoch, f.next)
		packets := [][]byte{g.helloPacket(m), g.kktPacket(m)}
		for i := range 6 {
			part := wire.Part{Index: uint8(i % 2), Count: 2, MessageID: [4]byte{9}, Data: bytes.Repeat([]byte{byte(i)}, parts.MaxData)}
			packets = append(packets, clearPacket(g.responders.MAC1(), f.next, wire.TypeHandshake, &part))
		}
		for _, p := range packets {
			g.handle(epoch, p, from)
			g.take()
			more()
		}
	}
}

// charged returns what the records of a class take, added up anew.
func charged(all []*gatewayEnd, class Class) (n int64) {
	for _, g := range all {
		for _, r := range g.responders.attempts {
			for ; r != nil; r = r.next {
				if r.class == class {
					n += r.size()
				}
			}
		}
	}
	return n
}

// TestSpoofedSourcesTakeTheirShareOfMemory floods a gateway of two shards from spoofed sources. Their
// records stay within a quarter of what proved sources have, however large the store of records is,
// cookies are required from half of it on, and the handshakes of proved sources are not displaced.
//
// Shows R4.17, R12.21.
func TestSpoofedSourcesTakeTheirShareOfMemory(t *testing.T) {
	const memory = 256 << 10
	for _, shards := range []int{1, 2, 5} {
		all := shardedGateway(t, shards, func(c *GatewayConfig) { c.Memory, c.CookieThreshold = memory, 1<<30 })
		b := all[0].responders.budgets
		// A client whose hello came over TCP waits between its Handshake 2 and 3.
		g := all[0]
		config := clientConfig(2)
		config.Session.Stream = true
		c := newClientEnd(t, epoch, config)
		tcp := path.NewTCP(clientAt.Peer, gatewayAt.Peer.Addr(), 7)
		for c.session == nil {
			for _, p := range c.take() {
				g.handle(epoch, p.Data, tcp)
			}
			for _, p := range g.take() {
				c.handle(epoch, p.Data, gatewayAt)
			}
		}
		if c.session == nil || b.Memory(Proved) == 0 || b.Memory(Unproved) != 0 {
			t.Fatalf("no Handshake 2: %v %v", c.drops, g.drops)
		}
		kept, most := b.Memory(Proved), int64(0)
		f := &flooder{t: t, all: all}
		f.flood(100, func() { most = max(most, b.Memory(Unproved)) })
		if most > memory/4 || most < memory/20 {
			t.Errorf("%d shards: spoofed sources have taken %d bytes, of at most %d", shards, most, memory/4)
		}
		if a := g.askOne(epoch, g.helloPacket(goodHello(epoch, 1<<20)), stranger); !a.busy(t).HasCookie {
			t.Errorf("%d shards: no cookie is required", shards)
		}
		for class := range Classes {
			if got, want := b.Memory(class), charged(all, class); got != want {
				t.Errorf("%d shards: %d bytes are counted for class %d, want %d", shards, got, class, want)
			}
		}
		if b.Memory(Proved) != kept {
			t.Errorf("%d shards: proved sources hold %d bytes, had %d", shards, b.Memory(Proved), kept)
		}
		for range 3 {
			for _, p := range c.take() {
				g.handle(epoch, p.Data, tcp)
			}
			for _, p := range g.take() {
				c.handle(epoch, p.Data, gatewayAt)
			}
		}
		if g.sessions.Len() != 1 || !c.session.Confirmed() {
			t.Errorf("%d shards: the client of a proved source has no session: %v", shards, g.drops)
		}
		for _, g := range all {
			g.tick(epoch.Add(90 * time.Second))
		}
		if n := b.Memory(Proved) + b.Memory(Unproved); n != 0 {
			t.Errorf("%d shards: %d bytes are counted once all records have gone", shards, n)
		}
	}
}

// TestOldestOfItsClassGivesWay fills the memory of each class with records. New ones displace the
// oldest of their class and none of the other.
//
// Shows R12.21.
func TestOldestOfItsClassGivesWay(t *testing.T) {
	config := gatewayConfig(t, 1)
	config.Memory, config.MaxHandshakes, config.Rate, config.Burst = 64<<10, 1000, 1e6, 1e6
	g := newGatewayEnd(t, config)
	h := g.responders
	add := func(index uint32, class Class) {
		source := path.Path{Peer: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(class), byte(index >> 8), byte(index)}), 1)}
		h.add(&responder{table: h, class: class, index: index, source: source, created: epoch}, epoch.Add(time.Minute))
	}
	const proved, others = 48 << 10 / recordSize, 12 << 10 / recordSize
	for n := range uint32(100) {
		add(1000+n, Proved)
		add(2000+n, Unproved)
	}
	for base, most := range map[uint32]uint32{1000: proved, 2000: others} {
		for n := range uint32(100) {
			if want := n >= 100-most; h.Has(base+n) != want {
				t.Errorf("of a class of %d records that of index %d is kept: %v", most, base+n, !want)
			}
		}
	}
	if h.Stats.EvictedForMemory != 200-proved-others || h.Stats.Evicted != 0 {
		t.Errorf("%d evictions are counted, and %d at the bound of records", h.Stats.EvictedForMemory, h.Stats.Evicted)
	}
	// Less memory takes effect with the next packets, a few records at a time.
	h.budgets.SetMemory(16 << 10)
	for n := range uint32(5) {
		add(3000+n, Proved)
		add(4000+n, Unproved)
	}
	if p, u := h.budgets.Memory(Proved), h.budgets.Memory(Unproved); p > 12<<10 || u > 3<<10 {
		t.Errorf("with less memory %d and %d bytes are kept", p, u)
	}
}

// TestOneShardLeavesRoomForOthers fills the memory from one shard. Another still gets its equal share,
// and the sum stays within the bound.
//
// Shows R12.21.
func TestOneShardLeavesRoomForOthers(t *testing.T) {
	const memory, shards = 1 << 20, 4
	all := shardedGateway(t, shards, func(c *GatewayConfig) { c.Memory = memory })
	b := all[0].responders.budgets
	add := func(shard int, index uint32) {
		h := all[shard].responders
		h.add(&responder{table: h, class: Proved, index: index, source: clientAt, created: epoch}, epoch.Add(time.Minute))
		if n := b.Memory(Proved); n > memory*3/4 {
			t.Fatalf("%d bytes, of at most %d", n, memory*3/4)
		}
	}
	for shard := range shards {
		for n := range uint32(1000) {
			add(shard, uint32(shard)<<16|n)
		}
	}
	first, share := all[0].responders.memory[Proved].held, b.memory[Proved].bound.Load()
	if first > share || first < share-2*recordSize {
		t.Errorf("the first shard holds %d bytes, want about %d", first, share)
	}
	for shard, g := range all[1:] {
		if n := g.responders.memory[Proved].held; n > share/shards || n < share/shards-2*recordSize {
			t.Errorf("shard %d holds %d bytes, want about %d", shard+1, n, share/shards)
		}
	}
}

// TestSessionsKeepPartsWhileMemoryIsShort has no memory left for strangers: the parts of KK1 of a
// standing session are kept all the same.
//
// Shows R12.21.
func TestSessionsKeepPartsWhileMemoryIsShort(t *testing.T) {
	c, g := established(t)
	g.responders.budgets.SetMemory(0)
	for range 3 {
		c.session.Rekey(epoch, &c.out)
		kk1 := c.take()
		g.handle(epoch, kk1[0].Data, clientAt)
		f := &flooder{t: t, all: []*gatewayEnd{g}, next: 1000}
		f.flood(2, func() {})
		g.handle(epoch, kk1[1].Data, clientAt)
		converse(epoch, c, g)
	}
	if n := g.only().keys.current.number; n != 3 {
		t.Errorf("generation %d, want 3", n)
	}
}

// TestChargedMemoryIsReal compares what records are charged with the growth of the heap, at each step
// of a handshake.
//
// Shows R12.21.
func TestChargedMemoryIsReal(t *testing.T) {
	const clients = 500
	config := gatewayConfig(t, 1)
	config.Memory, config.CookieThreshold, config.Rate, config.Burst = 1<<30, 1<<30, 1e6, 1e6
	for _, step := range []string{"hello", "KKT", "parts", "Handshake 2", "early packets"} {
		g := newGatewayEnd(t, config)
		var all []*clientEnd
		for n := range clients {
			all = append(all, newClientEnd(t, epoch, clientConfig(uint64(n))))
		}
		for n, c := range all {
			from := path.Path{Peer: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}), 1)}
			send := func(most int) {
				sent := c.take()
				for _, p := range sent[:min(most, len(sent))] {
					g.handle(epoch, p.Data, from)
				}
				for _, p := range g.take() {
					c.handle(epoch, p.Data, gatewayAt)
				}
			}
			switch step {
			case "hello":
				send(1)
			case "KKT":
				send(2)
			case "parts":
				send(2)
				send(1)
			case "Handshake 2":
				send(2)
				send(2)
			case "early packets":
				send(2)
				send(2)
				c.take()
				for range maxEarlyPackets {
					sendData(t, c.session, &c.out, string(make([]byte, 1000)))
				}
				send(maxEarlyPackets)
			}
		}
		counted := g.responders.budgets.Memory(Unproved)
		if g.responders.Len() != clients {
			t.Fatalf("%s: %d records", step, g.responders.Len())
		}
		g.out = Output{}
		with := heapInUse()
		for r := range maps.Values(g.responders.attempts) {
			g.responders.remove(r)
		}
		real := int64(with - heapInUse())
		t.Logf("%s: %d bytes a record are charged, %d are in use", step, counted/clients, real/clients)
		if real > counted || real < counted/2 {
			t.Errorf("%s: %d bytes a record are charged, %d are in use", step, counted/clients, real/clients)
		}
		runtime.KeepAlive(all)
		runtime.KeepAlive(g)
	}
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
