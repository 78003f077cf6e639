package state

import (
	"container/heap"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"lewes/crypto/kem"
	"lewes/crypto/seal"
	"lewes/state/path"
	"lewes/state/wire"
)

var (
	simRuns = flag.Int("sim.runs", 0, "simulated handshakes a test; 0: as many as a normal run has time for")
	simSeed = flag.Uint64("sim.seed", 0, "simulate this seed alone; 0: all of them")
)

// faults is what one direction of a network does to the packets that it carries.
type faults struct {
	loss, duplicate, corrupt float64       // parts of 1
	delay, jitter            time.Duration // a copy takes delay and up to jitter more, so that jitter reorders
	limit                    int           // longer packets vanish; 0: none do
}

// tally counts what one direction did.
type tally struct {
	sent, lost, corrupted, duplicated, tooLong, unreachable int
}

// sighting is a packet in flight, as an observer sees it.
type sighting struct {
	packet   []byte
	toClient bool
	from, to path.Path
}

// world is a client, a gateway and the network between them, in virtual time.
// Everything that happens follows from its seed.
type world struct {
	t       testing.TB
	seed    uint64
	rng     *rand.Rand // the network's
	now     time.Time
	queue   events
	order   int
	gateway *gatewayEnd
	client  *clientEnd
	config  ClientConfig

	up, down faults
	tally    [2]tally // up, down
	at       path.Path
	reached  func(path.Path) bool // whether the client gets what is sent there; nil: only at at
	observer func(sighting)       // sees every packet that the ends send, before it arrives
	watch    func()               // is called after everything that happens
	audit    *audit
	intact   map[string]bool // data that arrived, or will, undamaged at least once
	numbered int             // of datagrams that traffic sent
}

// sharedKEMs are a gateway's KEM keys: making them is dear, and no simulation
// changes them.
var sharedKEMs = sync.OnceValue(func() *KEMKeys {
	keys, err := NewKEMKeys(epoch, []kem.ID{kem.MLKEM768, kem.XWing}, seeded(99))
	if err != nil {
		panic(err)
	}
	return keys
})

// newWorld makes a gateway and the network; dial adds the client.
func newWorld(t testing.TB, seed uint64, up, down faults, tune ...func(*GatewayConfig, *ClientConfig)) *world {
	t.Helper()
	g := &GatewayConfig{
		Identity: testIdentity(1),
		KEMs:     sharedKEMs(),
		Suites:   seal.ChaCha20Poly1305 | seal.AES256GCM,
		Session: SessionConfig{
			Rand:  seeded(seed<<2 | 1),
			Terms: Terms{IdleTTL: 24 * time.Hour, RekeyAfter: 15 * time.Minute, MaxDatagram: wire.MaxUDPPacket},
		},
	}
	c := clientConfig(seed<<2 | 2)
	for _, f := range tune {
		f(g, &c)
	}
	return &world{
		t:       t,
		seed:    seed,
		rng:     rand.New(rand.NewPCG(seed, 3)),
		now:     epoch,
		gateway: newGatewayEnd(t, g),
		config:  c,
		up:      up,
		down:    down,
		at:      clientAt,
		audit:   newAudit(t),
		intact:  map[string]bool{},
	}
}

// dial starts the client's handshake.
func (w *world) dial() {
	w.t.Helper()
	w.client = newClientEnd(w.t, w.now, w.config)
	w.flush()
}

// established dials and runs until both ends have the session and know that the
// other has it.
func (w *world) established() {
	w.t.Helper()
	w.dial()
	if !w.run(20*time.Second, w.confirmed) {
		w.t.Fatalf("no session: client %v (%v), gateway %v", w.client.drops, w.client.client.Err(), w.gateway.drops)
	}
}

// joined reports whether both ends have the session: data passes both ways.
func (w *world) joined() bool { return w.client.session != nil && w.gatewaySession() != nil }

// confirmed reports whether the client also knows the gateway's terms.
func (w *world) confirmed() bool { return w.client.confirms > 0 }

