package state

import (
	"time"

	"lewes/crypto/kdf"
	"lewes/crypto/kem"
	"lewes/crypto/noise"
	"lewes/state/parts"
	"lewes/state/path"
	"lewes/state/wire"
)

// requestRetry is how often a gateway asks again for a subsession (section 7).
const requestRetry = 5 * time.Second

// subsessionReply is a gateway's subsession under way: from the first KK1 until a
// packet on the child proves it.
type subsessionReply struct {
	question parts.Assembler

	answered bool
	kk1      [32]byte // BLAKE3 of the KK1 that was answered
	noise    []byte   // message 2, the same in every KK2
	secrets  subsessionSecrets
	child    *KeySet
}

// handleKK1 answers a client's subsession: once by computing, then by repeating.
func (s *Session) handleKK1(g *KeySet, content []byte, from path.Path, out *Output) error {
	if g != s.current {
		return ErrStale
	}
	part, err := parsePart(content, from.Transport == path.TCP)
	if err != nil {
		return err
	}
	r := s.reply
	if r == nil {
		r = &subsessionReply{question: parts.Assembler{Limit: parts.MaxHandshake}}
		s.reply = r
	}
	message, err := r.question.Add(part)
	if err != nil || message == nil {
		return err
	}
	kk1, err := wire.ParseSubsessionKK1(message)
	if err != nil {
		return err
	}
	if kk1.Generation != s.current.number+1 {
		return ErrStale
	}
	sum := kdf.Hash(message)
	switch {
	case !r.answered:
		if err := s.answerKK1(r, kk1.Noise); err != nil {
			return err
		}
		r.answered, r.kk1 = true, sum
		s.asked = time.Time{}
		s.propose(out)
	case sum != r.kk1:
		return ErrStale
	}
	s.sendKK2(out)
	return nil
}

// answerKK1 reads KK1 and makes the Noise message of every KK2 for it. A failure
// changes nothing.
func (s *Session) answerKK1(r *subsessionReply, message []byte) error {
	number := s.current.number + 1
	psk := subsessionPSK(&s.seed, number)
	defer clear(psk[:])
	kk := noise.NewKKResponder(subsessionPrologueFor(number, &s.current.binding), s.config.Static, s.peerStatic, &psk)
	defer kk.Wipe()
	public, err := kk.ReadMessage1(message)
	if err != nil {
		return err
	}
	ct, ss, err := kem.Encapsulate(kem.MLKEM768, public, s.config.Rand)
	if err != nil {
		return err
	}
	ephemeral, err := noise.GenerateKeyPair(s.config.Rand)
	if err != nil {
		return err
	}
	defer ephemeral.Wipe()
	reply, split, err := kk.WriteMessage2(ephemeral, ct)
	if err != nil {
		return err
	}
	r.noise = reply
	r.secrets = subsessionSecrets{split: *split, psk: psk, ss: ss}
	split.Wipe()
	return nil
}

// propose gives the child an index.
func (s *Session) propose(out *Output) {
	r := s.reply
	index := s.config.NewIndex()
	keys := r.secrets.child(index)
	defer keys.wipe()
	r.child = newKeySet(s, s.current.number+1, index, &keys)
	out.event(Event{Kind: IndexAdded, Session: s, KeySet: r.child, Index: index})
}

func (s *Session) sendKK2(out *Output) {
	r := s.reply
	kk2 := wire.SubsessionKK2{Generation: r.child.number, NewReceiverIdx: r.child.index, Noise: r.noise}
	s.sendParts(wire.TypeSubsessionKK2, kk2.Append(nil), out)
}

// handleAbort proposes another index when the client refuses the one that is
// proposed now; every other abort changes nothing.
func (s *Session) handleAbort(g *KeySet, content []byte, out *Output) error {
	a, err := wire.ParseSubsessionAbort(content)
	if err != nil {
		return err
	}
	r := s.reply
	if s.role != RoleGateway || g != s.current || a.Reason != wire.AbortIndexCollision ||
		r == nil || r.child == nil || a.Generation != r.child.number || a.NewReceiverIdx != r.child.index {
		return ErrStale
	}
	refused := r.child
	s.propose(out)
	s.remove(refused, out)
	s.sendKK2(out)
	return nil
}

// handleReady answers the packet that proved the child, and its repetitions.
func (s *Session) handleReady(g *KeySet, content []byte, out *Output) error {
	ready, err := wire.ParseSubsessionReady(content)
	if err != nil {
		return err
	}
	if g != s.current || ready.Generation != g.number {
		return ErrStale
	}
	s.sendOn(g, wire.TypeAck, s.terms.ack(), out)
	return nil
}

// AskForSubsession makes a gateway ask its client for new keys until KK1 comes.
func (s *Session) RequestRekey(now time.Time, out *Output) {
	if s.closed || s.role != RoleGateway || !s.asked.IsZero() || s.reply != nil && s.reply.answered {
		return
	}
	s.asked = now
	s.tickRequest(now, out)
	s.reschedule()
}

func (s *Session) tickRequest(now time.Time, out *Output) {
	if s.asked.IsZero() || now.Before(s.asked) {
		return
	}
	s.asked = now.Add(requestRetry)
	s.send(wire.TypeSubsessionRequest, &wire.SubsessionRequest{}, out)
}

func (r *subsessionReply) end(s *Session, proved *KeySet, out *Output) {
	if r.child != nil && r.child != proved {
		s.remove(r.child, out)
	}
	r.secrets.wipe()
}

// endSubsession wipes what made a child, now that it is proved or the session
// ends, and moves the seed on.
func (s *Session) endSubsession(proved *KeySet, out *Output) {
	if o := s.offer; o != nil {
		if proved != nil {
			s.seed = o.secrets.nextSeed(&s.seed)
		}
		o.end(s, proved, out)
		s.offer = nil
	}
	if r := s.reply; r != nil {
		if proved != nil {
			s.seed = r.secrets.nextSeed(&s.seed)
		}
		r.end(s, proved, out)
		s.reply = nil
	}
}
