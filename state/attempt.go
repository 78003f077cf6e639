package state

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"time"

	"lewes/crypto/cookie"
	"lewes/crypto/kdf"
	"lewes/crypto/kem"
	"lewes/crypto/kkt"
	"lewes/crypto/noise"
	"lewes/crypto/psq"
	"lewes/crypto/seal"
	"lewes/state/parts"
	"lewes/state/wire"
)

// Bounds of an attempt. Of several different Acks all but one are forged (section 5).
const (
	maxAcks        = 4
	maxHandshake2s = 2 // that opened under none of the Acks
	maxCookies     = 2
)

// attempt is one handshake attempt of a client: one attempt index, one salt, one Noise
// ephemeral key.
type attempt struct {
	config *ClientConfig
	mac    *cookie.MAC1Key
	index  uint32        // of the clear packets and of Handshake 2
	offset time.Duration // added to the clock, after Reject 2

	ephemeral noise.KeyPair
	hello     wire.ClientHello
	request   []byte // KKT frame; nil where KKT is skipped
	sessionID kkt.SessionID
	cookies   [][wire.CookieSize]byte

	assembler parts.Assembler
	response  []byte // KKT frame
	kemKey    []byte

	noise       *noise.XKInitiator
	psq         *psq.Secrets
	ecdh        [32]byte // of the two static keys
	transcript  [32]byte
	handshake1  []byte // Handshake 1, whole
	acks        []*keptAck
	handshake2s [][]byte

	retry   backoff
	session *Session
	failed  error // the authenticated gateway sent an invalid Handshake 2
}

// keptAck is an Ack that the attempt keeps. The state of the Noise handshake under it is used once.
type keptAck struct {
	content []byte
	index   uint32 // receiver index of the session
	opened  bool   // a Handshake 2 has opened under it
}

// newAttempt returns an attempt with the gateway's known KEM key; nil runs KKT.
func newAttempt(now time.Time, config *ClientConfig, mac *cookie.MAC1Key, known []byte, offset time.Duration) (*attempt, error) {
	a := &attempt{
		config:    config,
		mac:       mac,
		offset:    offset,
		assembler: parts.Assembler{Limit: parts.MaxHandshake},
		retry:     backoff{rand: config.Rand, longest: config.MaxWait},
	}
	var err error
	if a.ephemeral, err = noise.GenerateKeyPair(config.Rand); err != nil {
		return nil, fmt.Errorf("generating an ephemeral key: %w", err)
	}
	if a.index, err = randomIndex(config.Rand); err != nil {
		return nil, err
	}
	commitment := kdf.Hash(a.ephemeral.Public[:])
	a.hello = wire.ClientHello{
		Attempt:   a.index,
		Salt:      wire.NewSalt(uint64(now.Add(offset).Unix()), &commitment),
		AEADOffer: uint8(config.Suites | seal.ChaCha20Poly1305),
		KEM:       uint8(config.KEM),
		Doubted:   config.Doubted,
	}
	if known != nil {
		a.hello.KEMKeyID = kem.KeyID(known)
		a.kemKey = known
	}
	hello := a.hello.Hello()
	sum := kdf.Hash(hello[:])
	copy(a.sessionID[:], sum[:])
	if known == nil {
		a.request = kkt.AppendRequest(nil, config.KEM, a.sessionID)
		return a, nil
	}
	return a, a.buildHandshake1(now)
}

// randomIndex returns a random receiver index, which is never 0.
func randomIndex(rand io.Reader) (uint32, error) {
	var b [4]byte
	for {
		if _, err := io.ReadFull(rand, b[:]); err != nil {
			return 0, fmt.Errorf("generating a receiver index: %w", err)
		}
		if index := binary.LittleEndian.Uint32(b[:]); index != 0 {
			return index, nil
		}
	}
}

// known returns the KEM key with which the attempt skipped KKT, or nil.
func (a *attempt) known() []byte {
	if a.request == nil {
		return a.kemKey
	}
	return nil
}

// phase returns the attempt's phase.
func (a *attempt) phase() Phase {
	switch {
	case a.session != nil:
		return Transport
	case a.handshake1 != nil:
		return Handshaking
	case len(a.acks) > 0:
		return KKTExchange
	}
	return ReadyToHandshake
}

