package router

import (
	"sync/atomic"
	"time"

	"lewes/state"
)

// Stats is what a gateway has counted since it started.
type Stats struct {
	Sessions, Records, Flows, Claims uint64 // now

	Up   Traffic // from clients, opened
	Down Traffic // to clients, sealed

	Handshakes state.HandshakeStats
	Rekeys     uint64
	Moves      uint64

	// Packets dropped, by why.
	Malformed, Unknown, Replayed, Forged, Misplaced, Refused uint64

	Resets, HandedOver                   uint64
	FlowsOpened, FlowsRefused            uint64
	Forwarded, Returned, Unclaimed       uint64
	TooLarge, EgressFailed, ClientFailed uint64

	// What the process holds of memory and needs, its limit (0: none), bytes both, and
	// the hellos refused because the first comes too near to the second.
	MemoryUsed, MemoryLimit, ShortOfMemory uint64

	ClockJumps uint64 // of the system's clock

	// Over TCP: Polls, those that a newer one replaced, the bytes that wait for
	// sessions now, and the packets given up because too much waited or for too long.
	Polls, PollsReplaced    uint64
	Held, HeldFull, HeldOld uint64

	// Handshake packets that wait, that waited too long, and the time that
	// handshakes took in all.
	Backlog, Stale uint64
	HandshakeTime  time.Duration
	Turns          []TurnTimes   // of each shard
	HandshakeDelay time.Duration // until one that comes now is looked at, in the shard where it is longest
}

// Traffic is a number of flows' datagrams and their payload's bytes.
type Traffic struct{ Packets, Bytes uint64 }

// counters are a shard's own. Those of the turn are plain, those of what
// brings back atomic.
type counters struct {
	Stats
	downPackets, downBytes        atomic.Uint64
	returned, unclaimed, tooLarge atomic.Uint64
	clientFailed                  atomic.Uint64
}

// add sums up another shard's figures.
func (s *Stats) add(o *Stats) {
	sum := func(to *uint64, from uint64) { *to += from }
	sum(&s.Sessions, o.Sessions)
	sum(&s.Records, o.Records)
	sum(&s.Flows, o.Flows)
	sum(&s.Claims, o.Claims)
	sum(&s.Up.Packets, o.Up.Packets)
	sum(&s.Up.Bytes, o.Up.Bytes)
	sum(&s.Down.Packets, o.Down.Packets)
	sum(&s.Down.Bytes, o.Down.Bytes)
	sum(&s.Rekeys, o.Rekeys)
	sum(&s.Moves, o.Moves)
	sum(&s.Malformed, o.Malformed)
	sum(&s.Unknown, o.Unknown)
	sum(&s.Replayed, o.Replayed)
	sum(&s.Forged, o.Forged)
	sum(&s.Misplaced, o.Misplaced)
	sum(&s.Refused, o.Refused)
	sum(&s.Resets, o.Resets)
	sum(&s.HandedOver, o.HandedOver)
	sum(&s.FlowsOpened, o.FlowsOpened)
	sum(&s.FlowsRefused, o.FlowsRefused)
	sum(&s.Forwarded, o.Forwarded)
	sum(&s.Returned, o.Returned)
	sum(&s.Unclaimed, o.Unclaimed)
	sum(&s.TooLarge, o.TooLarge)
	sum(&s.EgressFailed, o.EgressFailed)
	sum(&s.ClientFailed, o.ClientFailed)
	sum(&s.Polls, o.Polls)
	sum(&s.PollsReplaced, o.PollsReplaced)
	sum(&s.Held, o.Held)
	sum(&s.HeldFull, o.HeldFull)
	sum(&s.HeldOld, o.HeldOld)
	sum(&s.Backlog, o.Backlog)
	sum(&s.Stale, o.Stale)
	sum(&s.ShortOfMemory, o.ShortOfMemory)
	s.HandshakeTime += o.HandshakeTime
	s.HandshakeDelay = max(s.HandshakeDelay, o.HandshakeDelay)
	s.Handshakes.Add(&o.Handshakes)
	s.Turns = append(s.Turns, o.Turns...)
}

// stats returns the shard's figures; the caller has the turn.
func (s *Shard) stats() Stats {
	c := s.counters.Stats
	c.Sessions = uint64(s.sessions.Len())
	c.Turns = []TurnTimes{s.turns}
	c.Records = uint64(s.handshakes.Len())
	c.Flows = uint64(s.flows)
	c.Backlog = uint64(s.backlog.len())
	c.HandshakeDelay = s.backlog.delay()
	c.Claims = uint64(s.claims.Len())
	c.Handshakes = s.handshakes.Stats
	c.Down = Traffic{s.counters.downPackets.Load(), s.counters.downBytes.Load()}
	c.Held = uint64(max(0, s.down.held.Load()))
	c.HeldFull, c.HeldOld = s.down.full.Load(), s.down.old.Load()
	c.PollsReplaced = s.down.renewed.Load()
	c.Returned += s.counters.returned.Load()
	c.Unclaimed += s.counters.unclaimed.Load()
	c.TooLarge += s.counters.tooLarge.Load()
	c.ClientFailed += s.counters.clientFailed.Load()
	return c
}
