package router

import (
	"sync"
	"sync/atomic"
	"time"

	"lewes/crypto/identity"
	"lewes/router/account"
	"lewes/router/meter"
	"lewes/router/unlisted"
	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/udp"
)

// Shard owns the sessions whose receiver indexes steer to it. Its methods lock it for one batch and
// work on shardState, which has no lock.
type Shard struct {
	*shardEnv

	mu sync.Mutex
	st shardState // guarded by mu
}

// shardEnv is shared by a shard's batches and its return loop. Fields are immutable once the shard
// serves; the types behind pointers are safe for concurrent use.
type shardEnv struct {
	id       int
	steer    udp.Steer
	config   *Config
	limits   *atomic.Pointer[Limits]
	accounts *account.Book
	meter    *meter.Book // nil: nothing is counted
	// replaceElsewhere is Gateway.replaceElsewhere.
	replaceElsewhere func(client identity.PublicKey, except int)
	now              func() time.Time
	out              clientSockets
	maxDatagram      int         // largest packet accepted over UDP, in bytes
	do               func(batch) // runs a function as a batch of its own
	returns          *returnLoop // nil: each socket has a goroutine
	returnLoops      *sync.WaitGroup
	returned         returnCounters
	queues           pollQueues
	errors           socketErrors
	shortages        *shortages     // of the gateway
	unlisted         *unlisted.Book // of the gateway
	table            sharedTable
}

// batch is work under the shard's lock.
type batch func(now time.Time, st *shardState)

// shardState is the state of a shard.
type shardState struct {
	*shardEnv

	closing bool // hellos are rejected
	paused  bool // no socket is read
	retired bool // closed, or handed over to a successor

	sessions     *state.Sessions
	tableVersion uint64 // changes with the table of sessions
	handshakes   *state.ResponderTable

	scheduler scheduler
	work      workQueue
	flows     flowTable
	forwarder forwarder
	silent    silentAddrs // of flows
	// unregistered has the sessions without a required registration.
	unregistered state.Deadlines[*client]
	delivery     tcpDelivery
	timer        shardTimer

	// Scratch of a batch.
	outbound   outbound
	output     state.Output
	datagrams  []transport.Packet // of output, over UDP
	discarded  []transport.Conn   // sockets to close when there is time
	prefetched uint64             // keeps the reads of prefetch from being optimized away

	counters Stats
	times    BatchTimes
	refusals map[Refusal]uint64 // nil: none yet
}

// shardTimer wakes the shard for its next deadline.
type shardTimer struct {
	timer   *time.Timer
	at      time.Time
	overdue bool // the last Tick left work for the next
}

// newShard returns a shard that receives no packets yet.
func newShard(g *Gateway, id int, steer udp.Steer, handshake *state.GatewayConfig, out clientSockets) (*Shard, error) {
	config, now := &g.config, g.config.Clock
	env := &shardEnv{
		id: id, steer: steer, config: config, limits: &g.limits, accounts: g.accounts, meter: g.meter, replaceElsewhere: g.replaceElsewhere, now: now, out: out,
		maxDatagram: int(config.Terms.MaxDatagram), returnLoops: &g.returnLoops, shortages: &g.shortages, unlisted: &g.unlisted,
	}
	env.table.sessions = state.NewSessions()
	s := &Shard{shardEnv: env, st: shardState{shardEnv: env, sessions: env.table.sessions}}
	env.do = s.Do
	st := &s.st
	st.scheduler.init(config.MaxBacklog, g.budgets)
	st.outbound.failed = &st.counters.EgressFailed
	st.forwarder.upstreams = make(map[identityKey]*upstream)
	st.delivery.queues = &env.queues
	own := *handshake
	own.Holds = g.holds
	own.Full = func() bool { return st.full() || st.shortOfMemory(handshake.Full) }
	own.QueueDelay = func() time.Duration { return st.scheduler.delay(state.Proved) }
	own.Crowded = st.scheduler.crowded
	own.Session.NewIndex = st.newIndex
	var err error
	if st.handshakes, err = state.NewResponderTable(now(), &own); err != nil {
		return nil, err
	}
	st.timer.timer = time.AfterFunc(time.Hour, s.Tick)
	env.queues.init(&config.TCP, &g.queued, now)
	env.errors.wake = s.Tick
	return s, nil
}

// full reports whether the gateway has all the sessions that it may have.
func (st *shardState) full() bool {
	return st.accounts.InUse(account.Sessions) >= st.limits.Load().MaxSessions
}

// shortOfMemory counts the hellos that are refused because memory is short.
func (st *shardState) shortOfMemory(short func() bool) bool {
	if short == nil || !short() {
		return false
	}
	st.counters.ShortOfMemory++
	return true
}

