package state

import (
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/seal"
	"lewes/state/path"
	"lewes/state/wire"
)

// Role is the end of a session: client or gateway.
type Role uint8

const (
	RoleClient Role = iota + 1
	RoleGateway
)

func (r Role) receives() wire.Direction {
	if r == RoleGateway {
		return wire.ToGateway
	}
	return wire.ToClient
}

// Phase is the state of a handshake or session, named as in the reference
// implementation (section 5).
type Phase uint8

const (
	ReadyToHandshake Phase = iota
	KKTExchange
	Handshaking
	Transport
	SubsessionHandshaking
	ReadOnlyTransport
	Ended
)

var phaseNames = [...]string{"ReadyToHandshake", "KKTExchange", "Handshaking", "Transport", "SubsessionHandshaking", "ReadOnlyTransport", "Closed"}

func (p Phase) String() string { return phaseNames[p] }

const (
	// compactAfter is the idle time after which a session drops its expanded keys
	// and replay bitmaps.
	compactAfter = 30 * time.Second
	// ackInterval is the minimum interval between Acks that answer packets on a demoted key set.
	ackInterval = 500 * time.Millisecond
)

// Session is one end of an established session. It is not safe for concurrent
// use, except for Sender, PathFor and methods documented otherwise.
type Session struct {
	// User is for the owner's use.
	User any

	// Owned by Sessions.
	timer  Timer[*Session]
	ofPeer peerLinks[*Session]

	// Immutable.
	config     *SessionConfig
	role       Role
	suite      seal.Suite
	closed     bool // set once, by end
	handle     [16]byte
	peer       identity.PublicKey
	peerStatic [32]byte
	exporter   [32]byte
	started    time.Time

	// Components. The atomic fields in keys, migration and mtu are read by any goroutine.
	terms     Terms // zero at a client until the final Ack
	keys      keyRing
	migration migration
	rekey     rekey
	liveness  liveness
	mtu       pmtu

	registration *registration // nil before the first message

	// Timers of the session itself.
	lastOpened   time.Time
	compactAt    time.Time
	demotedAckAt time.Time
	deadline     time.Time // earliest of all timers; zero: none
}

// firstKeys returns the key set of generation 0.
func (s *Session) firstKeys(now time.Time, index uint32, keys *transportKeys) *KeySet {
	k := newKeySet(s, 0, index, keys)
	k.since, k.lastOpened = now, now
	return k
}

// establish starts a session, whose immutable fields are set, and wipes first.
func (s *Session) establish(now time.Time, index uint32, first *firstSecrets, p path.Path) {
	s.terms, s.exporter, s.rekey.seed = s.config.Terms, first.exporter, first.seed
	s.started, s.lastOpened, s.compactAt = now, now, now.Add(compactAfter)
	s.keys.use(s.firstKeys(now, index, &first.keys))
	*first = firstSecrets{}
	s.migration.active.set(p)
	if s.role == RoleClient {
		s.liveness.answers = new(answers)
		if s.config.Keepalive > 0 {
			s.liveness.startKeepalive(now, s.config.Keepalive)
		}
	}
	s.reschedule()
}

// Peer returns the authenticated identity of the other end.
func (s *Session) Peer() identity.PublicKey { return s.peer }

// Handle identifies the session in the logs of both ends.
func (s *Session) Handle() [16]byte { return s.handle }

// Suite returns the AEAD of the session.
func (s *Session) Suite() seal.Suite { return s.suite }

// Terms returns the parameters in the gateway's final Ack; a client's are zero until it arrives.
func (s *Session) Terms() Terms { return s.terms }

// Exporter returns the secret from which both ends may derive keys for other
// protocols. It is constant for the life of the session.
func (s *Session) Exporter() [32]byte { return s.exporter }

// Current returns the key set on which the session sends.
func (s *Session) Current() *KeySet { return s.keys.current }

// Sender returns the sealing half of the current key set. It is safe for any
// goroutine; callers fetch it once per batch.
func (s *Session) Sender() *Sender { return s.keys.sender.Load() }

// PathFor returns the path for a packet of n bytes to the peer and charges them to
// the budget of an unvalidated address. It returns false if no address is validated and
// the budget is used up: the packet must be dropped. It is safe for any goroutine.
func (s *Session) PathFor(n int) (path.Path, bool) { return s.migration.active.pathFor(n) }

