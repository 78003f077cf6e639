package router

import (
	"bytes"
	"encoding/binary"
	"flag"
	"net/netip"
	"slices"
	"testing"
	"time"

	"lewes/crypto/kem"
	"lewes/crypto/seal"
	"lewes/router/account"
	"lewes/router/costs"
	"lewes/router/policy"
	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
)

const (
	attackRate     = 20_000 // packets a second
	otherClients   = 100
	otherRate      = 5_000 // datagrams a second of all other clients
	handshakeRate  = 50    // honest handshakes a second
	spoofedRecords = 1000  // handshakes of a stranger
	socketBuffer   = 4096  // packets
	mostDelay      = 5 * time.Millisecond
	mostHandshake  = time.Second
	leastDelivered = 0.9
	leastAttack    = 300 // packets
)

var attackTime = flag.Duration("attack", 300*time.Millisecond, "virtual time of each attack of TestAttackersLeaveOthersTheirTime")

// TestAttackersLeaveOthersTheirTime lets one attacker send 20,000 packets a second of each kind to
// a shard. In virtual time, with the costs of the table in router/costs, other clients keep 90 %
// of their datagrams within 5 ms, their sessions stay as they are, and honest handshakes finish
// within a second. Hellos that doubt sessions change none, of whichever client.
func TestAttackersLeaveOthersTheirTime(t *testing.T) {
	if raceEnabled {
		t.Skip("each simulation has one goroutine: run without -race")
	}
	for i := range costs.Kinds {
		k := &costs.Kinds[i]
		t.Run(k.Name, func(t *testing.T) {
			t.Parallel()
			s := newSimulation(t, k)
			s.run()
			s.check()
		})
	}
}

// simulation is a shard with a virtual clock that its own work advances, an attacker, and honest
// clients. Packets wait in the buffer of one socket until the shard reads them.
type simulation struct {
	*rig
	t    *testing.T
	kind *costs.Kind
	env  costs.Env

	now     time.Time // of the shard, when its work so far is done
	pending time.Duration
	charged []charge

	inbox     []arrival
	exchanged int // packets of the attacker that had to come before others
	attacked  int // packets of the kind
	clients   []*peer
	sentAt    map[uint64]time.Time // datagrams by number
	sent      uint64
	arrived   []uint64 // at the target, in this batch
	delays    []time.Duration
	dialing   []*dialing
	took      []time.Duration // honest handshakes
	begun     int
	dropped   int                          // by the full socket
	memory    [state.Classes]int64         // the most that handshakes took, in bytes
	sessions  map[*state.Session]situation // before the attack, which may not change them
}

// situation is the path of a session at the gateway, and the keys that it seals under.
type situation struct {
	at   path.Path
	keys *state.KeySet
}

func situationOf(s *state.Session) situation { return situation{s.Path(), s.Current()} }

// simulatedEgress opens sockets that note the datagrams of honest clients.
type simulatedEgress struct{ *simulation }

func (e simulatedEgress) Dial(to netip.AddrPort, _ account.Key) (transport.Conn, error) {
	return &simulatedConn{newMemConn(), e.simulation, to == target}, nil
}

type simulatedConn struct {
	*memConn
	s      *simulation
	honest bool
}

func (c *simulatedConn) WriteBatch(p []transport.Packet) (int, error) {
	for i := 0; c.honest && i < len(p); i++ {
		c.s.arrived = append(c.s.arrived, binary.LittleEndian.Uint64(p[i].Data))
	}
	return len(p), nil
}

// charge is the cost of the work that a counter counts.
type charge struct {
	counter *uint64
	seen    uint64
	cost    time.Duration
}

// arrival is a packet on its way to the shard, with its cost if it causes no counted work.
type arrival struct {
	transport.Packet
	cost time.Duration
}

// dialing is an honest handshake.
type dialing struct {
	at     path.Path
	client *state.Client
	since  time.Time
	out    state.Output
}

// Costs of packets that cause no counted work: a clear one is read up to its MAC1.
var (
	clearCost  = costs.Find("wrong MAC1").Cost()
	sealedCost = costs.Find(costs.Baseline).Cost()
)