// send sends the hello and the KKT request until the response is complete, then Handshake 1.
// Retransmissions of Handshake 1 include the hello, because the Ack may have been lost.
func (a *attempt) send(withHello bool, out *Output) {
	if a.handshake1 == nil {
		a.sendHelloAndKKT(out)
		return
	}
	if withHello {
		a.sendHello(out)
	}
	for _, p := range splitFor(a.handshake1, a.config.Session.Stream) {
		out.send(a.config.Path, clearPacket(a.mac, a.index, wire.TypeHandshake, &p))
	}
}

// sendHelloAndKKT sends the hello and the KKT request: in one flight, or one after the
// other over a stream.
func (a *attempt) sendHelloAndKKT(out *Output) {
	stream, answered := a.config.Session.Stream, len(a.acks) > 0
	if !stream || !answered {
		a.sendHello(out)
	}
	if !stream || answered {
		m := padded{raw(a.request), wire.MinHelloDatagram}
		out.send(a.config.Path, clearPacket(a.mac, a.index, wire.TypeKKTRequest, m))
	}
}

// sendHello sends the hello once with each known cookie, of which some may be forged.
func (a *attempt) sendHello(out *Output) {
	hello := a.hello
	if len(a.cookies) == 0 {
		a.sendOneHello(&hello, out)
	}
	for _, c := range a.cookies {
		hello.HasCookie, hello.Cookie = true, c
		a.sendOneHello(&hello, out)
	}
}

func (a *attempt) sendOneHello(hello *wire.ClientHello, out *Output) {
	out.send(a.config.Path, clearPacket(a.mac, 0, wire.TypeClientHello, padded{hello, wire.MinHelloDatagram}))
}

func (a *attempt) start(now time.Time, out *Output) {
	a.send(true, out)
	a.retry.start(now, a.config.RTT)
}

func (a *attempt) tick(now time.Time, out *Output) {
	if a.session == nil && a.failed == nil && a.retry.due(now) {
		a.send(true, out)
	}
}

// handle processes a packet for the attempt's index; the MAC1 of a clear one has been
// verified. Clear packets are not authenticated, so they yield hints at most.
func (a *attempt) handle(now time.Time, h wire.Header, packet []byte, out *Output) (hint, error) {
	if a.session != nil && a.session.Confirmed() || a.failed != nil {
		return hint{}, ErrStale
	}
	switch h.Level {
	case wire.LevelHandshake:
		return hint{}, a.handleHandshake2(now, packet, out)
	case wire.LevelTransport: // the gateway has no transport keys yet
		return hint{}, ErrWrongLevel
	}
	t, content, err := wire.ParseBody(wire.Body(packet))
	if err != nil {
		return hint{}, err
	}
	if !t.Allowed(wire.LevelClear, wire.ToClient) {
		return hint{}, ErrUnexpectedMessage
	}
	switch t {
	case wire.TypeAck:
		return hint{}, a.handleAck(now, content, out)
	case wire.TypeKKTResponse:
		return hint{}, a.handleKKTResponse(now, content, out)
	case wire.TypeBusy:
		return a.handleBusy(content)
	case wire.TypeHeld:
		return hint{held: a.hello.Doubted != 0}, nil
	case wire.TypeReject:
		r, err := wire.ParseReject(content)
		return hint{reject: &r}, err
	}
	return hint{}, ErrUnexpectedMessage
}

// hint is an unauthenticated message of a gateway.
type hint struct {
	held   bool // the gateway still has the session that the hello doubts
	busy   *wire.Busy
	cookie bool // in busy, and new
	reject *wire.Reject
}

func (a *attempt) handleAck(now time.Time, content []byte, out *Output) error {
	m, err := wire.ParseAck(content)
	if err != nil {
		return err
	}
	if m.KEM != a.hello.KEM || !seal.Suite(m.AEAD).Valid() || a.hello.AEADOffer&m.AEAD == 0 {
		return ErrStale
	}
	if slices.ContainsFunc(a.acks, func(known *keptAck) bool { return bytes.Equal(known.content, content) }) {
		return nil
	}
	ack := &keptAck{content: bytes.Clone(content), index: m.ReceiverIdx}
	a.keepAck(ack)
	if a.config.Session.Stream && a.handshake1 == nil && len(a.acks) == 1 {
		a.start(now, out)
	}
	for _, reply := range a.handshake2s {
		if done, err := a.openHandshake2(now, ack, reply, out); done {
			return err
		}
	}
	return nil
}

