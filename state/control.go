package state

import (
	"time"

	"lewes/state/path"
	"lewes/state/wire"
)

// Control handles a control message that KeySet.Open returned: every type but those of
// flows, polls and, at a gateway, Register. from is the path of its packet. A non-nil error means
// that the message was dropped; the session continues.
func (s *Session) Control(now time.Time, k *KeySet, t wire.Type, content []byte, from path.Path, out *Output) error {
	if s.closed {
		return ErrClosed
	}
	switch t {
	case wire.TypePing:
		return s.handlePing(content, from, out)
	case wire.TypePong:
		return s.handlePong(now, content, from, out)
	case wire.TypeRegisterResult:
		return s.handleRegisterResult(now, content, from, out)
	}
	if k.readOnly {
		return ErrStale // already answered by an Ack
	}
	switch t {
	case wire.TypeClose:
		return s.handleClose(content, out)
	case wire.TypeAck:
		return s.handleAck(k, content, out)
	case wire.TypeSubsessionRequest:
		return s.handleRekeyRequest(now, out)
	case wire.TypeSubsessionKK1:
		return s.handleKK1(now, k, content, from, out)
	case wire.TypeSubsessionKK2:
		return s.rekey.initiator.handleKK2(now, s, k, content, from, out)
	case wire.TypeSubsessionReady:
		return s.handleReady(k, content, out)
	case wire.TypeSubsessionAbort:
		return s.handleAbort(k, content, out)
	}
	return ErrUnexpectedMessage
}

func (s *Session) handlePing(content []byte, from path.Path, out *Output) error {
	ping, err := wire.ParsePing(content)
	if err != nil {
		return err
	}
	pong := &wire.Pong{Data: ping.Data}
	if at := s.migration.active.state.Load(); s.role == RoleClient || !at.validated && from.SameSource(at.path) {
		s.send(wire.TypePong, pong, out) // counts against the budget of an unvalidated address
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
	s.NoteAnswered(s.liveness.rtt.handlePong(now, &pong.Data))
	s.migration.handlePong(now, s, &pong.Data, from, out)
	s.mtu.handlePong(now, s, &pong.Data, out)
	return nil
}

// handleClose ends the session at both ends at once.
func (s *Session) handleClose(content []byte, out *Output) error {
	c, err := wire.ParseClose(content)
	if err != nil {
		return err
	}
	s.end(&PeerClosedError{Reason: c.Reason, Detail: c.Detail.String()}, out)
	return nil
}

// handleAck handles the gateway's answer to Handshake 3, to Ready, or to a packet on a
// demoted key set.
func (s *Session) handleAck(k *KeySet, content []byte, out *Output) error {
	a, err := wire.ParseFinalAck(content)
	if err != nil {
		return err
	}
	s.liveness.confirmation = nil
	first := s.terms == Terms{}
	s.terms = termsOf(&a)
	if first {
		out.event(Event{Kind: Confirmed, Session: s, KeySet: k, Index: k.index})
	}
	s.reschedule()
	return nil
}

// PeerClosedError is the reason of a session that the peer closed.
type PeerClosedError struct {
	Reason wire.CloseReason
	Detail string // at most 120 bytes, from the peer
}

func (e *PeerClosedError) Error() string {
	text := "the other end closed the session: " + e.Reason.String()
	if e.Detail != "" {
		text += " (" + e.Detail + ")"
	}
	return text
}

// Is makes every PeerClosedError an ErrPeerClosed.
func (e *PeerClosedError) Is(target error) bool { return target == ErrPeerClosed }
