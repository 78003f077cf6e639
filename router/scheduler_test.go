package router

import (
	"net/netip"
	"testing"
	"time"

	"lewes/crypto/kem"
	"lewes/crypto/seal"
	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

// hello returns the first packet of a handshake.
func hello(t testing.TB, seed uint64, now time.Time) []byte {
	var out state.Output
	if _, err := state.NewClient(now, state.ClientConfig{
		Gateway: gatewayID.Public(), Identity: testIdentity(2), KEM: kem.MLKEM768,
		Suites: seal.Offer(), Rand: seeded(seed), Path: clientAt,
	}, &out); err != nil {
		t.Fatal(err)
	}
	return out.Packets[0].Data
}

// slowClock returns a clock that advances by step with every reading.
func (r *rig) slowClock(step time.Duration) func() time.Time {
	return func() time.Time {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.time = r.time.Add(step)
		return r.time
	}
}

func TestHandshakesLeaveTimeForDatagrams(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Rate, c.Burst = 1e6, 1e6 })
	p := r.connect(2, clientAt)
	p.data(1, target, "open")
	r.shard.now = r.slowClock(200 * time.Microsecond)
	begun, spent := r.now(), r.shard.Stats().HandshakeTime
	datagrams := 0
	for i := range 400 {
		from := path.Path{Peer: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), uint16(i+1))}
		p.out.Reset()
		sendOne(t, p)
		r.shard.Receive(r.now(), []transport.Packet{
			{Data: p.out.Packets[0].Data, Path: clientAt},
			{Data: hello(t, uint64(i), r.now()), Path: from},
			{Data: hello(t, uint64(i)+1000, r.now()), Path: from},
		}, nil)
		r.mu.Lock()
		r.time = r.time.Add(100 * time.Microsecond) // the datagrams' own time
		r.mu.Unlock()
		datagrams++
	}
	total := r.now().Sub(begun)
	share := float64(r.shard.Stats().HandshakeTime-spent) / float64(total)
	if share > 0.35 {
		t.Errorf("handshakes took %.0f %% of the time, want about a quarter", 100*share)
	}
	if got := len(r.egress.at(target).take()); got != datagrams+1 {
		t.Errorf("%d datagrams passed of %d", got, datagrams+1)
	}
	if r.shard.Stats().HandshakeQueue == 0 {
		t.Error("the queue is empty: the test did not overload the shard")
	}
}

// TestHandshakeTimeIsCountedOnce checks that a batch with many handshakes is charged at most its own
// duration.
func TestHandshakeTimeIsCountedOnce(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Rate, c.Burst = 1e6, 1e6 })
	var batch []transport.Packet
	for n := range 32 {
		from := path.Path{Peer: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), 1)}
		batch = append(batch, transport.Packet{Data: hello(t, uint64(n), r.now()), Path: from})
	}
	r.shard.now = r.slowClock(20 * time.Microsecond)
	begun := r.now()
	r.shard.Receive(begun, batch, nil)
	took := r.now().Sub(begun)
	if s := r.shard.Stats(); s.Handshakes.Hellos != 32 || s.HandshakeTime == 0 || s.HandshakeTime > took {
		t.Errorf("%d hellos took %v of %v", s.Handshakes.Hellos, s.HandshakeTime, took)
	}
}

// TestBackloggedShardEarnsCreditByItsOwnTimeOnly checks that the time between the batches of a
// backlogged shard earns handshakes no credit.
func TestBackloggedShardEarnsCreditByItsOwnTimeOnly(t *testing.T) {
	for _, row := range []struct {
		backlogged bool
		batch      time.Duration // of which 100 µs were handshakes
		want       time.Duration
	}{
		{false, 400 * time.Microsecond, slice},
		{true, 400 * time.Microsecond, 100 * time.Microsecond},
		{true, 100 * time.Microsecond, 0},
		{true, time.Hour, slice},
	} {
		b := scheduler{backlogged: row.backlogged, lastDatagram: epoch, creditedAt: epoch.Add(-time.Second), spent: 100 * time.Microsecond}
		b.endBatch(row.batch)
		if got := b.allowance(epoch); got != row.want {
			t.Errorf("%+v: handshakes may take %v", row, got)
		}
	}
}

// TestIdleTimeIsNoDebt: handshakes that took a minute in which no datagram arrived get their share of
// the time as soon as datagrams arrive again, and no batch has more than one slice of them.
func TestIdleTimeIsNoDebt(t *testing.T) {
	b, now := scheduler{lastDatagram: epoch}, epoch.Add(time.Second)
	for range 60_000 {
		b.charge(b.allowance(now))
		if left := b.allowance(now); left > 0 {
			t.Fatalf("handshakes may take %v more after a slice in one batch", left)
		}
		b.endBatch(time.Millisecond)
		now = now.Add(time.Millisecond)
	}
	b.lastDatagram = now
	b.allowance(now)
	if now = now.Add(shareOf * time.Millisecond); b.allowance(now) <= 0 {
		t.Error("handshakes may take nothing of the time among datagrams")
	}
}