// session returns the gateway's session with the client, or its only one.
func (w *world) session() *Session {
	if s := w.gatewaySession(); s != nil {
		return s
	}
	return w.gateway.only()
}

// gatewaySession returns the gateway's session of the index that the client sends on, or nil.
func (w *world) gatewaySession() *Session {
	if w.client == nil || w.client.session == nil {
		return nil
	}
	if k := w.gateway.sessions.Find(w.client.session.Current().Index()); k != nil {
		return k.Session()
	}
	return nil
}

// run lets things happen until done holds or d has passed, and reports whether
// done holds.
func (w *world) run(d time.Duration, done func() bool) bool {
	w.t.Helper()
	end := w.now.Add(d)
	w.flush()
	for stuck := 0; ; stuck++ {
		if done != nil && done() {
			return true
		}
		next := earliest(w.queue.next(), w.gateway.next())
		if w.client != nil {
			next = earliest(next, w.client.next())
		}
		if next.IsZero() || next.After(end) {
			w.now = end
			return done != nil && done()
		}
		if next.After(w.now) {
			w.now, stuck = next, 0
		}
		if stuck > 10_000 {
			w.t.Fatalf("seed %d: something wants to be ticked at %v again and again", w.seed, next.Sub(epoch))
		}
		w.step()
	}
}

// step does one thing whose time has come.
func (w *world) step() {
	if at := w.queue.next(); !at.IsZero() && !at.After(w.now) {
		heap.Pop(&w.queue).(*event).do()
	} else {
		if at := w.gateway.next(); !at.IsZero() && !at.After(w.now) {
			w.gateway.tick(w.now)
		}
		if w.client != nil {
			if at := w.client.next(); !at.IsZero() && !at.After(w.now) {
				w.client.tick(w.now)
			}
		}
	}
	w.flush()
	if w.watch != nil {
		w.watch()
	}
}

// after does something d from now.
func (w *world) after(d time.Duration, do func()) {
	w.order++
	heap.Push(&w.queue, &event{at: w.now.Add(d), order: w.order, do: do})
}

// flush passes the ends' packets to the network.
func (w *world) flush() {
	w.audit.learn(w)
	if w.client != nil {
		for _, p := range w.client.take() {
			w.carry(sighting{packet: p.Data, from: w.at, to: gatewayAt}, "")
		}
	}
	for _, p := range w.gateway.take() {
		w.carry(sighting{packet: p.Data, toClient: true, from: gatewayAt, to: p.Path}, "")
	}
}

// sendData sends one datagram of a flow, and notes whether the network lets it
// through.
func (w *world) sendData(toClient bool, payload string) {
	w.t.Helper()
	w.flush()
	var out Output
	sight := sighting{toClient: toClient, from: w.at, to: gatewayAt}
	if toClient {
		sendData(w.t, w.session(), &out, payload)
		sight.from, sight.to = gatewayAt, out.Packets[0].Path
	} else {
		sendData(w.t, w.client.session, &out, payload)
	}
	sight.packet = out.Packets[0].Data
	w.carry(sight, payload)
}

// carry decides what becomes of a packet. data is the payload of a flow's
// datagram.
func (w *world) carry(s sighting, data string) {
	way, tally := w.up, &w.tally[0]
	if s.toClient {
		way, tally = w.down, &w.tally[1]
	}
	w.audit.sealed(s)
	tally.sent++
	if w.observer != nil {
		w.observer(s)
	}
	copies := 1
	if w.rng.Float64() < way.duplicate {
		copies++
		tally.duplicated++
	}
	for range copies {
		delay := way.delay
		if way.jitter > 0 {
			delay += time.Duration(w.rng.Int64N(int64(way.jitter)))
		}
		c := s
		switch {
		case way.limit > 0 && len(s.packet) > way.limit:
			tally.tooLong++
			continue
		case w.rng.Float64() < way.loss:
			tally.lost++
			continue
		case w.rng.Float64() < way.corrupt:
			tally.corrupted++
			c.packet = w.damaged(s.packet)
		default:
			c.packet = append([]byte(nil), s.packet...)
			if data != "" {
				w.intact[data] = true
			}
		}
		w.after(delay, func() { w.arrive(c) })
	}
}