// Path returns the peer's latest path. It is safe for any goroutine.
func (s *Session) Path() path.Path { return s.migration.active.state.Load().path }

// SetPath makes a client's session use another path to its gateway. The round-trip
// time and the path MTU are measured again.
func (s *Session) SetPath(now time.Time, p path.Path, out *Output) {
	from := s.Path()
	s.migration.active.set(p)
	if s.closed || from.Transport == p.Transport && from.Peer.Addr() == p.Peer.Addr() {
		return
	}
	s.liveness.rtt.reset()
	if p.Transport == path.UDP {
		s.mtu.restart(now, s, out)
	}
}

// Started returns when the session was established.
func (s *Session) Started() time.Time { return s.started }

// LastOpened returns when the last authentic packet arrived.
func (s *Session) LastOpened() time.Time { return s.lastOpened }

func (s *Session) links() *peerLinks[*Session] { return &s.ofPeer }

// Phase returns the session's state.
func (s *Session) Phase() Phase {
	switch {
	case s.closed:
		return Ended
	case s.rekey.initiator != nil || s.rekey.responder != nil:
		return SubsessionHandshaking
	}
	return Transport
}

// Deadline returns when Tick is due; zero means never.
func (s *Session) Deadline() time.Time { return s.deadline }

// opened updates the session after an authentic packet.
func (s *Session) opened(now time.Time, k *KeySet, seq uint64, from path.Path, size int, out *Output) {
	s.lastOpened, k.lastOpened = now, now
	s.liveness.packetOpened()
	s.liveness.confirmation.packetOpened(s, k, out)
	s.wake(now)
	s.watchKeys(now)
	s.MaybeProbeMTU(now, out)
	if k != s.keys.current {
		if !k.readOnly {
			s.promote(now, k, out)
		} else if s.role == RoleGateway && !now.Before(s.demotedAckAt) {
			s.demotedAckAt = now.Add(ackInterval)
			s.send(wire.TypeAck, s.terms.ack(), out)
		}
	}
	if s.role == RoleGateway {
		s.migration.packetOpened(now, s, k, seq, from, size, out)
	}
}

// promote makes a proved child the current key set and demotes its parent.
func (s *Session) promote(now time.Time, child *KeySet, out *Output) {
	if evicted := s.keys.promote(now, child); evicted != nil {
		s.remove(evicted, out)
	}
	s.rekey.end(s, child, out)
	s.rekey.requestAt = time.Time{}
	s.NoteAnswered(s.DoubtedSince()) // the gateway has received the Ready
	out.event(Event{Kind: Rekeyed, Session: s, KeySet: child, Index: child.index})
	s.reschedule()
}

func (s *Session) remove(k *KeySet, out *Output) {
	k.wipe()
	out.event(Event{Kind: IndexRemoved, Session: s, KeySet: k, Index: k.index})
}

// send seals a control message on the current keys.
func (s *Session) send(t wire.Type, m message, out *Output) {
	s.sendOn(s.keys.current, t, m, out)
}

func (s *Session) sendOn(k *KeySet, t wire.Type, m message, out *Output) {
	p := unsealed(k.index, wire.LevelTransport, t, m)
	if to, ok := s.PathFor(len(p)); ok && k.sender.Seal(p) == nil {
		out.send(to, p)
	}
}

func (s *Session) sendTo(to path.Path, t wire.Type, m message, out *Output) {
	p := unsealed(s.keys.current.index, wire.LevelTransport, t, m)
	if s.keys.current.sender.Seal(p) == nil {
		out.send(to, p)
	}
}

// isStream reports whether a rekey message on a path has one part.
func (s *Session) isStream(p path.Path) bool { return s.config.Stream || p.Transport == path.TCP }

// sendParts splits a rekey message for the transport in use and sends it.
func (s *Session) sendParts(t wire.Type, message []byte, out *Output) {
	for _, p := range splitFor(message, s.isStream(s.Path())) {
		s.send(t, &p, out)
	}
}

// Send seals a message of the session's user on the current keys.
func (s *Session) Send(t wire.Type, m interface{ Append([]byte) []byte }, out *Output) error {
	if s.closed {
		return ErrClosed
	}
	s.send(t, m, out)
	return nil
}

