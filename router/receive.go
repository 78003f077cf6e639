package router

import (
	"errors"
	"time"

	"lewes/crypto/seal"
	"lewes/state"
	"lewes/state/path"
	"lewes/state/wire"
)

// turnPacket handles one packet of this shard.
func (s *Shard) turnPacket(now time.Time, packet []byte, from path.Path) {
	h, err := wire.ParseHeader(packet)
	if err != nil || from.Transport == path.UDP && len(packet) > s.maxDatagram {
		s.counters.Malformed++
		return
	}
	if h.Level != wire.LevelTransport {
		if len(packet) > maxGreeting {
			s.counters.Malformed++
			return
		}
		if s.backlog.push(now, packet, from) {
			s.counters.Stale++
		}
		s.turnBacklog() // at once if there is time: what follows may need its session
		return
	}
	if g := s.sessions.Find(h.ReceiverIdx); g != nil {
		s.turnSealed(now, g, h, packet, from)
	} else {
		s.turnUnknown(now, h, packet, from)
	}
}

// turnGreeting handles a packet of a handshake, which is of level 1 or 2.
func (s *Shard) turnGreeting(now time.Time, packet []byte, from path.Path) {
	h, err := wire.ParseHeader(packet)
	switch {
	case err != nil:
		s.counters.Malformed++
	case h.Level == wire.LevelHandshake:
		s.turnHandshake(now, h, packet, from)
	case s.closing:
		s.count(s.handshakes.RejectShutdown(now, h, packet, from, &s.output))
	default:
		s.count(s.handshakes.HandleClear(now, h, packet, from, &s.output))
	}
}

// turnSealed handles a packet of an established session.
func (s *Shard) turnSealed(now time.Time, g *state.KeySet, h wire.Header, packet []byte, from path.Path) {
	s.backlog.lastOne = now
	session := g.Session()
	t, content, err := g.OpenParsed(now, h, packet, from, &s.output)
	var wait time.Duration
	switch {
	case err != nil:
		s.count(err)
	case t == wire.TypePoll:
		wait = s.turnPoll(content, from)
	default:
		s.turnMessage(now, session, g, t, content, from)
	}
	s.turnSettle(session)
	if err == nil {
		s.turnVisit(session, from, wait)
		if t == wire.TypePong {
			s.turnReturned(session)
		}
	}
}

func (s *Shard) turnMessage(now time.Time, session *state.Session, g *state.KeySet, t wire.Type, content []byte, from path.Path) {
	switch t {
	case wire.TypeEncryptedData:
		s.turnData(now, session.User.(*client), content)
	case wire.TypeForwardPacket:
		s.turnForward(now, session.User.(*client), content)
	case wire.TypeFlowClosed:
		s.turnFlowClosed(session.User.(*client), content)
	case wire.TypeRegister:
		s.counters.Misplaced++
	default:
		s.count(session.Control(now, g, t, content, from, &s.output))
	}
}

// turnHandshake handles Handshake 3, and the packets that overtook it.
func (s *Shard) turnHandshake(now time.Time, h wire.Header, packet []byte, from path.Path) {
	if !s.handshakes.Has(h.ReceiverIdx) {
		s.turnUnknown(now, h, packet, from)
		return
	}
	session, early, err := s.handshakes.HandleHandshake3(now, h, packet, &s.output)
	s.count(err)
	if session == nil {
		if g := s.sessions.Find(h.ReceiverIdx); err == nil && g != nil && from.SameSource(g.Session().Path()) {
			s.turnVisit(g.Session(), from, 0) // a copy; its Ack is repeated
		}
		return
	}
	session.User = &client{shard: s, session: session}
	s.sessions.Add(session)
	s.turnVisit(session, from, 0)
	for _, p := range early {
		s.turnPacket(now, p.Data, p.Path)
	}
}

// turnUnknown handles a sealed packet of no session: it waits for Handshake 3, or
// its sender learns by a Reset that nobody knows it.
func (s *Shard) turnUnknown(now time.Time, h wire.Header, packet []byte, from path.Path) {
	index := h.ReceiverIdx
	if s.handshakes.Has(index) {
		s.count(s.handshakes.BufferEarly(h, packet, from))
		return
	}
	s.counters.Unknown++
	if len(packet) < minResetPacket || index == 0 {
		return
	}
	if _, ok := s.resets.Take(now, from.Peer.Addr()); !ok {
		return
	}
	s.counters.Resets++
	s.output.Packets = append(s.output.Packets, state.Packet{Data: s.handshakes.Reset(index), Path: from})
}

// count counts why a packet was dropped.
func (s *Shard) count(err error) {
	switch {
	case err == nil:
	case state.IsReplay(err):
		s.counters.Replayed++
	case errors.Is(err, seal.ErrOpen), errors.Is(err, state.ErrMAC1):
		s.counters.Forged++
	case errors.Is(err, state.ErrUnexpectedMessage), errors.Is(err, state.ErrWrongLevel), errors.Is(err, state.ErrStale):
		s.counters.Misplaced++
	default:
		s.counters.Refused++
	}
}