func newSimulation(t *testing.T, k *costs.Kind) *simulation {
	s := &simulation{t: t, kind: k, now: epoch, sentAt: make(map[uint64]time.Time)}
	s.rig = newRig(t, func(c *Config) {
		withDirectory(t)(c)
		c.Policy = policy.New(policy.Config{})
		c.Registration.Registrar = costs.BusyRegistrar()
		c.Resolver = slowResolver{}
		c.Egress = simulatedEgress{s}
	})
	st := &s.shard.st
	st.timer.timer.Stop()
	st.timer.timer = time.AfterFunc(time.Hour, func() {}) // run ticks, the timer does not
	st.timer.at = time.Time{}
	for i := range otherClients {
		p := s.connect(byte(i), path.Path{Peer: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 1024)})
		p.data(1, target, "opens the flow")
		s.clients = append(s.clients, p)
	}
	s.arrived = nil
	s.env = costs.Env{
		Gateway: gatewayID.Public(), Exit: exitID, Trusted: exitAddr.Addr(),
		Target: netip.MustParseAddrPort("198.51.100.8:53"), Open: netip.MustParseAddrPort("198.51.100.8:54"),
		Denied: netip.MustParseAddrPort("10.0.0.1:53"), Host: "dns.example",
		Clients: 1, Rand: seeded(uint64(len(k.Name))), Now: s.rig.now, Exchange: s.exchange,
	}
	if k.From == costs.Stranger {
		s.env.Clients = spoofedRecords
	}
	s.clock = s.read
	s.charge("hello", "KKT request", "Handshake 1", "Handshake 3", "data to a new target", "KK1", k.Name)
	return s
}

// charge makes the clock advance by the costs of kinds whenever their counters rise.
func (s *simulation) charge(kinds ...string) {
	for _, name := range kinds {
		k, base := costs.Find(name), sealedCost
		if k.From == costs.Stranger {
			base = clearCost
		}
		if k.Counter == "" || name == s.kind.Name && k.Cost() <= costs.Cheap {
			continue // charged when the packet arrives
		}
		c := charge{counter: k.Counted(&s.shard.st.handshakes.Stats), cost: max(0, k.Cost()-base)}
		if c.counter == nil {
			c.counter = k.Counted(&s.shard.st.counters)
		}
		c.seen = *c.counter
		if i := slices.IndexFunc(s.charged, func(o charge) bool { return o.counter == c.counter }); i >= 0 {
			s.charged[i].cost = max(s.charged[i].cost, c.cost)
		} else {
			s.charged = append(s.charged, c)
		}
	}
}

// read is the shard's clock: what was done since the last reading has taken its time.
func (s *simulation) read() time.Time {
	s.now = s.now.Add(s.pending)
	s.pending = 0
	for i := range s.charged {
		c := &s.charged[i]
		s.now = s.now.Add(time.Duration(*c.counter-c.seen) * c.cost)
		c.seen = *c.counter
	}
	return s.now
}

// send puts a packet into the socket's buffer.
func (s *simulation) send(p transport.Packet, cost time.Duration) {
	if len(s.inbox) == socketBuffer {
		s.dropped++
		return
	}
	s.inbox = append(s.inbox, arrival{p, cost})
}

// attackCost returns what a packet of the attacker costs beside the work that is counted.
func (s *simulation) attackCost(p transport.Packet) time.Duration {
	if k := s.kind; k.Counter == "" || k.Cost() <= costs.Cheap {
		return k.Cost()
	}
	return honestCost(p)
}

func honestCost(p transport.Packet) time.Duration {
	if h, err := wire.ParseHeader(p.Data); err == nil && h.Level == wire.LevelTransport {
		return sealedCost
	}
	return clearCost
}

// receive lets the shard handle packets, and returns its answers to the attacker.
func (s *simulation) receive(batch []arrival) []transport.Packet {
	packets := make([]transport.Packet, len(batch))
	for i, a := range batch {
		packets[i] = a.Packet
		s.pending += a.cost
	}
	s.shard.Receive(s.rig.now(), packets, nil)
	for class := range s.memory {
		s.memory[class] = max(s.memory[class], s.whole.budgets.Memory(state.Class(class)))
	}
	return s.collect()
}