// keepAck keeps an Ack in place of the oldest under which no Handshake 2 has opened.
func (a *attempt) keepAck(ack *keptAck) {
	if len(a.acks) == maxAcks {
		oldest := slices.IndexFunc(a.acks, func(known *keptAck) bool { return !known.opened })
		if oldest < 0 {
			return
		}
		a.acks = slices.Delete(a.acks, oldest, oldest+1)
	}
	a.acks = append(a.acks, ack)
}

// handleKKTResponse processes a part of the KKT response, the gateway's first proof of
// its identity.
func (a *attempt) handleKKTResponse(now time.Time, content []byte, out *Output) error {
	if a.handshake1 != nil {
		return nil
	}
	part, err := parsePart(content, kktResponseParts(a.config.KEM), a.config.Session.Stream)
	if err != nil {
		return err
	}
	frame, err := a.assembler.Add(now, part)
	if err != nil || frame == nil {
		return err
	}
	key, err := kkt.VerifyResponse(frame, a.config.KEM, a.sessionID, a.config.Gateway)
	if err != nil {
		return err
	}
	if pin := a.config.PinnedKEM; pin != nil {
		if err := kkt.VerifyPin(key, pin[:]); err != nil {
			return err
		}
	}
	a.response = bytes.Clone(frame)
	a.kemKey = bytes.Clone(key)
	if err := a.buildHandshake1(now); err != nil {
		return err
	}
	// Where cookies are asked for, the record may have given way to another's.
	a.send(len(a.acks) == 0 || len(a.cookies) > 0, out)
	a.retry.start(now, a.config.RTT)
	return nil
}

// handleBusy stores the cookie for the hello. The client answers the first cookies at
// once and later ones at the next retransmission, so that forged cookies neither make it
// send without limit nor lock out the gateway's own.
func (a *attempt) handleBusy(content []byte) (hint, error) {
	b, err := wire.ParseBusy(content)
	if err != nil {
		return hint{}, err
	}
	return hint{busy: &b, cookie: b.HasCookie && a.addCookie(b.Cookie)}, nil
}

func (a *attempt) addCookie(c [wire.CookieSize]byte) (fresh bool) {
	if slices.Contains(a.cookies, c) {
		return false
	}
	a.cookies = append(a.cookies[max(0, len(a.cookies)-maxCookies+1):], c)
	return true
}

// buildHandshake1 builds Handshake 1 once.
func (a *attempt) buildHandshake1(now time.Time) error {
	hello := a.hello.Hello()
	a.transcript = transcript(a.config.Gateway[:], hello[:], a.request, a.response)
	message, secrets, err := psq.Initiate(a.config.KEM, a.kemKey, a.transcript[:], a.config.Identity, now.Add(a.offset), a.config.Rand)
	if err != nil {
		return fmt.Errorf("encapsulating to the gateway's KEM key: %w", err)
	}
	static := a.config.Session.Static
	a.noise = noise.NewXKInitiator(noisePrologue(&a.transcript), static, a.ephemeral, a.config.gatewayStatic)
	if a.handshake1, err = a.noise.WriteMessage1(message); err != nil {
		return fmt.Errorf("building Handshake 1: %w", err)
	}
	a.psq = secrets
	if a.ecdh, err = noise.DH(&static.Private, &a.config.gatewayStatic); err != nil {
		return fmt.Errorf("the gateway's static key: %w", err)
	}
	return nil
}

// handleHandshake2 tries to open a sealed Handshake 2 under every Ack.
func (a *attempt) handleHandshake2(now time.Time, packet []byte, out *Output) error {
	if a.handshake1 == nil {
		return ErrStale
	}
	for _, ack := range a.acks {
		if done, err := a.openHandshake2(now, ack, packet, out); done {
			return err
		}
	}
	a.handshake2s = append(a.handshake2s[max(0, len(a.handshake2s)-maxHandshake2s+1):], bytes.Clone(packet))
	return seal.ErrOpen
}

