package state

import (
	"time"

	"lewes/state/path"
	"lewes/state/wire"
)

// Control handles a message of the session's own that Generation.Open gave:
// everything but flows, registrations and polls. from is the path on which it
// came. An error says that the message was dropped; the session stays.
func (s *Session) Control(now time.Time, g *KeySet, t wire.Type, content []byte, from path.Path, out *Output) error {
	if s.closed {
		return ErrClosed
	}
	switch t {
	case wire.TypePing:
		return s.handlePing(content, from, out)
	case wire.TypePong:
		return s.handlePong(now, content, from, out)
	case wire.TypeClose:
		return s.handleClose(content, out)
	case wire.TypeAck:
		return s.handleAck(g, content, out)
	}
	if g.readOnly {
		return ErrStale // answered by an Ack already
	}
	switch t {
	case wire.TypeSubsessionRequest:
		return s.handleSubsessionRequest(now, out)
	case wire.TypeSubsessionKK1:
		return s.handleKK1(g, content, from, out)
	case wire.TypeSubsessionKK2:
		return s.handleKK2(now, g, content, from, out)
	case wire.TypeSubsessionReady:
		return s.handleReady(g, content, out)
	case wire.TypeSubsessionAbort:
		return s.handleAbort(g, content, out)
	}
	return ErrUnexpectedMessage
}

func (s *Session) handlePing(content []byte, from path.Path, out *Output) error {
	ping, err := wire.ParsePing(content)
	if err != nil {
		return err
	}
	pong := &wire.Pong{Data: ping.Data}
	if at := s.route.at.Load(); s.role == RoleClient || !at.validated && samePlace(from, at.path) {
		s.send(wire.TypePong, pong, out) // to an address on trial it counts like all else
	} else {
		s.sendTo(from, wire.TypePong, pong, out)
	}
	return nil
}

func (s *Session) handlePong(now time.Time, content []byte, from path.Path, out *Output) error {
	pong, err := wire.ParsePong(content)
	if err != nil {
		return err
	}
	s.echoes.back(now, &pong.Data)
	s.ponged(now, &pong.Data, from, out)
	s.probed(now, &pong.Data, out)
	return nil
}

// handleClose ends the session for both ends at once.
func (s *Session) handleClose(content []byte, out *Output) error {
	c, err := wire.ParseClose(content)
	if err != nil {
		return err
	}
	s.end(&PeerClosedError{Reason: c.Reason, Detail: c.Detail.String()}, out)
	return nil
}

// handleAck is the gateway's answer to Handshake 3, to Ready, and to a packet on
// a demoted generation.
func (s *Session) handleAck(g *KeySet, content []byte, out *Output) error {
	a, err := wire.ParseFinalAck(content)
	if err != nil {
		return err
	}
	if g.readOnly {
		return ErrStale
	}
	s.confirm = nil
	first := s.terms == Terms{}
	s.terms = termsOf(&a)
	if first {
		out.event(Event{Kind: Confirmed, Session: s, KeySet: g, Index: g.index})
	}
	s.reschedule()
	return nil
}

// PeerClosedError is the reason of a session that its other end closed.
type PeerClosedError struct {
	Reason wire.CloseReason
	Detail string // at most 120 bytes, from the peer
}

func (e *PeerClosedError) Error() string {
	if e.Detail != "" {
		return "the other end closed the session: " + e.Reason.String() + " (" + e.Detail + ")"
	}
	return "the other end closed the session: " + e.Reason.String()
}

// Is makes every PeerClosedError an ErrPeerClosed.
func (e *PeerClosedError) Is(target error) bool { return target == ErrPeerClosed }

// Close ends the session and tells the peer.
func (s *Session) Close(reason wire.CloseReason, detail string, out *Output) {
	if s.closed {
		return
	}
	s.send(wire.TypeClose, &wire.Close{Reason: reason, Detail: wire.Detail(detail)}, out)
	s.end(ErrClosed, out)
}

// end forgets every key. The Closed event is the last one of the session.
func (s *Session) end(why error, out *Output) {
	if s.closed {
		return
	}
	s.closed = true
	s.endSubsession(nil, out)
	for _, g := range append(s.demoted, s.current) {
		s.remove(g, out)
	}
	s.demoted = nil
	s.confirm, s.doubt = nil, nil
	clear(s.seed[:])
	clear(s.exporter[:])
	s.deadline = time.Time{}
	out.event(Event{Kind: Closed, Session: s, Reason: why})
}