// collect passes on what the shard has sent.
func (s *simulation) collect() (others []transport.Packet) {
	s.rig.now()
	for _, n := range s.arrived {
		s.delays = append(s.delays, s.now.Sub(s.sentAt[n]))
	}
	s.arrived = s.arrived[:0]
	for _, p := range s.socket.take() {
		i := slices.IndexFunc(s.dialing, func(d *dialing) bool { return d.at == p.Path })
		if i < 0 {
			others = append(others, p)
			continue
		}
		s.answer(s.dialing[i], p.Data)
	}
	return others
}

// answer handles an answer to an honest handshake.
func (s *simulation) answer(d *dialing, packet []byte) {
	if session := d.client.Session(); session != nil {
		if _, _, err := session.Current().Open(s.now, packet, path.Path{}, &d.out); err != nil {
			return // a copy of Handshake 2
		}
		s.took = append(s.took, s.now.Sub(d.since))
		s.dialing = slices.DeleteFunc(s.dialing, func(o *dialing) bool { return o == d })
		return
	}
	_ = d.client.Handle(s.now, packet, &d.out)
	s.flush(d)
}

func (s *simulation) flush(d *dialing) {
	for _, p := range d.out.Packets {
		q := transport.Packet{Data: p.Data, Path: d.at}
		s.send(q, honestCost(q))
	}
	d.out.Reset()
}

// exchange passes packets of the attacker to the shard ahead of those that wait.
func (s *simulation) exchange(packets ...transport.Packet) []transport.Packet {
	s.exchanged += len(packets)
	var batch []arrival
	for _, p := range packets {
		batch = append(batch, arrival{p, honestCost(p)})
	}
	return s.receive(batch)
}

// dial begins an honest handshake.
func (s *simulation) dial() {
	s.begun++
	d := &dialing{at: path.Path{Peer: netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(s.begun >> 8), byte(s.begun)}), 1024)}, since: s.now}
	var err error
	d.client, err = state.NewClient(s.now, state.ClientConfig{
		Gateway: gatewayID.Public(), Identity: testIdentity(200), KEM: kem.MLKEM768,
		Suites: seal.Offer(), Rand: seeded(uint64(s.begun)), Path: clientAt,
	}, &d.out)
	if err != nil {
		s.t.Fatal(err)
	}
	s.dialing = append(s.dialing, d)
	s.flush(d)
}

// datagram sends the next datagram of the other clients.
func (s *simulation) datagram(at time.Time) {
	p := s.clients[s.sent%otherClients]
	s.sent++
	s.sentAt[s.sent] = at
	m := &wire.EncryptedData{FlowID: 1, Payload: binary.LittleEndian.AppendUint64(nil, s.sent)}
	if err := p.session.Send(wire.TypeEncryptedData, m, &p.out); err != nil {
		s.t.Fatal(err)
	}
	s.send(transport.Packet{Data: p.out.Packets[0].Data, Path: p.at}, sealedCost)
	p.out.Reset()
}

// record makes packets before the attack if each needs answers of the gateway first, and returns a
// function that repeats them.
func (s *simulation) record(next func() (transport.Packet, bool)) func() (transport.Packet, bool) {
	const packets, interval = 1000, 5 * time.Millisecond
	var made []transport.Packet
	onDemand := false
	for n := 0; n < packets && !onDemand; n++ {
		before := s.exchanged
		if p, ok := next(); ok {
			made = append(made, p)
		}
		onDemand = n == 1 && s.exchanged < before+2
		s.serve(s.rig.now().Add(interval))
	}
	n := 0
	return func() (transport.Packet, bool) {
		n++
		if onDemand && n > len(made) {
			return next()
		}
		if len(made) == 0 {
			return transport.Packet{}, false
		}
		p := made[(n-1)%len(made)]
		p.Data = bytes.Clone(p.Data)
		return p, true
	}
}