// newIndex draws a free index that steers to this shard.
func (st *shardState) newIndex() uint32 {
	for {
		var b [4]byte
		if _, err := st.config.Rand.Read(b[:]); err != nil {
			panic("router: no randomness: " + err.Error())
		}
		index := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
		if index != 0 && st.steer.Shard(index) == st.id && st.sessions.Find(index) == nil && !st.handshakes.Has(index) {
			return index
		}
	}
}

// Receive handles a batch that arrived at now. It appends the packets whose index belongs to
// another shard to misrouted and returns that; their Data aliases the batch.
func (s *Shard) Receive(now time.Time, batch, misrouted []transport.Packet) []transport.Packet {
	s.mu.Lock()
	defer s.mu.Unlock()
	misrouted = s.st.receive(now, batch, misrouted)
	s.st.endBatch(now)
	return misrouted
}

// receiveMisrouted handles packets that arrived at another shard's socket.
func (s *Shard) receiveMisrouted(now time.Time, batch []transport.Packet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.st.counters.Misrouted += uint64(len(batch))
	s.st.receive(now, batch, nil)
	s.st.endBatch(now)
}

// Do runs f as a batch. It does nothing if the shard is closed or handed over.
func (s *Shard) Do(f batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.st.retired {
		return
	}
	now := s.now()
	f(now, &s.st)
	s.st.endBatch(now)
}

// endBatch sends the results of the batch and sets the timer for the next deadline.
func (st *shardState) endBatch(now time.Time) {
	st.handleSocketErrors(now)
	st.runQueued()
	st.outbound.flush()
	st.sendAnswers()
	st.delivery.endBatch()
	st.setTimer(now)
	took := st.now().Sub(now)
	st.times.add(took)
	st.scheduler.endBatch(took)
}

// sendAnswers sends the packets of the state machines. The time is charged to handshakes if the
// batch had any: nothing else has so many answers.
func (st *shardState) sendAnswers() {
	if len(st.output.Packets) == 0 {
		return
	}
	if st.scheduler.spent > 0 {
		start := st.now()
		defer func() {
			took := st.now().Sub(start)
			st.scheduler.charge(took)
			st.counters.HandshakeTime += took
		}()
	}
	for _, p := range st.output.Packets {
		if p.Path.Transport == path.TCP {
			st.sendOverTCP(&p)
			continue
		}
		st.datagrams = append(st.datagrams, transport.Packet{Data: p.Data, Path: p.Path})
	}
	st.counters.ClientFailed += writeRuns(st.out, st.datagrams)
	clear(st.datagrams)
	st.datagrams = st.datagrams[:0]
	st.output.Reset()
}