// inject sends an attacker's packet, which is neither lost nor delayed.
func (w *world) inject(s sighting) {
	s.packet = append([]byte(nil), s.packet...)
	w.after(0, func() { w.arrive(s) })
}

func (w *world) arrive(s sighting) {
	switch {
	case !s.toClient:
		w.gateway.handle(w.now, s.packet, s.from)
	case s.to == w.at || w.reached != nil && w.reached(s.to):
		w.client.handle(w.now, s.packet, s.from)
	default:
		w.tally[1].unreachable++
	}
}

// damaged returns the packet with a few bits flipped, or cut short.
func (w *world) damaged(packet []byte) []byte {
	if w.rng.IntN(4) == 0 {
		return append([]byte(nil), packet[:w.rng.IntN(len(packet))]...)
	}
	p := append([]byte(nil), packet...)
	first := w.rng.IntN(len(p) * 8)
	p[first/8] ^= 1 << (first % 8)
	for range w.rng.IntN(3) {
		if bit := w.rng.IntN(len(p) * 8); bit != first {
			p[bit/8] ^= 1 << (bit % 8)
		}
	}
	return p
}

// checkData compares what arrived at an end with what the network let through:
// nothing may be missing, and nothing may come twice.
func (w *world) checkData(what string, got []string, sent func(string) bool) {
	w.t.Helper()
	count := map[string]int{}
	for _, payload := range payloads(got) {
		count[payload]++
		if count[payload] == 2 {
			w.t.Errorf("seed %d: %s: %q was delivered twice", w.seed, what, payload)
		}
		if !w.intact[payload] {
			w.t.Errorf("seed %d: %s: %q was delivered, which the network did not let through", w.seed, what, payload)
		}
	}
	missing := 0
	for payload := range w.intact {
		if sent(payload) && count[payload] == 0 {
			missing++
		}
	}
	if len(got) == 0 {
		w.t.Errorf("seed %d: %s: nothing was delivered", w.seed, what)
	}
	if missing > 0 {
		w.t.Errorf("seed %d: %s: %d datagrams are missing that the network did not lose; drops: client %v, gateway %v",
			w.seed, what, missing, w.client.drops, w.gateway.drops)
	}
}

// event is something that happens at a time.
type event struct {
	at    time.Time
	order int // of events at the same time
	do    func()
}

type events []*event

func (q events) next() time.Time {
	if len(q) == 0 {
		return time.Time{}
	}
	return q[0].at
}

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].order < q[j].order
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *events) Push(x any)   { *q = append(*q, x.(*event)) }
func (q *events) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return e
}

// runs returns how many seeds a test simulates: the flag, or what is normal, or
// less in short mode.
func runs(normal, short int) int {
	switch {
	case *simRuns > 0:
		return *simRuns
	case testing.Short():
		return short
	}
	return normal
}

// eachSeed calls f for the seeds from 1 to n, on all cores. When f fails, its
// seed is printed.
func eachSeed(t *testing.T, n int, f func(t *testing.T, seed uint64)) {
	t.Helper()
	one := func(t *testing.T, seed uint64) {
		failed := t.Failed()
		defer func() {
			if !failed && t.Failed() {
				t.Logf("seed %d failed: repeat it with -sim.seed=%d", seed, seed)
			}
		}()
		f(t, seed)
	}
	if *simSeed != 0 {
		one(t, *simSeed)
		return
	}
	cores := runtime.GOMAXPROCS(0)
	t.Run("seeds", func(t *testing.T) {
		for core := range cores {
			t.Run(fmt.Sprint(core), func(t *testing.T) {
				t.Parallel()
				for seed := core + 1; seed <= n; seed += cores {
					one(t, uint64(seed))
				}
			})
		}
	})
}
