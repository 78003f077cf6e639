package state

import (
	"slices"
	"time"

	"lewes/crypto/kem"
	"lewes/crypto/noise"
	"lewes/state/parts"
	"lewes/state/path"
	"lewes/state/wire"
)

// How often KK1 and Ready go again (section 7).
const (
	offerRetry      = 500 * time.Millisecond
	offerQuickTries = 5
	offerSlowRetry  = 10 * time.Second
)

// subsessionOffer is a client's subsession under way: from KK1 until a packet of
// the gateway proves the child. It is made once for a generation and never given
// up for another.
type subsessionOffer struct {
	generation uint32 // of the child
	keys       *kem.KeyPair
	kk         *noise.KKInitiator
	psk        [32]byte
	message    []byte // KK1, whole

	answer  parts.Assembler
	secrets *subsessionSecrets // nil until a KK2 was read

	child   *KeySet   // proposed by the gateway and accepted; Ready is sent on it
	refused []*KeySet // proposed and refused; one of them may be proved all the same
	never   []uint32  // refused so long ago that their keys are gone

	tries  int
	next   time.Time
	sealed uint64 // by the session when the last try went
}

const (
	// maxRefused bounds the refused children whose keys a subsession keeps.
	maxRefused = 8
	// maxNever bounds the indexes that it refuses for good. No gateway that means
	// well proposes so many; from then on no other is taken.
	maxNever = 1 << 10
)

// Rekey starts a subsession. While one is under way, and at a gateway, it does
// nothing.
func (s *Session) Rekey(now time.Time, out *Output) {
	if s.closed || s.role != RoleClient || s.offer != nil || !s.Confirmed() {
		return
	}
	o, err := s.newOffer()
	if err != nil {
		panic("state: starting a subsession: " + err.Error()) // only randomness could fail
	}
	s.offer = o
	s.sendOffer(now, out)
	s.reschedule()
}

func (s *Session) newOffer() (*subsessionOffer, error) {
	o := &subsessionOffer{
		generation: s.current.number + 1,
		answer:     parts.Assembler{Limit: parts.MaxHandshake},
	}
	var err error
	if o.keys, err = kem.Generate(kem.MLKEM768, s.config.Rand); err != nil {
		return nil, err
	}
	ephemeral, err := noise.GenerateKeyPair(s.config.Rand)
	if err != nil {
		return nil, err
	}
	o.psk = subsessionPSK(&s.seed, o.generation)
	prologue := subsessionPrologueFor(o.generation, &s.current.binding)
	o.kk = noise.NewKKInitiator(prologue, s.config.Static, ephemeral, s.peerStatic, &o.psk)
	first, err := o.kk.WriteMessage1(o.keys.Public())
	if err != nil {
		return nil, err
	}
	o.message = (&wire.SubsessionKK1{Generation: o.generation, Noise: first}).Append(nil)
	return o, nil
}

// sendOffer sends what the subsession is waiting on: Ready on a child that was
// proposed, else KK1 on the parent.
func (s *Session) sendOffer(now time.Time, out *Output) {
	o := s.offer
	if o.child != nil {
		s.sendOn(o.child, wire.TypeSubsessionReady, &wire.SubsessionReady{Generation: o.generation}, out)
	} else {
		s.sendParts(wire.TypeSubsessionKK1, o.message, out)
	}
	o.sealed = s.current.sender.Sealed()
	o.tries++
	if o.tries <= offerQuickTries {
		o.next = now.Add(offerRetry)
	} else {
		o.next = now.Add(offerSlowRetry)
	}
}

func (s *Session) sendParts(t wire.Type, message []byte, out *Output) {
	for _, p := range splitFor(message, s.config.Stream || s.Path().Transport == path.TCP) {
		s.send(t, &p, out)
	}
}

// handleKK2 reads the gateway's answer, once, and takes the index that it
// proposes unless that one was refused.
func (s *Session) handleKK2(now time.Time, g *KeySet, content []byte, from path.Path, out *Output) error {
	o := s.offer
	if o == nil || g != s.current {
		return ErrStale
	}
	part, err := parsePart(content, from.Transport == path.TCP)
	if err != nil {
		return err
	}
	message, err := o.answer.Add(part)
	if err != nil || message == nil {
		return err
	}
	kk2, err := wire.ParseSubsessionKK2(message)
	if err != nil {
		return err
	}
	if kk2.Generation != o.generation {
		return ErrStale
	}
	if err := o.read(kk2.Noise); err != nil {
		return err
	}
	if o.refuses(kk2.NewReceiverIdx) {
		s.sendRefusal(kk2.NewReceiverIdx, out)
		return nil
	}
	if o.child != nil {
		if o.child.index == kk2.NewReceiverIdx {
			return nil
		}
		if len(o.never) == maxNever {
			return ErrStale
		}
		// The gateway proposes another because this one was refused on the way
		// to it; what was sent under the old one may still prove it.
		s.refuse(o.child, out)
	}
	s.accept(kk2.NewReceiverIdx, out)
	o.tries = 0
	s.sendOffer(now, out)
	s.reschedule()
	return nil
}