// Tick runs the timers that are due. The owner calls it at Deadline; an earlier call has no effect.
func (s *Session) Tick(now time.Time, out *Output) {
	if s.closed {
		return
	}
	if at := s.idleAt(); !at.IsZero() && !now.Before(at) {
		s.end(ErrIdleTimeout, out)
	} else if s.keys.current.exhausted() {
		s.end(ErrPacketLimit, out)
	} else if !s.liveness.confirmation.tick(now, s, out) {
		s.end(ErrUnconfirmed, out)
	}
	if s.closed {
		return
	}
	s.migration.tick(now, s, out)
	s.tickDemoted(now, out)
	s.rekey.tick(now, s, out)
	s.liveness.tickCheck(now, s, out)
	s.mtu.tick(now, s, out)
	s.registration.tick(now, s, out)
	s.liveness.tickKeepalive(now, s, out)
	s.tickCompact(now)
	s.reschedule()
}

func (s *Session) idleAt() time.Time {
	if s.terms.IdleTTL == 0 {
		return time.Time{}
	}
	return s.lastOpened.Add(s.terms.IdleTTL)
}

func (s *Session) tickDemoted(now time.Time, out *Output) {
	kept := s.keys.demoted[:0]
	for _, k := range s.keys.demoted {
		if now.Before(k.removeAt()) {
			kept = append(kept, k)
			continue
		}
		s.remove(k, out)
	}
	clear(s.keys.demoted[len(kept):])
	s.keys.demoted = kept
	if len(kept) == 0 {
		s.keys.demoted = nil
	}
}

// watchKeys schedules an immediate tick when the current keys need a rekey or are exhausted.
func (s *Session) watchKeys(now time.Time) {
	k := s.keys.current
	if k.exhausted() || s.rekey.idle() && k.needsRekey(s.config.rekeyPackets()) {
		s.scheduleAt(now)
	}
}

// tickCompact compacts the keys of an idle session.
func (s *Session) tickCompact(now time.Time) {
	if s.compactAt.IsZero() || now.Before(s.compactAt) {
		return
	}
	if at := s.lastOpened.Add(compactAfter); now.Before(at) {
		s.compactAt = at
		return
	}
	s.keys.current.compact()
	for _, k := range s.keys.demoted {
		k.compact()
	}
	s.compactAt = time.Time{}
}

// wake schedules the next compaction of a session in use.
func (s *Session) wake(now time.Time) {
	if s.compactAt.IsZero() {
		s.compactAt = now.Add(compactAfter)
		s.scheduleAt(s.compactAt)
	}
}

// scheduleAt moves the deadline forward to at, unless at is zero.
func (s *Session) scheduleAt(at time.Time) {
	if !at.IsZero() && (s.deadline.IsZero() || at.Before(s.deadline)) {
		s.deadline = at
	}
}

// reschedule sets the deadline to the earliest timer.
func (s *Session) reschedule() {
	if s.closed {
		return
	}
	s.deadline = earliest(s.idleAt(), s.compactAt, s.migration.deadline(), s.rekey.deadline(s), s.liveness.deadline(s), s.mtu.deadline(), s.registration.deadline())
	for _, k := range s.keys.demoted {
		s.scheduleAt(k.removeAt())
	}
}

// Close ends the session and notifies the peer: a gateway to which a child is proposed may have
// proved it already, and then ignores a Close on its parent. Every candidate of a client's session that
// no packet has settled yet may be a session of the gateway.
func (s *Session) Close(reason wire.CloseReason, detail string, out *Output) {
	if s.closed {
		return
	}
	m := &wire.Close{Reason: reason, Detail: wire.Detail(detail)}
	if i := s.rekey.initiator; i != nil && i.child != nil {
		s.sendOn(i.child, wire.TypeClose, m, out)
	}
	if w := s.liveness.confirmation; w != nil {
		s.closeOthers(w.candidates, m, out)
	}
	s.send(wire.TypeClose, m, out)
	s.end(ErrClosed, out)
}

// end erases all keys. The Closed event is the session's last one.
func (s *Session) end(reason error, out *Output) {
	if s.closed {
		return
	}
	s.closed = true
	s.liveness.confirmation.end(s, out)
	s.rekey.end(s, nil, out)
	for _, k := range append(s.keys.demoted, s.keys.current) {
		s.remove(k, out)
	}
	s.keys.demoted = nil
	s.liveness.check = nil
	s.CancelRegister()
	clear(s.rekey.seed[:])
	clear(s.exporter[:])
	s.deadline = time.Time{}
	out.event(Event{Kind: Closed, Session: s, Reason: reason})
}
