package router

import (
	"sync"
	"time"

	"lewes/state"
	"lewes/state/path"
	"lewes/state/ratelimit"
	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/udp"
)

const (
	// resetRate is how many Resets a second a source address gets (section 11).
	resetRate = 10
	// minResetPacket is the smallest sealed packet that is answered by a Reset.
	minResetPacket = 64
)

// Shard owns the sessions whose receiver indexes steer to it. Its methods take
// the lock for a turn; those whose names begin with "turn" are called within one.
type Shard struct {
	id     int
	steer  udp.Steer
	config *Config
	now    func() time.Time
	out    outlets

	maxDatagram int // the largest packet taken over UDP

	mu         sync.Mutex
	closing    bool
	paused     bool // nothing is read: not from clients, not from targets
	gone       bool // it is closed, or all of it is a successor's
	handshakes *state.ResponderTable
	backlog    backlog
	sessions   *state.Sessions
	output     state.Output
	resets     *ratelimit.Table

	flows     int
	lookups   int // of names, under way
	flowTimes state.Deadlines[*flow]
	claims    state.Deadlines[*claim]
	nexts     map[identityKey]*nextGateway
	written   []*flow        // flows that have datagrams to send in this turn
	forwarded []*nextGateway // gateways that have
	answers   []transport.Packet
	datagrams []transport.Packet // answers over UDP
	visitors  []visitor          // connections of sessions in this turn
	pushed    []*downstream      // what waits for sessions and was added to in this turn
	ending    []path.Path        // connections that were answered in this turn
	alarm     *time.Timer
	alarmAt   time.Time
	pumps     *sync.WaitGroup
	returns   *returnLoop // nil: each socket has a pump

	down     downstreams
	counters counters
	turns    TurnTimes
	overdue  bool // the last Tick has left something for the next

	foreseen  uint64           // keeps turnForesee's reads from being left out
	discarded []transport.Conn // that no flow has any more, to be closed
}

// outlets finds the socket by which a packet leaves to a client.
type outlets interface {
	For(path.Path) transport.Conn
}

// newShard returns a shard that is not fed yet.
func newShard(id int, steer udp.Steer, config *Config, handshake *state.GatewayConfig, out outlets, now func() time.Time, pumps *sync.WaitGroup) (*Shard, error) {
	s := &Shard{
		id:       id,
		steer:    steer,
		config:   config,
		now:      now,
		out:      out,
		sessions: state.NewSessions(),
		backlog:  backlog{most: config.maxBacklog()},
		nexts:    make(map[identityKey]*nextGateway),
		pumps:    pumps,

		maxDatagram: int(config.Terms.MaxDatagram),
	}
	mine := *handshake
	mine.IndexInUse = func(index uint32) bool { return s.sessions.Find(index) != nil }
	mine.Full = func() bool { return s.full() || s.shortOfMemory(handshake.Full) }
	mine.QueueDelay = s.backlog.delay
	mine.Session.NewIndex = s.newIndex
	var err error
	if s.handshakes, err = state.NewResponderTable(now(), &mine); err != nil {
		return nil, err
	}
	s.resets = ratelimit.NewTable(now(), resetRate, resetRate, uint64(steer.Secret)<<32|uint64(id))
	s.alarm = time.AfterFunc(time.Hour, s.Tick)
	s.down.init(&config.TCP, steer.Shards, now)
	return s, nil
}

// full reports whether the shard has its share of the sessions that the gateway
// may hold.
func (s *Shard) full() bool {
	return s.sessions.Len() >= max(1, s.config.maxSessions()/max(1, s.steer.Shards))
}

// shortOfMemory counts the hellos that are refused because memory is short.
func (s *Shard) shortOfMemory(short func() bool) bool {
	if short == nil || !short() {
		return false
	}
	s.counters.ShortOfMemory++
	return true
}

// newIndex draws an index that is free and steers to this shard.
func (s *Shard) newIndex() uint32 {
	for {
		var b [4]byte
		if _, err := s.config.Rand.Read(b[:]); err != nil {
			panic("router: no randomness: " + err.Error())
		}
		index := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
		if index != 0 && s.steer.Shard(index) == s.id && s.sessions.Find(index) == nil && !s.handshakes.Has(index) {
			return index
		}
	}
}

// Receive takes a batch that came at now. Packets whose index belongs to another
// shard are appended to elsewhere, which it returns; their Data aliases the
// batch.
func (s *Shard) Receive(now time.Time, batch []transport.Packet, elsewhere []transport.Packet) []transport.Packet {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.backlog.loaded = len(batch) == batchSize
	s.turnForesee(batch)
	for i := range batch {
		p := &batch[i]
		for datagram := range p.Segments() {
			if s.steer.Shards > 1 {
				index, ok := wire.ReceiverIdx(datagram)
				if ok && s.steer.Shard(index) != s.id {
					elsewhere = append(elsewhere, transport.Packet{Data: datagram, Path: p.Path})
					continue
				}
			}
			s.turnPacket(now, datagram, p.Path)
		}
	}
	s.turnEnd(now)
	return elsewhere
}