// rxOf returns a received packet with its header.
func rxOf(now time.Time, packet []byte, from path.Path) *rxContext {
	h, _ := wire.ParseHeader(packet)
	return &rxContext{now: now, packet: packet, from: from, header: h}
}

func TestHandshakeQueueIsBoundedAndExpires(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Rate, c.Burst = 1e6, 1e6 })
	b := &r.shard.st.scheduler
	packet := hello(t, 1, epoch)
	for range 1024 + 10 {
		b.push(rxOf(epoch, packet, clientAt), state.Unproved)
	}
	if b.len() != 1024 {
		t.Errorf("%d packets wait, want %d", b.len(), 1024)
	}
	r.advance(staleAfter + time.Millisecond)
	if s := r.shard.Stats(); s.HandshakeQueue != 0 || s.HandshakeStale != 1024 || s.Handshakes.Hellos != 0 {
		t.Errorf("after a second: %d wait, %d stale, %d hellos", s.HandshakeQueue, s.HandshakeStale, s.Handshakes.Hellos)
	}
}

// TestHandshakeQueueEstimatesDelay compares the estimated delay with the actual wait of a packet, in
// virtual time.
func TestHandshakeQueueEstimatesDelay(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Rate, c.Burst = 1e6, 1e6 })
	if d := r.shard.Stats().HandshakeDelay; d != 0 {
		t.Errorf("an empty queue has a delay of %v", d)
	}
	r.shard.now = r.slowClock(200 * time.Microsecond)
	r.shard.st.timer.timer.Stop()
	r.shard.st.timer.at = epoch // so that no batch sets it
	b := &r.shard.st.scheduler
	came := map[int]time.Time{} // by how many came before
	expected := map[int]time.Duration{}
	popped, long, worst := 0, 0, 0.0
	for n := range 600 {
		from := path.Path{Peer: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, byte(n >> 8), byte(n)}), 1)}
		came[n], expected[n] = r.now(), b.delay(state.Unproved)
		b.push(rxOf(came[n], hello(t, uint64(n), epoch), from), state.Unproved)
		if n%8 == 7 { // more arrives than is processed
			before := b.len()
			r.shard.Do(func(time.Time, *shardState) {})
			for range before - b.len() {
				if waited := r.now().Sub(came[popped]); waited > 30*time.Millisecond { // a batch takes 3 ms
					worst = max(worst, float64((waited-expected[popped]).Abs())/float64(waited))
					long++
				}
				popped++
			}
			r.mu.Lock()
			r.time = r.time.Add(2 * time.Millisecond)
			r.mu.Unlock()
		}
	}
	if s := r.shard.Stats(); s.HandshakeQueue < 20 || s.HandshakeDelay < 10*time.Millisecond || s.HandshakeStale != 0 {
		t.Errorf("%d wait, for %v; %d are stale", s.HandshakeQueue, s.HandshakeDelay, s.HandshakeStale)
	}
	if long < 200 || worst > 0.3 {
		t.Errorf("%d packets waited for long, one of them %.0f %% longer or shorter than was expected", long, 100*worst)
	}
}

func TestHandshakeQueueIsFIFO(t *testing.T) {
	b := &newRig(t, func(c *Config) { c.MaxBacklog = 64 }).shard.st.scheduler
	next := byte(0)
	for round := range 5000 {
		b.push(rxOf(epoch, []byte{byte(round)}, clientAt), state.Unproved)
		if round%3 == 2 {
			for range 3 {
				if got := b.pop(epoch).data[0]; got != next {
					t.Fatalf("round %d: popped %d, want %d", round, got, next)
				}
				next++
			}
		}
	}
}

// TestOnlyHandshakePacketsAreQueued sends a shard whose handshakes have had their share of the time
// packets that cannot belong to a handshake: none takes a place in the queue, and the honest packet
// that waits there stays.
//
// Shows R1.11, R12.8.
func TestOnlyHandshakePacketsAreQueued(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxBacklog = 1 })
	r.connect(2, clientAt).data(1, target, "busy with datagrams")
	r.shard.st.scheduler.credit, r.shard.st.scheduler.creditedAt = -time.Hour, r.now()
	r.receive(hello(t, 1, r.now()), secondAt)
	before := r.shard.Stats()
	if before.HandshakeQueue != 1 {
		t.Fatalf("%d packets wait", before.HandshakeQueue)
	}
	forged := hello(t, 2, r.now())
	forged[len(forged)-1] ^= 1
	unknown := wire.Finish(wire.Begin(nil, 0x1234_5678, wire.LevelHandshake, 0, wire.TypeHandshake))
	for range 10 {
		if got := r.receive(forged, secondAt); len(got) != 0 {
			t.Fatalf("%d answers to a hello with a wrong MAC1", len(got))
		}
		if got := r.receive(unknown, secondAt); len(got) != 0 {
			t.Fatalf("%d answers to a short packet of an unknown index", len(got))
		}
	}
	s := r.shard.Stats()
	if s.HandshakeQueue != 1 || s.HandshakeStale != 0 || s.Forged != before.Forged+10 || s.Unknown != before.Unknown+10 {
		t.Errorf("%d wait, %d stale, %d forged, %d unknown", s.HandshakeQueue, s.HandshakeStale, s.Forged-before.Forged, s.Unknown-before.Unknown)
	}
	r.advance(staleAfter / 2)
	r.shard.st.scheduler.credit = maxCredit
	r.shard.Do(func(time.Time, *shardState) {})
	if s := r.shard.Stats(); s.Handshakes.Hellos != before.Handshakes.Hellos+1 {
		t.Error("the honest hello was displaced")
	}
}

