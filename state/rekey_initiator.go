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

// Retransmission of KK1 and Ready (section 7).
const (
	rekeyRetry     = 500 * time.Millisecond
	rekeyFastTries = 5
	rekeySlowRetry = 10 * time.Second
	// followInterval is the least time between the SubsessionRequests that a client follows.
	followInterval = 100 * time.Millisecond
)

const (
	// maxRejected bounds the rejected children whose keys a rekey keeps.
	maxRejected = 8
	// maxRetiredIndexes bounds the indexes that a rekey rejects for good. A
	// well-behaved gateway never proposes as many; beyond, no other is accepted.
	maxRetiredIndexes = 1 << 10
)

// rekeyInitiator is a client's rekey (a subsession of section 7) in progress: from KK1
// until a packet of the gateway proves the child. There is one per key set, and it is
// never abandoned for another.
type rekeyInitiator struct {
	generation uint32 // of the child
	keys       *kem.KeyPair
	kk         *noise.KKInitiator
	psk        [32]byte
	message    []byte // KK1, whole

	kk2Parts parts.Assembler
	secrets  *rekeySecrets // nil until a KK2 was read

	child          *KeySet   // proposed by the gateway and accepted; Ready is sent on it
	rejected       []*KeySet // proposed and rejected; any may still be proved
	retiredIndexes []uint32  // rejected, keys erased

	tries  int
	next   time.Time
	sealed uint64 // by the session at the last try
}

// Rekey makes a client replace its keys. It has no effect while a rekey is in
// progress, and at a gateway.
func (s *Session) Rekey(now time.Time, out *Output) {
	if s.closed || s.role != RoleClient || s.rekey.initiator != nil || !s.Confirmed() {
		return
	}
	i, err := newRekeyInitiator(s)
	if err != nil {
		panic("state: starting a rekey: " + err.Error()) // only randomness can fail
	}
	s.rekey.initiator = i
	i.send(now, s, out)
	s.reschedule()
}

func newRekeyInitiator(s *Session) (*rekeyInitiator, error) {
	i := &rekeyInitiator{
		generation: s.keys.current.number + 1,
		kk2Parts:   parts.Assembler{Limit: parts.MaxHandshake},
	}
	var err error
	if i.keys, err = kem.Generate(kem.MLKEM768, s.config.Rand); err != nil {
		return nil, err
	}
	ephemeral, err := noise.GenerateKeyPair(s.config.Rand)
	if err != nil {
		return nil, err
	}
	i.psk = subsessionPSK(&s.rekey.seed, i.generation)
	prologue := subsessionPrologueFor(i.generation, &s.keys.current.binding)
	i.kk = noise.NewKKInitiator(prologue, s.config.Static, ephemeral, s.peerStatic, &i.psk)
	first, err := i.kk.WriteMessage1(i.keys.Public())
	if err != nil {
		return nil, err
	}
	i.message = (&wire.SubsessionKK1{Generation: i.generation, Noise: first}).Append(nil)
	return i, nil
}

// send sends Ready on a child that was accepted, otherwise KK1 on the parent.
func (i *rekeyInitiator) send(now time.Time, s *Session, out *Output) {
	if i.child != nil {
		i.sendReady(s, i.child, out)
	} else {
		s.sendParts(wire.TypeSubsessionKK1, i.message, out)
	}
	i.sealed = s.keys.current.sender.Sealed()
	i.tries++
	if i.tries <= rekeyFastTries {
		i.next = now.Add(rekeyRetry)
	} else {
		i.next = now.Add(rekeySlowRetry)
	}
}

func (i *rekeyInitiator) sendReady(s *Session, child *KeySet, out *Output) {
	s.sendOn(child, wire.TypeSubsessionReady, &wire.SubsessionReady{Generation: i.generation}, out)
}

// handleKK2 reads the gateway's answer, once, and accepts the index in it unless that
// index was rejected before.
func (i *rekeyInitiator) handleKK2(now time.Time, s *Session, k *KeySet, content []byte, from path.Path, out *Output) error {
	if i == nil || k != s.keys.current {
		return ErrStale
	}
	part, err := parsePart(content, parts.Count(wire.SubsessionKK2Size), s.isStream(from))
	if err != nil {
		return err
	}
	message, err := i.kk2Parts.Add(now, part)
	if err != nil || message == nil {
		return err
	}
	kk2, err := wire.ParseSubsessionKK2(message)
	if err != nil {
		return err
	}
	if kk2.Generation != i.generation {
		return ErrStale
	}
	if err := i.read(kk2.Noise); err != nil {
		return err
	}
	if i.isRejected(kk2.NewReceiverIdx) {
		i.sendIndexCollision(s, kk2.NewReceiverIdx, out)
		return nil
	}
	if i.child != nil {
		if i.child.index == kk2.NewReceiverIdx {
			return nil
		}
		if len(i.retiredIndexes) == maxRetiredIndexes {
			return ErrStale
		}
		// The old index was rejected on the way to the gateway. Packets sent on it
		// may still prove it.
		i.reject(s, i.child, out)
	}
	i.accept(s, kk2.NewReceiverIdx, out)
	i.tries = 0
	i.send(now, s, out)
	s.reschedule()
	return nil
}

