package state

import (
	"io"
	"sync/atomic"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/noise"
	"lewes/crypto/seal"
	"lewes/state/path"
	"lewes/state/wire"
)

// Role says which end of a session this is.
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

func (r Role) String() string {
	if r == RoleGateway {
		return "gateway"
	}
	return "client"
}

// Phase is the state of a handshake or session, with the reference's names
// (section 5).
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

// Terms are what the gateway tells its client in the final Ack.
type Terms struct {
	IdleTTL     time.Duration // without any packet, the session ends
	RekeyAfter  time.Duration // the client starts a subsession
	MaxDatagram uint16        // the largest LP packet taken over UDP, in bytes
	Flags       wire.AckFlags
}

// Ack returns the terms as they stand in an Ack.
func (t Terms) ack() *wire.FinalAck {
	return &wire.FinalAck{
		IdleTTLSeconds:    uint32(t.IdleTTL / time.Second),
		RekeyAfterSeconds: uint32(t.RekeyAfter / time.Second),
		MaxDatagram:       t.MaxDatagram,
		Flags:             t.Flags,
	}
}

func termsOf(a *wire.FinalAck) Terms {
	return Terms{
		IdleTTL:     time.Duration(a.IdleTTLSeconds) * time.Second,
		RekeyAfter:  time.Duration(a.RekeyAfterSeconds) * time.Second,
		MaxDatagram: a.MaxDatagram,
		Flags:       a.Flags,
	}
}

// SessionConfig is what all sessions of one end share. It is not changed while
// they live.
type SessionConfig struct {
	Rand   io.Reader
	Static noise.KeyPair // this end's X25519 static key
	Terms  Terms         // of a gateway; a client learns its own

	// RekeyPackets is the number of packets, sealed or failed to open, after
	// which new keys are due. 0 means DefaultRekeyPackets.
	RekeyPackets uint64
	// DemotedTTL is how long a demoted generation is kept after the last packet
	// that opened on it. 0 means DefaultDemotedTTL.
	DemotedTTL time.Duration
	// Keepalive is the longest that a client stays quiet at first (SetKeepalive);
	// 0 means never to ping for that.
	Keepalive time.Duration
	// NewIndex gives a gateway's session a receiver index that is free and that
	// its steering sends to the session's shard. The session announces by
	// IndexAdded that it has taken it.
	NewIndex func() uint32
	// MaxPacket is the largest packet that a search for the path's limit tries, in
	// bytes. 0 means that none is made.
	MaxPacket int
	// Stream says that the transport carries large packets in order, so that
	// messages are sent in one part.
	Stream bool
}

// Defaults of SessionConfig.
const (
	DefaultRekeyPackets = 1 << 28
	DefaultDemotedTTL   = 60 * time.Second
)

const (
	// restAfter is how long a session is quiet before its expanded keys go.
	compactAfter = 30 * time.Second
	// ackInterval is the least time between two Acks that answer packets on a
	// demoted generation.
	ackInterval = 500 * time.Millisecond
	// maxDemoted bounds the generations that still open beside the current one.
	maxDemoted = 4
)

// Session is one end of an established session. It has one owner, who alone calls
// its methods, but for Sender, PathFor and what is said to be safe.
type Session struct {
	// User is the owner's: what it keeps for the session.
	User any

	timer      Timer[*Session]
	config     *SessionConfig
	role       Role
	peer       identity.PublicKey
	peerStatic [32]byte
	suite      seal.Suite
	closed     bool
	handle     [16]byte
	exporter   [32]byte
	seed       [32]byte // of the next subsession
	terms      Terms

	current *KeySet
	demoted []*KeySet
	sender  atomic.Pointer[Sender]
	route   route
	roaming roaming

	offer *subsessionOffer // client: a subsession that was started
	reply *subsessionReply // gateway: a subsession that was answered
	asked time.Time        // gateway: when a SubsessionRequest goes again

	confirm *confirmation // client: Handshake 3, repeated until the Ack
	doubt   *doubt        // client: Pings that ask whether the session still stands
	quiet   *quiet        // client: how long it has sent nothing; nil: it need not know
	echoes  *echoes       // nil until the first Ping

	mtu       *mtu          // nil until large packets are sent
	maxPacket atomic.Uint32 // 0: not searched yet
	large     atomic.Bool   // a large packet was asked for

	started      time.Time
	lastOpened   time.Time
	compactAt    time.Time
	demotedAckAt time.Time
	deadline     time.Time // zero: never
}

// sessionSeed is what a handshake gives its session.
type sessionSeed struct {
	role       Role
	peer       identity.PublicKey
	peerStatic [32]byte
	suite      seal.Suite
	handle     [16]byte
	index      uint32
	first      firstSecrets
	path       path.Path
}

func newSession(now time.Time, config *SessionConfig, seed *sessionSeed) *Session {
	s := &Session{
		config:     config,
		role:       seed.role,
		peer:       seed.peer,
		peerStatic: seed.peerStatic,
		suite:      seed.suite,
		handle:     seed.handle,
		exporter:   seed.first.exporter,
		seed:       seed.first.seed,
		terms:      config.Terms,
		started:    now,
		lastOpened: now,
	}
	s.current = newKeySet(s, 0, seed.index, &seed.first.keys)
	s.current.started, s.current.lastOpened = now, now
	seed.first = firstSecrets{}
	s.sender.Store(s.current.sender)
	s.route.set(seed.path)
	s.compactAt = now.Add(compactAfter)
	if s.role == RoleClient && config.Keepalive > 0 {
		s.keepQuiet(now, config.Keepalive)
	}
	s.reschedule()
	return s
}

// Role says which end this is.
func (s *Session) Role() Role { return s.role }