// TestSpoofedPacketsDoNotDelayOthers fills the queue of sources that have not proved their address:
// packets of proved sources lose no place, and take turns with the others.
//
// Shows R12.21.
func TestSpoofedPacketsDoNotDelayOthers(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxBacklog, c.Rate, c.Burst = 64, 1, 1 })
	b := &r.shard.st.scheduler
	tcp := path.NewTCP(netip.MustParseAddrPort("203.0.113.7:7"), netip.Addr{}, 1)
	// A cookie proves a source too: the second hello of a source needs one.
	r.receive(hello(t, 1, r.now()), clientAt)
	second := newTestHello(r.now(), 99)
	second.from = clientAt
	answers := r.receive(second.packet(), clientAt)
	_, content, err := wire.ParseBody(wire.Body(answers[0].Data))
	if err != nil {
		t.Fatal(err)
	}
	busy, err := wire.ParseBusy(content)
	if err != nil || !busy.HasCookie {
		t.Fatalf("%+v, %v", busy, err)
	}
	second.hello.HasCookie, second.hello.Cookie = true, busy.Cookie

	p := r.connect(2, secondAt)
	p.data(1, target, "busy with datagrams")
	b.credit, b.creditedAt = -time.Hour, r.now()
	r.receive(hello(t, 3, r.now()), tcp)
	r.receive(second.packet(), clientAt)
	for n := range uint32(200) {
		h := newTestHello(r.now(), 1000+n)
		h.hello.HasCookie, h.hello.Cookie = true, [16]byte{1} // a forged cookie is none
		r.receive(h.packet(), h.from)
	}
	if p, u := b.queues[state.Proved].len(), b.queues[state.Unproved].len(); p != 2 || u != 64 {
		t.Fatalf("%d packets of proved sources wait, and %d others", p, u)
	}
	if got := r.shard.Stats().HandshakeStale; got != 200-64 {
		t.Errorf("%d packets were displaced, want %d", got, 200-64)
	}
	proved := 0
	for range 4 {
		if from := b.pop(r.now()).from; from == tcp || from == clientAt {
			proved++
		}
	}
	if proved != 2 {
		t.Errorf("of the first four packets %d are of proved sources", proved)
	}
}

// TestQueuedPacketsHaveAShareOfMemory queues packets until their bytes reach the bound.
//
// Shows R12.21.
func TestQueuedPacketsHaveAShareOfMemory(t *testing.T) {
	const memory = 256 << 10
	r := newRig(t, func(c *Config) { c.HandshakeMemory = memory })
	b := &r.shard.st.scheduler
	for class, total := range map[state.Class]int64{state.Unproved: memory / 4, state.Proved: memory} {
		before := r.whole.budgets.Memory(class)
		for n := range 1000 {
			b.push(rxOf(epoch, make([]byte, 1000+n%80), clientAt), class)
		}
		if got := r.whole.budgets.Memory(class) - before; got > total/4 || got < total/4-1500 {
			t.Errorf("class %d: %d bytes are queued, want about %d", class, got, total/4)
		}
		for b.queues[class].len() > 0 {
			b.queues[class].pop()
		}
		if got := r.whole.budgets.Memory(class); got != before {
			t.Errorf("class %d: %d bytes are counted for an empty queue", class, got-before)
		}
	}
}

// TestMemoryLimitBoundsHandshakes sets a memory limit: handshakes take at most an eighth of it.
//
// Shows R12.21.
func TestMemoryLimitBoundsHandshakes(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxRecords, c.TriesASecond = 1e6, 1e6 })
	g := r.whole
	const limit = 2 << 20
	g.memory.limit.Store(limit)
	g.limitHandshakes()
	most := int64(0)
	for n := range uint32(2000) {
		h := newTestHello(r.now(), 1000+n)
		r.sendHello(h) // with a cookie, once one is required
		most = max(most, g.budgets.Memory(state.Unproved)+g.budgets.Memory(state.Proved))
	}
	if most > limit/8 || most < limit/16 {
		t.Errorf("handshakes take %d bytes of a limit of %d", most, limit)
	}
	g.memory.limit.Store(0)
	g.limitHandshakes()
	for n := range uint32(2000) {
		r.sendHello(newTestHello(r.now(), 10_000+n))
	}
	if got := r.shard.Stats().Records; got < 2000 {
		t.Errorf("without a limit %d records are kept", got)
	}
}