// openHandshake2 tries one Ack. done reports that the packet opened, so that it comes from
// the gateway: it was malformed and is dropped, or the attempt has succeeded or failed.
func (a *attempt) openHandshake2(now time.Time, ack *keptAck, packet []byte, out *Output) (done bool, err error) {
	psk := handshakePSK(&a.ecdh, &a.psq.PSK, &a.hello.Salt, &a.transcript, ack.content)
	defer clear(psk[:])
	c2g, g2c := handshakeKeys(&psk)
	defer clear(c2g[:])
	defer clear(g2c[:])
	suite := seal.Suite(ack.content[0])
	key := seal.NewKey(suite, &g2c)
	defer key.Wipe()
	body, err := key.Open(bytes.Clone(packet))
	if err != nil {
		return false, nil
	}
	message, err := handshakeMessage(body, wire.ToClient)
	if err != nil {
		return true, err
	}
	if ack.opened {
		return true, nil // a copy
	}
	ack.opened = true
	if err := a.finish(now, suite, ack.index, &psk, &c2g, message, out); err != nil {
		err = fmt.Errorf("invalid Handshake 2: %w", err)
		if a.session == nil {
			a.failed = err
		}
		return true, err
	}
	return true, nil
}

// finish reads Handshake 2 in a Noise state of its own, sends Handshake 3 and creates the session, or
// a further candidate for it.
func (a *attempt) finish(now time.Time, suite seal.Suite, index uint32, psk, c2g *[32]byte, message []byte, out *Output) error {
	state := a.noise.Clone()
	defer state.Wipe()
	payload, err := state.ReadMessage2(message)
	if err != nil {
		return err
	}
	if err := a.psq.OpenResponderMsg(payload); err != nil {
		return err
	}
	third, split, err := state.WriteMessage3(psk)
	if err != nil {
		return err
	}
	c := candidate{suite: suite, handshake3: sealHandshake(suite, c2g, index, third)}
	first := deriveFirst(split, psk, &a.psq.KPQ)
	c.exporter, c.seed = first.exporter, first.seed
	if s := a.session; s != nil {
		before := s.suite
		s.suite = suite
		c.keys = s.firstKeys(now, index, &first.keys)
		s.suite = before
		first = firstSecrets{}
		s.addCandidate(c, out)
		return nil
	}
	s := &Session{
		config: &a.config.Session, role: RoleClient, suite: suite, handle: a.psq.Handle(),
		peer: a.config.Gateway, peerStatic: a.config.gatewayStatic,
	}
	s.establish(now, index, &first, a.config.Path)
	c.keys = s.keys.current
	w := &confirmation{attempt: a, candidates: []candidate{c}, retry: backoff{rand: a.config.Rand}, until: now.Add(a.config.deadline())}
	w.retry.start(now, a.config.RTT)
	s.liveness.confirmation = w
	s.reschedule()
	s.sendHandshake3(&c, out)
	a.session = s
	return nil
}

func (a *attempt) wipe() {
	a.ephemeral.Wipe()
	clear(a.ecdh[:])
	if a.noise != nil {
		a.noise.Wipe()
	}
	if a.psq != nil {
		a.psq.Wipe()
	}
}

// sealHandshake seals a Handshake of level 1: one part, sequence 0, each key used once.
func sealHandshake(suite seal.Suite, key *[32]byte, index uint32, message []byte) []byte {
	part := wire.Part{Index: 0, Count: 1, MessageID: parts.ID(message), Data: message}
	p := unsealed(index, wire.LevelHandshake, wire.TypeHandshake, &part)
	k := seal.NewKey(suite, key)
	defer k.Wipe()
	k.Seal(p)
	return p
}

// handshakeMessage returns the Noise message in an opened packet of level 1.
func handshakeMessage(body []byte, d wire.Direction) ([]byte, error) {
	t, content, err := wire.ParseBody(body)
	if err != nil {
		return nil, err
	}
	if t != wire.TypeHandshake || !t.Allowed(wire.LevelHandshake, d) {
		return nil, ErrUnexpectedMessage
	}
	part, err := parsePart(content, 1, true)
	if err != nil {
		return nil, err
	}
	if parts.ID(part.Data) != part.MessageID {
		return nil, parts.ErrHash
	}
	return part.Data, nil
}