// Peer returns the identity that the other end has proved.
func (s *Session) Peer() identity.PublicKey { return s.peer }

// Handle names the session in both ends' logs.
func (s *Session) Handle() [16]byte { return s.handle }

// Suite returns the AEAD of the session.
func (s *Session) Suite() seal.Suite { return s.suite }

// Terms returns what the gateway said in its Ack; a client's are zero until it
// came.
func (s *Session) Terms() Terms { return s.terms }

// Exporter returns the secret from which both ends may derive keys for other
// protocols. It stays the same for the session's life.
func (s *Session) Exporter() [32]byte { return s.exporter }

// Current returns the generation on which the session sends.
func (s *Session) Current() *KeySet { return s.current }

// Sender returns the sealing half of the current generation. It is safe for any
// goroutine; a caller takes it anew for every batch.
func (s *Session) Sender() *Sender { return s.sender.Load() }

// PathFor returns the path by which a packet of n bytes goes to the peer. It is
// safe for any goroutine and counts the bytes against what an address on trial
// may be sent.
func (s *Session) PathFor(n int) path.Path { return s.route.to(n) }

// Path returns where the peer was seen last. It is safe for any goroutine.
func (s *Session) Path() path.Path { return s.route.at.Load().path }

// Move tells a client's session by which path its gateway is reached from now on.
// Nothing else of the session changes; the round trip is measured anew, and so is
// what the path takes.
func (s *Session) SetPath(now time.Time, p path.Path, out *Output) {
	from := s.Path()
	s.route.set(p)
	if s.closed || from.Transport == p.Transport && from.Peer.Addr() == p.Peer.Addr() {
		return
	}
	if s.echoes != nil {
		s.echoes.smoothed = 0
	}
	if p.Transport == path.UDP {
		s.restartSearch(now, out)
	}
}

// Started returns when the session was made.
func (s *Session) Started() time.Time { return s.started }

// LastOpened returns when the last authentic packet came.
func (s *Session) LastOpened() time.Time { return s.lastOpened }

// Phase returns the session's state.
func (s *Session) Phase() Phase {
	switch {
	case s.closed:
		return Ended
	case s.offer != nil || s.reply != nil:
		return SubsessionHandshaking
	}
	return Transport
}

// Deadline returns when the session wants to be ticked; zero means never.
func (s *Session) Deadline() time.Time { return s.deadline }

// opened is called with every packet whose tag held.
func (s *Session) opened(now time.Time, g *KeySet, seq uint64, from path.Path, size int, out *Output) {
	s.lastOpened, g.lastOpened = now, now
	s.doubt = nil
	if s.confirm != nil {
		s.confirm.proved = true
	}
	s.wake(now)
	s.watchKeys(now)
	s.MaybeProbeMTU(now, out)
	if g != s.current {
		s.openedElsewhere(now, g, out)
	}
	s.follow(now, g, seq, from, size, out)
}

// openedElsewhere handles the first packet on a child, which proves it, and
// packets on a demoted generation.
func (s *Session) openedElsewhere(now time.Time, g *KeySet, out *Output) {
	if !g.readOnly {
		s.promote(now, g, out)
		return
	}
	if s.role == RoleGateway && !now.Before(s.demotedAckAt) {
		s.demotedAckAt = now.Add(ackInterval)
		s.send(wire.TypeAck, s.terms.ack(), out)
	}
}

// promote makes a proved child the current generation and demotes its parent.
func (s *Session) promote(now time.Time, child *KeySet, out *Output) {
	parent := s.current
	parent.readOnly, parent.lastOpened = true, now
	s.demoted = append(s.demoted, parent)
	if len(s.demoted) > maxDemoted {
		s.remove(s.demoted[0], out)
		s.demoted = append(s.demoted[:0], s.demoted[1:]...)
	}
	child.started = now
	s.current = child
	s.sender.Store(child.sender)
	s.endSubsession(child, out)
	s.asked = time.Time{}
	out.event(Event{Kind: Rekeyed, Session: s, KeySet: child, Index: child.index})
	s.reschedule()
}

func (s *Session) remove(g *KeySet, out *Output) {
	g.wipe()
	out.event(Event{Kind: IndexRemoved, Session: s, KeySet: g, Index: g.index})
}

// send seals a message of the session's own on its current keys.
func (s *Session) send(t wire.Type, m message, out *Output) {
	s.sendOn(s.current, t, m, out)
}

func (s *Session) sendOn(g *KeySet, t wire.Type, m message, out *Output) {
	p := unsealed(g.index, wire.LevelTransport, t, m)
	if g.sender.Seal(p) == nil {
		out.send(s.route.to(len(p)), p)
	}
}

func (s *Session) sendTo(to path.Path, t wire.Type, m message, out *Output) {
	p := unsealed(s.current.index, wire.LevelTransport, t, m)
	if s.current.sender.Seal(p) == nil {
		out.send(to, p)
	}
}

// Send seals a message of a session's user on its current keys.
func (s *Session) Send(t wire.Type, m interface{ Append([]byte) []byte }, out *Output) error {
	if s.closed {
		return ErrClosed
	}
	s.send(t, m, out)
	return nil
}

// random fills b; the reader that a session is given never fails.
func (s *Session) random(b []byte) {
	if _, err := io.ReadFull(s.config.Rand, b); err != nil {
		panic("state: no randomness: " + err.Error())
	}
}

func (s *Session) rekeyPackets() uint64 {
	if s.config.RekeyPackets > 0 {
		return s.config.RekeyPackets
	}
	return DefaultRekeyPackets
}

func (s *Session) demotedTTL() time.Duration {
	if s.config.DemotedTTL > 0 {
		return s.config.DemotedTTL
	}
	return DefaultDemotedTTL
}