// turnForesee reads the sessions of a batch's packets for no other purpose than to have them
// in the processor's cache: among very many sessions each is somewhere in memory, and
// the processor waits for all of a batch at once where it would wait for one after the
// other. Of a train, the first packet stands for all.
func (s *Shard) turnForesee(batch []transport.Packet) {
	if len(batch) < 2 {
		return
	}
	var found [batchSize]*state.KeySet
	n := 0
	for i := range batch[:min(len(batch), batchSize)] {
		if index, ok := wire.ReceiverIdx(batch[i].Data); ok {
			if found[n] = s.sessions.Find(index); found[n] != nil {
				n++
			}
		}
	}
	for _, g := range found[:n] {
		s.foreseen += g.Prefetch()
	}
}

// Turn calls f with the shard's lock held and sends what came of it.
func (s *Shard) Turn(f func(now time.Time)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone {
		return
	}
	now := s.now()
	f(now)
	s.turnEnd(now)
}

// turnEnd sends what the turn has gathered and sets the alarm for the next
// deadline.
func (s *Shard) turnEnd(now time.Time) {
	s.turnBacklog()
	for _, f := range s.written {
		f.flush()
	}
	s.written = s.written[:0]
	for _, n := range s.forwarded {
		n.flush()
	}
	s.forwarded = s.forwarded[:0]
	s.turnAnswers()
	s.turnStreams()
	s.turnAlarm(now)
	took := s.now().Sub(now)
	s.turns.add(took)
	s.backlog.turned(took)
}

// turnAnswers sends what the state machines answered. What that takes counts as the
// handshakes' time where the turn had any: nobody else has so many answers.
func (s *Shard) turnAnswers() {
	if len(s.output.Packets) == 0 {
		return
	}
	if s.backlog.spent > 0 {
		begun := s.now()
		defer func() { s.turnSpent(s.now().Sub(begun)) }()
	}
	for _, p := range s.output.Packets {
		if p.Path.Transport == path.TCP {
			s.turnStream(&p)
			continue
		}
		s.datagrams = append(s.datagrams, transport.Packet{Data: p.Data, Path: p.Path})
	}
	s.counters.ClientFailed += writeRuns(s.out, s.datagrams)
	clear(s.datagrams)
	s.datagrams = s.datagrams[:0]
	s.output.Reset()
}

func (s *Shard) turnAlarm(now time.Time) {
	next := time.Time{}
	if s.backlog.len() > 0 || len(s.discarded) > 0 {
		next = now.Add(stretch)
	}
	for _, at := range [...]time.Time{s.sessions.Next(), s.handshakes.Next(), s.flowTimes.Next(), s.claims.Next()} {
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	if least := now.Add(stretch); s.overdue && next.Before(least) {
		next = least
	}
	if next.IsZero() || !s.alarmAt.IsZero() && !next.Before(s.alarmAt) {
		return
	}
	s.alarmAt = next
	s.alarm.Reset(max(0, next.Sub(now)))
}

// turnSettle follows the events of a session and keeps its deadline.
func (s *Shard) turnSettle(t *state.Session) {
	for _, e := range s.output.Events {
		s.sessions.Apply(e)
		switch e.Kind {
		case state.Closed:
			s.turnForget(e.Session)
		case state.Rekeyed:
			s.counters.Rekeys++
		case state.Moved:
			s.counters.Moves++
			s.turnMoved(e.Session)
		}
	}
	clear(s.output.Events)
	s.output.Events = s.output.Events[:0]
	s.sessions.Touch(t)
}

// Shutdown closes every session, tells its client why, and answers hellos with a
// Reject from then on.
func (s *Shard) Shutdown(reason wire.CloseReason, detail string) (sessions int) {
	s.Turn(func(time.Time) {
		s.closing = true
		var all []*state.Session
		s.sessions.All(func(t *state.Session) { all = append(all, t) })
		for _, t := range all {
			t.Close(reason, detail, &s.output)
			s.turnSettle(t)
		}
		sessions = len(all)
	})
	return sessions
}

// CloseUnless closes the sessions whose client is not admitted any more.
func (s *Shard) CloseUnless(admitted func(*state.Session) bool) (closed int) {
	s.Turn(func(time.Time) {
		var gone []*state.Session
		s.sessions.All(func(t *state.Session) {
			if !admitted(t) {
				gone = append(gone, t)
			}
		})
		for _, t := range gone {
			t.Close(wire.CloseDone, "this identity is not listed any more", &s.output)
			s.turnSettle(t)
		}
		closed = len(gone)
	})
	return closed
}

// Stats returns the shard's figures.
func (s *Shard) Stats() (stats Stats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats()
}
