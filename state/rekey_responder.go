package state

import (
	"time"

	"lewes/crypto/kdf"
	"lewes/crypto/kem"
	"lewes/crypto/noise"
	"lewes/state/parts"
	"lewes/state/path"
	"lewes/state/snapshot"
	"lewes/state/wire"
)

// requestRetry is the interval at which a gateway repeats a SubsessionRequest (section 7).
const requestRetry = 5 * time.Second

// rekey replaces the keys of a session.
type rekey struct {
	initiator *rekeyInitiator // client: in progress
	responder *rekeyResponder // gateway: in progress
	requestAt time.Time       // gateway: when the next SubsessionRequest is due
	seed      [32]byte        // of the next subsession
}

// idle reports whether no rekey is in progress or requested.
func (r *rekey) idle() bool {
	return r.initiator == nil && r.responder == nil && r.requestAt.IsZero()
}

// tick starts a rekey when the keys have reached their age or packet limit and repeats
// its messages.
func (r *rekey) tick(now time.Time, s *Session, out *Output) {
	due := s.keys.current.needsRekey(s.config.rekeyPackets())
	if at := r.dueAt(s); !at.IsZero() && !now.Before(at) {
		due = true
	}
	if due && s.role == RoleGateway {
		s.RequestRekey(now, out)
	} else if due {
		s.Rekey(now, out)
	}
	r.initiator.tick(now, s, out)
	r.tickRequest(now, s, out)
}

// dueAt returns when a client rekeys because of the age of its keys.
func (r *rekey) dueAt(s *Session) time.Time {
	if s.role != RoleClient || s.terms.RekeyAfter == 0 {
		return time.Time{}
	}
	return s.keys.current.since.Add(s.terms.RekeyAfter)
}

func (r *rekey) deadline(s *Session) time.Time {
	if r.initiator != nil {
		return earliest(r.requestAt, r.initiator.next)
	}
	return earliest(r.requestAt, r.dueAt(s))
}

// end ends a rekey whose child was proved, or all of them if proved is nil.
func (r *rekey) end(s *Session, proved *KeySet, out *Output) {
	if i := r.initiator; i != nil {
		if proved != nil {
			r.seed = i.secrets.nextSeed(&r.seed)
		}
		i.end(s, proved, out)
		r.initiator = nil
	}
	if p := r.responder; p != nil {
		if proved != nil {
			r.seed = p.secrets.nextSeed(&r.seed)
		}
		if p.child != nil && p.child != proved {
			s.remove(p.child, out)
		}
		p.secrets.wipe()
		r.responder = nil
	}
}

// RequestRekey makes a gateway ask its client to rekey until KK1 arrives.
func (s *Session) RequestRekey(now time.Time, out *Output) {
	r := &s.rekey
	if s.closed || s.role != RoleGateway || !r.requestAt.IsZero() || r.responder != nil && r.responder.answered {
		return
	}
	r.requestAt = now
	r.tickRequest(now, s, out)
	s.reschedule()
}

func (r *rekey) tickRequest(now time.Time, s *Session, out *Output) {
	if r.requestAt.IsZero() || now.Before(r.requestAt) {
		return
	}
	r.requestAt = now.Add(requestRetry)
	s.send(wire.TypeSubsessionRequest, &wire.Empty{}, out)
}

// rekeyResponder is a gateway's rekey in progress: from the first KK1 until a packet on
// the child proves it.
type rekeyResponder struct {
	kk1Parts parts.Assembler

	answered bool
	kk1Hash  [32]byte // BLAKE3 of the KK1 that was answered
	kk2Noise []byte   // message 2, the same in every KK2
	secrets  rekeySecrets
	child    *KeySet
}

func newRekeyResponder() *rekeyResponder {
	return &rekeyResponder{kk1Parts: parts.Assembler{Limit: parts.MaxHandshake}}
}