// setTimer sets the timer for the earliest deadline.
func (st *shardState) setTimer(now time.Time) {
	next := time.Time{}
	if st.scheduler.len() > 0 || st.work.len() > 0 || len(st.discarded) > 0 {
		next = now.Add(slice)
	}
	for _, at := range [...]time.Time{st.sessions.Next(), st.handshakes.Next(), st.flows.timers.Next(), st.forwarder.timers.Next(), st.unregistered.Next()} {
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	t := &st.timer
	if least := now.Add(slice); t.overdue && next.Before(least) {
		next = least
	}
	if next.IsZero() || !t.at.IsZero() && !next.Before(t.at) {
		return
	}
	t.at = next
	t.timer.Reset(max(0, next.Sub(now)))
}

// applyEvents applies the events of a session and updates its deadline.
func (st *shardState) applyEvents(session *state.Session) {
	for _, e := range st.output.Events {
		st.table.write(func() { st.sessions.Apply(e) })
		st.tableVersion++
		switch e.Kind {
		case state.Closed:
			traceSession(e.Session, TraceClosed, e.Reason)
			st.dropClient(e.Session)
		case state.Rekeyed:
			st.counters.Rekeys++
			traceSession(e.Session, TraceRekeyed, nil)
		case state.PeerUnresponsive:
			traceSession(e.Session, TraceUnresponsive, nil)
		case state.Moved:
			st.counters.Migrations++
			st.noteMoved(e.Session.User.(*client))
			st.leaveTCP(e.Session)
		}
	}
	if len(st.output.Events) > 0 {
		clear(st.output.Events)
		st.output.Events = st.output.Events[:0]
	}
	st.sessions.Touch(session)
}

const (
	// dueAtOnce is the number of due items of each kind handled between two readings of the clock.
	dueAtOnce = 16
	// dueAnswers bounds the packets that due items produce in one batch: sending one takes as
	// long as everything else.
	dueAnswers = 128
)

// Tick handles due items for one slice. If many are due at once, the rest waits for the next
// Tick, so that datagrams pass in between.
func (s *Shard) Tick() {
	s.Do(func(now time.Time, st *shardState) {
		t := &st.timer
		t.at = time.Time{}
		end := now.Add(slice)
		for t.overdue = true; t.overdue && now.Before(end) && len(st.output.Packets) < dueAnswers; now = st.now() {
			t.overdue = st.runDue(now)
		}
	})
}

// runDue handles some due items of each kind, and reports whether more may be due.
func (st *shardState) runDue(now time.Time) (more bool) {
	for _, one := range [...]func(time.Time) bool{st.handshakes.TickOne, st.tickSession, st.expireFlow, st.expireBinding, st.expireUnregistered, st.closeDiscarded} {
		n := 0
		for n < dueAtOnce && one(now) {
			n++
		}
		more = more || n == dueAtOnce
	}
	return more
}

// tickSession ticks a session whose deadline has passed, and reports whether there was one.
func (st *shardState) tickSession(now time.Time) bool {
	session := st.sessions.Due(now)
	if session == nil {
		return false
	}
	session.Tick(now, &st.output)
	st.applyEvents(session)
	return true
}

// discard closes a socket when there is time: closing it takes ten microseconds, and one packet may
// end hundreds of flows. They are few beside the bound of flows, as each new flow closes one.
func (st *shardState) discard(conn transport.Conn) { st.discarded = append(st.discarded, conn) }

// closeDiscarded closes a discarded socket, and reports whether there was one.
func (st *shardState) closeDiscarded(time.Time) bool {
	last := len(st.discarded) - 1
	if last < 0 {
		return false
	}
	_ = st.discarded[last].Close()
	st.discarded[last] = nil
	st.discarded = st.discarded[:last]
	return true
}

// maxFlowClosed bounds the flow ids in client.flowClosed.
const maxFlowClosed = 256

// rejectFlow sends a FlowClosed for a flow that is not open, at most once per second and flow id.
func (st *shardState) rejectFlow(now time.Time, c *client, id uint16, reason wire.FlowReason, detail string) {
	if at, ok := c.flowClosed[id]; ok && now.Sub(at) < time.Second {
		return
	}
	if c.flowClosed == nil || len(c.flowClosed) >= maxFlowClosed {
		c.flowClosed = make(map[uint16]time.Time)
	}
	c.flowClosed[id] = now
	st.sendFlowClosed(c, id, reason, detail)
}

func (st *shardState) sendFlowClosed(c *client, id uint16, reason wire.FlowReason, detail string) {
	m := wire.FlowClosed{FlowID: id, Reason: reason, Detail: wire.Detail(detail)}
	_ = c.session.Send(wire.TypeFlowClosed, &m, &st.output) // fails if the session is closed
}

// dropClient releases everything that a closed session holds.
func (st *shardState) dropClient(session *state.Session) {
	c, ok := session.User.(*client)
	if !ok || c.dropped {
		return
	}
	c.dropped = true
	if ended := st.config.OnSessionEnd; ended != nil {
		info := c.info()
		ended(&info)
	}
	for _, f := range c.flows {
		st.dropFlow(f)
	}
	st.unbindAll(c, func(*indexBinding) bool { return true })
	for _, f := range c.forwards {
		st.dropForward(f)
	}
	st.endUnregistered(c)
	st.delivery.flushOnClose(c, &st.output)
	if c.trace != nil {
		c.trace.end()
	}
	c.unregister()
	c.account.Release(account.Sessions)
	c.account.Leave(st.now())
}

// closeSession closes a session, notifies its client, and returns the work in units of a walk.
func (st *shardState) closeSession(session *state.Session, reason wire.CloseReason, detail string) (units int) {
	units = closeUnits
	if c, ok := session.User.(*client); ok {
		units += dropUnits * (c.flowCount() + len(c.bindings))
	}
	session.Close(reason, detail, &st.output)
	st.applyEvents(session)
	return units
}

// close releases everything that the shard holds.
func (s *Shard) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.st
	st.retired = true // lookups that end later are ignored
	st.timer.timer.Stop()
	s.queues.stop()
	st.sessions.All(func(t *state.Session) { st.dropClient(t) })
	for st.closeDiscarded(time.Time{}) {
	}
	for _, u := range st.forwarder.upstreams {
		_ = u.conn.Close()
	}
	if s.returns != nil {
		s.returns.poller.Stop()
	}
}

// Stats returns the shard's counters.
func (s *Shard) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st.stats()
}