// read opens the Noise message of KK2 and decapsulates its ciphertext. All copies have
// the same bytes, so it is done once.
func (i *rekeyInitiator) read(message []byte) error {
	if i.secrets != nil {
		return nil
	}
	ct, split, err := i.kk.ReadMessage2(message)
	if err != nil {
		return err
	}
	ss, err := i.keys.Decapsulate(ct)
	if err != nil {
		return err
	}
	i.secrets = &rekeySecrets{split: *split, psk: i.psk, ss: ss}
	split.Wipe()
	return nil
}

func (i *rekeyInitiator) accept(s *Session, index uint32, out *Output) {
	keys := i.secrets.child(index)
	defer keys.wipe()
	i.child = newKeySet(s, i.generation, index, &keys)
	out.event(Event{Kind: IndexAdded, Session: s, KeySet: i.child, Index: index})
}

// RejectIndex reports to a client's session that the index of its child is in use on the way to the
// gateway (FlowClosed 6 from an entry). It returns false if there is no child to reject.
func (s *Session) RejectIndex(now time.Time, out *Output) bool {
	i := s.rekey.initiator
	if i == nil || i.child == nil || len(i.retiredIndexes) == maxRetiredIndexes {
		return false
	}
	rejected := i.child
	i.child = nil
	i.reject(s, rejected, out)
	i.sendIndexCollision(s, rejected.index, out)
	i.tries, i.next = 0, now.Add(rekeyRetry)
	s.reschedule()
	return true
}

// reject keeps the keys of a rejected child for a while, because its Ready may have arrived. Its
// index is rejected for good: the keys have sealed Ready and must not start again at sequence 0.
func (i *rekeyInitiator) reject(s *Session, child *KeySet, out *Output) {
	if len(i.rejected) == maxRejected {
		oldest := i.rejected[0]
		i.rejected = append(i.rejected[:0], i.rejected[1:]...)
		i.retiredIndexes = append(i.retiredIndexes, oldest.index)
		s.remove(oldest, out)
	}
	i.rejected = append(i.rejected, child)
}

// isRejected reports whether an index was rejected before.
func (i *rekeyInitiator) isRejected(index uint32) bool {
	return slices.Contains(i.retiredIndexes, index) ||
		slices.ContainsFunc(i.rejected, func(k *KeySet) bool { return k.index == index })
}

func (i *rekeyInitiator) sendIndexCollision(s *Session, index uint32, out *Output) {
	s.send(wire.TypeSubsessionAbort, &wire.SubsessionAbort{
		Generation:     i.generation,
		Reason:         wire.AbortIndexCollision,
		NewReceiverIdx: index,
	}, out)
}

// handleRekeyRequest starts a rekey for the gateway, or repeats the last message of the
// one in progress.
func (s *Session) handleRekeyRequest(now time.Time, out *Output) error {
	a := s.liveness.answers
	if a == nil || !s.Confirmed() || now.Before(a.followAt) {
		return ErrStale
	}
	a.followAt = now.Add(followInterval)
	switch {
	case s.rekey.initiator == nil:
		s.Rekey(now, out)
	default:
		s.rekey.initiator.send(now, s, out)
		s.reschedule()
	}
	return nil
}

// resendReady sends Ready to a gateway that does not answer on the parent. If all packets on the
// child were lost for as long as a demoted parent is kept, the child is the gateway's only key set:
// the one proposed last, even if it was rejected too late, because it replaced those before.
func (i *rekeyInitiator) resendReady(s *Session, out *Output) {
	if i == nil {
		return
	}
	if i.child != nil {
		i.sendReady(s, i.child, out)
	} else if n := len(i.rejected); n > 0 {
		i.sendReady(s, i.rejected[n-1], out)
	}
}

// tick repeats KK1 or Ready. After the fast tries it continues only while the session
// carries traffic.
func (i *rekeyInitiator) tick(now time.Time, s *Session, out *Output) {
	if i == nil || now.Before(i.next) {
		return
	}
	idle := now.Sub(s.lastOpened) >= rekeySlowRetry && s.keys.current.sender.Sealed() == i.sealed
	if i.tries > rekeyFastTries && idle {
		i.next = now.Add(rekeySlowRetry)
		return
	}
	i.send(now, s, out)
}

// end wipes the rekey's secrets and removes all children but the proved one, if any.
func (i *rekeyInitiator) end(s *Session, proved *KeySet, out *Output) {
	if i.child != nil && i.child != proved {
		s.remove(i.child, out)
	}
	for _, k := range i.rejected {
		if k != proved {
			s.remove(k, out)
		}
	}
	i.keys.Wipe()
	i.kk.Wipe()
	clear(i.psk[:])
	if i.secrets != nil {
		i.secrets.wipe()
	}
}