// run sends the attack, and then what honest clients still wait for.
func (s *simulation) run() {
	next := s.record(s.kind.Start(&s.env))
	s.pending, s.exchanged = 0, 0
	s.sessions = make(map[*state.Session]situation)
	for _, p := range s.clients {
		session := s.shard.st.sessions.Find(p.session.Current().Index()).Session()
		s.sessions[session] = situationOf(session)
	}
	if s.kind == costs.Find("hello that doubts a session") {
		s.shard.st.sessions.All(func(session *state.Session) { s.sessions[session] = situationOf(session) })
	}
	at := s.rig.now()
	const step = time.Second / attackRate
	for n := range int(*attackTime / step) {
		at = at.Add(step)
		if s.exchanged > 0 {
			s.exchanged--
		} else if p, ok := next(); ok {
			s.attacked++
			s.send(p, s.attackCost(p))
		}
		if n%(attackRate/otherRate) == 0 {
			s.datagram(at)
		}
		if n%(attackRate/handshakeRate) == 0 {
			s.dial()
		}
		s.serve(at)
	}
	for end := at.Add(2 * mostHandshake); at.Before(end) && (len(s.dialing) > 0 || len(s.inbox) > 0); {
		at = at.Add(step)
		s.serve(at)
	}
}

// serve lets the shard work until a moment.
func (s *simulation) serve(until time.Time) {
	for _, d := range s.dialing {
		if due := d.client.Deadline(); !due.IsZero() && !due.After(until) {
			d.client.Tick(until, &d.out)
			s.flush(d)
		}
	}
	for s.rig.now().Before(until) {
		due := s.shard.st.timer.at
		switch {
		case !due.IsZero() && !due.After(s.now):
			s.shard.Tick()
			s.env.Deliver(s.collect()...)
		case len(s.inbox) > 0:
			n := min(len(s.inbox), batchSize)
			batch := slices.Clone(s.inbox[:n])
			s.inbox = slices.Delete(s.inbox, 0, n)
			s.env.Deliver(s.receive(batch)...)
		case !due.IsZero() && due.Before(until):
			s.now = due
		default:
			s.now = until
		}
	}
}

// check compares the result with what honest clients are promised.
func (s *simulation) check() {
	inTime := 0
	for _, d := range s.delays {
		if d <= mostDelay {
			inTime++
		}
	}
	slices.Sort(s.took)
	longest := time.Duration(0)
	if len(s.took) > 0 {
		longest = s.took[len(s.took)-1]
	}
	delivered := float64(inTime) / float64(s.sent)
	s.t.Logf("%s: %d packets; %.1f %% of %d datagrams within %v; %d of %d handshakes, the longest %v; %d packets dropped by the socket",
		s.kind, s.attacked, 100*delivered, s.sent, mostDelay, len(s.took), s.begun, longest, s.dropped)
	for session, before := range s.sessions {
		if keys := s.shard.st.sessions.Find(before.keys.Index()); keys != before.keys || situationOf(session) != before {
			s.t.Errorf("the session at %v with index %#x has changed", before.at, before.keys.Index())
		}
	}
	if s.attacked < leastAttack {
		s.t.Errorf("the attacker sent %d packets", s.attacked)
	}
	if delivered < leastDelivered {
		s.t.Errorf("%.1f %% of the datagrams arrived in time, want %.0f %%", 100*delivered, 100*leastDelivered)
	}
	if s.memory[state.Proved] > DefaultHandshakeMemory || s.memory[state.Unproved] > DefaultHandshakeMemory/4 {
		s.t.Errorf("handshakes took %d bytes of sources that have proved their address, and %d of others", s.memory[state.Proved], s.memory[state.Unproved])
	}
	if got := s.shard.Stats(); s.kind.From == costs.Client && (got.Flows > otherClients+256 || got.Bindings > 64) {
		s.t.Errorf("one attacker holds %d flows and %d claims", got.Flows-otherClients, got.Bindings)
	}
	if len(s.took) < s.begun || longest > mostHandshake {
		s.t.Errorf("%d of %d handshakes finished, the longest took %v", len(s.took), s.begun, longest)
	}
}