// handleKK1 answers a client's rekey. The answer is computed once and then repeated.
func (s *Session) handleKK1(now time.Time, k *KeySet, content []byte, from path.Path, out *Output) error {
	if k != s.keys.current {
		return ErrStale
	}
	part, err := parsePart(content, parts.Count(wire.SubsessionKK1Size), s.isStream(from))
	if err != nil {
		return err
	}
	if s.rekey.responder == nil {
		s.rekey.responder = newRekeyResponder()
	}
	r := s.rekey.responder
	message, err := r.kk1Parts.Add(now, part)
	if err != nil || message == nil {
		return err
	}
	kk1, err := wire.ParseSubsessionKK1(message)
	if err != nil {
		return err
	}
	if kk1.Generation != k.number+1 {
		return ErrStale
	}
	sum := kdf.Hash(message)
	switch {
	case !r.answered:
		if err := r.answer(s, kk1.Noise); err != nil {
			return err
		}
		r.answered, r.kk1Hash = true, sum
		s.rekey.requestAt = time.Time{}
		r.propose(s, out)
	case sum != r.kk1Hash:
		return ErrStale
	}
	r.sendKK2(s, out)
	return nil
}

// answer reads KK1 and computes the Noise message of every KK2 for it. A failure changes nothing.
func (r *rekeyResponder) answer(s *Session, message []byte) error {
	number := s.keys.current.number + 1
	psk := subsessionPSK(&s.rekey.seed, number)
	defer clear(psk[:])
	kk := noise.NewKKResponder(subsessionPrologueFor(number, &s.keys.current.binding), s.config.Static, s.peerStatic, &psk)
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
	r.kk2Noise = reply
	r.secrets = rekeySecrets{split: *split, psk: psk, ss: ss}
	split.Wipe()
	return nil
}

// propose derives the child for a new index.
func (r *rekeyResponder) propose(s *Session, out *Output) {
	index := s.config.NewIndex()
	keys := r.secrets.child(index)
	defer keys.wipe()
	r.child = newKeySet(s, s.keys.current.number+1, index, &keys)
	out.event(Event{Kind: IndexAdded, Session: s, KeySet: r.child, Index: index})
}

func (r *rekeyResponder) sendKK2(s *Session, out *Output) {
	kk2 := wire.SubsessionKK2{Generation: r.child.number, NewReceiverIdx: r.child.index, Noise: r.kk2Noise}
	s.sendParts(wire.TypeSubsessionKK2, kk2.Append(nil), out)
}

// handleAbort proposes another index when the client rejects the current proposal. Any
// other abort has no effect.
func (s *Session) handleAbort(k *KeySet, content []byte, out *Output) error {
	a, err := wire.ParseSubsessionAbort(content)
	if err != nil {
		return err
	}
	r := s.rekey.responder
	if s.role != RoleGateway || k != s.keys.current || a.Reason != wire.AbortIndexCollision ||
		r == nil || r.child == nil || a.Generation != r.child.number || a.NewReceiverIdx != r.child.index {
		return ErrStale
	}
	rejected := r.child
	r.propose(s, out)
	s.remove(rejected, out)
	r.sendKK2(s, out)
	return nil
}

// handleReady answers the packet that proved the child, and its copies.
func (s *Session) handleReady(k *KeySet, content []byte, out *Output) error {
	ready, err := wire.ParseSubsessionReady(content)
	if err != nil {
		return err
	}
	if k != s.keys.current || ready.Generation != k.number {
		return ErrStale
	}
	s.sendOn(k, wire.TypeAck, s.terms.ack(), out)
	return nil
}

// snapshot writes or reads a rekey that was answered: the client has its KK2, or gets
// the same one again, and may prove the child at any time (section 7). Parts of a KK1
// are left out, since the client repeats them.
func (r *rekey) snapshot(c *snapshot.Codec, s *Session) {
	if !c.Present(r.responder != nil && r.responder.answered) {
		return
	}
	if c.Decoding() {
		r.responder = newRekeyResponder()
		r.responder.answered, r.responder.child = true, new(KeySet)
	}
	p := r.responder
	c.Fixed(p.kk1Hash[:])
	c.Blob(&p.kk2Noise, parts.MaxHandshake)
	p.secrets.snapshot(c)
	p.child.snapshot(c, s)
}

func (k *rekeySecrets) snapshot(c *snapshot.Codec) {
	for _, b := range [...][]byte{k.split.InitiatorToResponder[:], k.split.ResponderToInitiator[:], k.split.Hash[:], k.psk[:], k.ss[:]} {
		c.Fixed(b)
	}
}
