package state

import (
	"crypto/subtle"
	"fmt"
	"io"
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

// maxAcks is the number of different Acks that an attempt keeps: all but one of
// them are forged (section 5). maxReplies bounds the sealed Handshake 2 packets
// that opened under none of them.
const (
	maxAcks    = 4
	maxReplies = 2
	maxCookies = 2
)

// initiator is one handshake attempt of a client: one receiver index, one salt,
// one Noise ephemeral key.
type initiator struct {
	config *ClientConfig
	mac    *cookie.MAC1Key
	index  uint32
	offset time.Duration // added to the clock, after Reject 2

	ephemeral noise.KeyPair
	hello     wire.ClientHello
	request   []byte // KKT frame; nil where KKT is skipped
	sessionID kkt.SessionID
	cookies   [][wire.CookieSize]byte

	assembler parts.Assembler
	response  []byte // KKT frame
	kemKey    []byte

	noise      *noise.XKInitiator
	psq        *psq.Secrets
	ecdh       [32]byte // of the two static keys
	transcript [32]byte
	first      []byte // Handshake 1, whole
	acks       [][]byte
	replies    [][]byte

	retry   backoff
	session *Session
	failed  error // the gateway, proved to be itself, made no sense
}

// newInitiator makes an attempt. known is the gateway's KEM key where the client
// has one; nil runs KKT.
func newInitiator(now time.Time, config *ClientConfig, mac *cookie.MAC1Key, known []byte, offset time.Duration) (*initiator, error) {
	i := &initiator{
		config:    config,
		mac:       mac,
		offset:    offset,
		assembler: parts.Assembler{Limit: parts.MaxHandshake},
		retry:     backoff{rand: config.Rand},
	}
	var err error
	if i.ephemeral, err = noise.GenerateKeyPair(config.Rand); err != nil {
		return nil, fmt.Errorf("making an ephemeral key: %w", err)
	}
	if i.index, err = randomIndex(config.Rand); err != nil {
		return nil, err
	}
	commitment := kdf.Hash(i.ephemeral.Public[:])
	i.hello = wire.ClientHello{
		ReceiverIdx: i.index,
		Salt:        wire.NewSalt(uint64(now.Add(offset).Unix()), &commitment),
		AEADOffer:   uint8(config.Suites | seal.ChaCha20Poly1305),
		KEM:         uint8(config.KEM),
	}
	if known != nil {
		i.hello.KEMKeyID = kem.KeyID(known)
		i.kemKey = known
	}
	hello := i.hello.Hello()
	sum := kdf.Hash(hello[:])
	copy(i.sessionID[:], sum[:])
	if known == nil {
		i.request = kkt.AppendRequest(nil, config.KEM, i.sessionID)
		return i, nil
	}
	return i, i.makeFirst(now)
}

// randomIndex draws a receiver index, which is never 0.
func randomIndex(rand io.Reader) (uint32, error) {
	var b [4]byte
	for {
		if _, err := io.ReadFull(rand, b[:]); err != nil {
			return 0, fmt.Errorf("drawing a receiver index: %w", err)
		}
		if index := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24; index != 0 {
			return index, nil
		}
	}
}

// phase returns where the attempt is.
func (i *initiator) phase() Phase {
	switch {
	case i.session != nil:
		return Transport
	case i.first != nil:
		return Handshaking
	case len(i.acks) > 0:
		return KKTExchange
	}
	return ReadyToHandshake
}

// send sends what the attempt is waiting on: the hello and the KKT request until
// the response is whole, then Handshake 1. The hello goes with every repetition
// of Handshake 1, because the Ack may have been lost.
func (i *initiator) send(withHello bool, out *Output) {
	if i.first == nil {
		i.sendGreeting(out)
		return
	}
	if withHello {
		i.sendHello(out)
	}
	for _, p := range splitFor(i.first, i.config.Session.Stream) {
		out.send(i.config.Path, clearPacket(i.mac, i.index, wire.TypeHandshake, &p))
	}
}

// sendGreeting sends the hello and the KKT request: in one flight, or over a
// stream each once the one before is answered.
func (i *initiator) sendGreeting(out *Output) {
	stream, answered := i.config.Session.Stream, len(i.acks) > 0
	if !stream || !answered {
		i.sendHello(out)
	}
	if !stream || answered {
		m := padded{raw(i.request), wire.MinHelloDatagram}
		out.send(i.config.Path, clearPacket(i.mac, i.index, wire.TypeKKTRequest, m))
	}
}

// sendHello sends the hello, once with each cookie that is known: one of them may
// be forged.
func (i *initiator) sendHello(out *Output) {
	hello := i.hello
	if len(i.cookies) == 0 {
		i.sendOneHello(&hello, out)
	}
	for _, c := range i.cookies {
		hello.HasCookie, hello.Cookie = true, c
		i.sendOneHello(&hello, out)
	}
}

func (i *initiator) sendOneHello(hello *wire.ClientHello, out *Output) {
	out.send(i.config.Path, clearPacket(i.mac, 0, wire.TypeClientHello, padded{hello, wire.MinHelloDatagram}))
}

func (i *initiator) start(now time.Time, out *Output) {
	i.send(true, out)
	i.retry.start(now, i.config.RTT)
}

func (i *initiator) tick(now time.Time, out *Output) {
	if i.session == nil && i.failed == nil && i.retry.due(now) {
		i.send(true, out)
	}
}

// handle takes a packet of the attempt's index whose trailer, in clear, has been
// checked. It returns what a clear packet may advise, which is never believed
// more than that.
func (i *initiator) handle(now time.Time, h wire.Header, packet []byte, out *Output) (advice, error) {
	if i.session != nil || i.failed != nil {
		return advice{}, ErrStale
	}
	switch h.Level {
	case wire.LevelHandshake:
		return advice{}, i.handleReply(now, packet, out)
	case wire.LevelTransport: // no gateway has keys for one yet
		return advice{}, ErrWrongLevel
	}
	t, content, err := wire.ParseBody(wire.Body(packet))
	if err != nil {
		return advice{}, err
	}
	if !t.Allowed(wire.LevelClear, wire.ToClient) {
		return advice{}, ErrUnexpectedMessage
	}
	switch t {
	case wire.TypeAck:
		return advice{}, i.handleAck(now, content, out)
	case wire.TypeKKTResponse:
		return advice{}, i.handleResponse(now, content, out)
	case wire.TypeBusy:
		return i.handleBusy(content)
	case wire.TypeCollision:
		return advice{collision: true}, nil
	case wire.TypeReject:
		r, err := wire.ParseReject(content)
		return advice{reject: &r}, err
	}
	return advice{}, ErrUnexpectedMessage
}

// advice is what a gateway says in clear.
type advice struct {
	collision bool
	busy      *wire.Busy
	cookie    bool // in busy, and new
	reject    *wire.Reject
}

func (i *initiator) handleAck(now time.Time, content []byte, out *Output) error {
	a, err := wire.ParseAck(content)
	if err != nil {
		return err
	}
	if a.KEM != i.hello.KEM || !seal.Suite(a.AEAD).Valid() || i.hello.AEADOffer&a.AEAD == 0 {
		return ErrStale
	}
	for _, known := range i.acks {
		if subtle.ConstantTimeCompare(known, content) == 1 {
			return nil
		}
	}
	if len(i.acks) == maxAcks {
		i.acks = i.acks[1:]
	}
	ack := append([]byte(nil), content...)
	i.acks = append(i.acks, ack)
	if i.config.Session.Stream && i.first == nil && len(i.acks) == 1 {
		i.start(now, out)
	}
	for _, reply := range i.replies {
		if done, err := i.try(now, ack, reply, out); done {
			return err
		}
	}
	return nil
}

// handleResponse takes a part of the KKT response, the gateway's first proof of
// its identity.
func (i *initiator) handleResponse(now time.Time, content []byte, out *Output) error {
	if i.first != nil {
		return nil
	}
	part, err := parsePart(content, i.config.Session.Stream)
	if err != nil {
		return err
	}
	frame, err := i.assembler.Add(part)
	if err != nil || frame == nil {
		return err
	}
	key, err := kkt.VerifyResponse(frame, i.config.KEM, i.sessionID, i.config.Gateway)
	if err != nil {
		return err
	}
	if pin := i.config.PinnedKEM; pin != nil {
		if err := kkt.VerifyPin(key, pin[:]); err != nil {
			return err
		}
	}
	i.response = append([]byte(nil), frame...)
	i.kemKey = append([]byte(nil), key...)
	if err := i.makeFirst(now); err != nil {
		return err
	}
	i.send(len(i.acks) == 0, out)
	i.retry.start(now, i.config.RTT)
	return nil
}

// handleBusy takes the cookie: the same hello goes with it, the first ones at
// once, others when it would be sent again anyway. (A forger who sends cookies
// without end thus neither makes the client send without end nor keeps the
// gateway's own cookie out.)
func (i *initiator) handleBusy(content []byte) (advice, error) {
	b, err := wire.ParseBusy(content)
	if err != nil {
		return advice{}, err
	}
	return advice{busy: &b, cookie: b.HasCookie && i.addCookie(b.Cookie)}, nil
}

func (i *initiator) addCookie(c [wire.CookieSize]byte) (fresh bool) {
	for _, known := range i.cookies {
		if known == c {
			return false
		}
	}
	if len(i.cookies) == maxCookies {
		i.cookies = i.cookies[1:]
	}
	i.cookies = append(i.cookies, c)
	return true
}

// makeFirst builds Handshake 1, once.
func (i *initiator) makeFirst(now time.Time) error {
	hello := i.hello.Hello()
	i.transcript = transcript(i.config.Gateway[:], hello[:], i.request, i.response)
	message, secrets, err := psq.Initiate(i.config.KEM, i.kemKey, i.transcript[:], i.config.Identity, now.Add(i.offset), i.config.Rand)
	if err != nil {
		return fmt.Errorf("encapsulating to the gateway's KEM key: %w", err)
	}
	static := i.config.Session.Static
	i.noise = noise.NewXKInitiator(noisePrologue(&i.transcript), static, i.ephemeral, i.config.gatewayStatic)
	if i.first, err = i.noise.WriteMessage1(message); err != nil {
		return fmt.Errorf("building Handshake 1: %w", err)
	}
	i.psq = secrets
	if i.ecdh, err = noise.DH(&static.Private, &i.config.gatewayStatic); err != nil {
		return fmt.Errorf("the gateway's static key: %w", err)
	}
	return nil
}

// handleReply takes a sealed Handshake 2 and tries it under every Ack.
func (i *initiator) handleReply(now time.Time, packet []byte, out *Output) error {
	if i.first == nil {
		return ErrStale
	}
	for _, ack := range i.acks {
		if done, err := i.try(now, ack, packet, out); done {
			return err
		}
	}
	if len(i.replies) == maxReplies {
		i.replies = i.replies[1:]
	}
	i.replies = append(i.replies, append([]byte(nil), packet...))
	return seal.ErrOpen
}

// try opens a Handshake 2 under one Ack. done says that it opened: it was no
// packet of section 1 and is dropped, or the attempt has then succeeded or failed
// for good, because nobody but the gateway could have sealed it.
func (i *initiator) try(now time.Time, ack, packet []byte, out *Output) (done bool, err error) {
	psk := handshakePSK(&i.ecdh, &i.psq.PSK, &i.hello.Salt, &i.transcript, ack)
	defer clear(psk[:])
	c2g, g2c := handshakeKeys(&psk)
	defer clear(c2g[:])
	defer clear(g2c[:])
	suite := seal.Suite(ack[0])
	key := seal.NewKey(suite, &g2c)
	defer key.Wipe()
	body, err := key.Open(append([]byte(nil), packet...))
	if err != nil {
		return false, nil
	}
	message, err := handshakeMessage(body, wire.ToClient)
	if err != nil {
		return true, err
	}
	if err := i.finish(now, suite, &psk, &c2g, message, out); err != nil {
		i.failed = fmt.Errorf("the gateway's Handshake 2 makes no sense: %w", err)
		return true, i.failed
	}
	return true, nil
}

// finish reads Handshake 2, sends Handshake 3 and makes the session.
func (i *initiator) finish(now time.Time, suite seal.Suite, psk, c2g *[32]byte, message []byte, out *Output) error {
	payload, err := i.noise.ReadMessage2(message)
	if err != nil {
		return err
	}
	if err := i.psq.OpenResponderMsg(payload); err != nil {
		return err
	}
	third, split, err := i.noise.WriteMessage3(psk)
	if err != nil {
		return err
	}
	packet := sealHandshake(suite, c2g, i.index, third)
	handle := i.psq.Handle()
	i.session = newSession(now, &i.config.Session, &sessionSeed{
		role:       RoleClient,
		peer:       i.config.Gateway,
		peerStatic: i.config.gatewayStatic,
		suite:      suite,
		handle:     handle,
		index:      i.index,
		first:      deriveFirst(split, psk, &i.psq.KPQ),
		path:       i.config.Path,
	})
	c := &confirmation{packet: packet, retry: backoff{rand: i.config.Rand}, until: now.Add(i.config.deadline())}
	c.retry.start(now, i.config.RTT)
	i.session.confirm = c
	i.session.reschedule()
	out.send(i.config.Path, append([]byte(nil), packet...))
	i.wipe()
	return nil
}

func (i *initiator) wipe() {
	i.ephemeral.Wipe()
	clear(i.ecdh[:])
	if i.noise != nil {
		i.noise.Wipe()
	}
	if i.psq != nil {
		i.psq.Wipe()
	}
}

// raw is content that is built already.
type raw []byte

func (r raw) Append(dst []byte) []byte { return append(dst, r...) }

// sealHandshake seals a Handshake of level 1: one part, sequence 0, each key used
// once.
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
	part, err := wire.ParsePart(content)
	if err != nil {
		return nil, err
	}
	if part.Count != 1 {
		return nil, wire.ErrPart
	}
	if parts.ID(part.Data) != part.MessageID {
		return nil, parts.ErrHash
	}
	return part.Data, nil
}