// read opens the Noise message of KK2 and decapsulates what is in it. Every
// repetition has the same bytes, so that it is done once.
func (o *subsessionOffer) read(message []byte) error {
	if o.secrets != nil {
		return nil
	}
	ct, split, err := o.kk.ReadMessage2(message)
	if err != nil {
		return err
	}
	ss, err := o.keys.Decapsulate(ct)
	if err != nil {
		return err
	}
	o.secrets = &subsessionSecrets{split: *split, psk: o.psk, ss: ss}
	split.Wipe()
	return nil
}

func (s *Session) accept(index uint32, out *Output) {
	o := s.offer
	keys := o.secrets.child(index)
	defer keys.wipe()
	o.child = newKeySet(s, o.generation, index, &keys)
	out.event(Event{Kind: IndexAdded, Session: s, KeySet: o.child, Index: index})
}

// RefuseIndex tells a client's session that the index of the child that it
// announces is taken on its way to the gateway (FlowClosed 6 from an entry). It
// reports whether there was one to refuse.
func (s *Session) RejectIndex(now time.Time, out *Output) bool {
	o := s.offer
	if o == nil || o.child == nil || len(o.never) == maxNever {
		return false
	}
	refused := o.child
	o.child = nil
	s.refuse(refused, out)
	s.sendRefusal(refused.index, out)
	o.tries, o.next = 0, now.Add(offerRetry)
	s.reschedule()
	return true
}

// refuse keeps the keys of a child that was refused, for a while: Ready may have
// got through on it. Its index is refused for good, since its keys have sealed
// Ready and must not begin again with sequence 0.
func (s *Session) refuse(child *KeySet, out *Output) {
	o := s.offer
	if len(o.refused) == maxRefused {
		oldest := o.refused[0]
		o.refused = append(o.refused[:0], o.refused[1:]...)
		o.never = append(o.never, oldest.index)
		s.remove(oldest, out)
	}
	o.refused = append(o.refused, child)
}

// refuses reports whether an index was refused before.
func (o *subsessionOffer) refuses(index uint32) bool {
	return slices.Contains(o.never, index) ||
		slices.ContainsFunc(o.refused, func(r *KeySet) bool { return r.index == index })
}

func (s *Session) sendRefusal(index uint32, out *Output) {
	s.send(wire.TypeSubsessionAbort, &wire.SubsessionAbort{
		Generation:     s.offer.generation,
		Reason:         wire.AbortIndexCollision,
		NewReceiverIdx: index,
	}, out)
}

// handleSubsessionRequest starts a subsession for the gateway, or sends again
// what the one under way waits on.
func (s *Session) handleSubsessionRequest(now time.Time, out *Output) error {
	if !s.Confirmed() {
		return ErrStale
	}
	if s.offer == nil {
		s.Rekey(now, out)
		return nil
	}
	s.sendOffer(now, out)
	s.reschedule()
	return nil
}

// remind sends Ready to a gateway that does not seem to know the parent any more:
// if every packet on the child was lost for as long as a demoted parent is kept,
// the child is all that it has. That is the index that was proposed last, also if
// it was refused too late; those before were given up for it.
func (s *Session) remind(out *Output) {
	o := s.offer
	if o == nil {
		return
	}
	g := o.child
	if g == nil && len(o.refused) > 0 {
		g = o.refused[len(o.refused)-1]
	}
	if g != nil {
		s.sendOn(g, wire.TypeSubsessionReady, &wire.SubsessionReady{Generation: o.generation}, out)
	}
}

// tickOffer repeats KK1 or Ready. After the quick tries it goes on only while the
// session carries traffic.
func (s *Session) tickOffer(now time.Time, out *Output) {
	o := s.offer
	if o == nil || now.Before(o.next) {
		return
	}
	idle := now.Sub(s.lastOpened) >= offerSlowRetry && s.current.sender.Sealed() == o.sealed
	if o.tries > offerQuickTries && idle {
		o.next = now.Add(offerSlowRetry)
		return
	}
	s.sendOffer(now, out)
}

// end wipes what made the child. proved is the child that was, or nil.
func (o *subsessionOffer) end(s *Session, proved *KeySet, out *Output) {
	if o.child != nil && o.child != proved {
		s.remove(o.child, out)
	}
	for _, r := range o.refused {
		if r != proved {
			s.remove(r, out)
		}
	}
	o.keys.Wipe()
	o.kk.Wipe()
	clear(o.psk[:])
	if o.secrets != nil {
		o.secrets.wipe()
	}
}
