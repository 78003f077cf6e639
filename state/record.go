package state

import (
	"bytes"
	"container/list"
	"errors"
	"fmt"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/kdf"
	"lewes/crypto/kem"
	"lewes/crypto/kkt"
	"lewes/crypto/noise"
	"lewes/crypto/psq"
	"lewes/crypto/seal"
	"lewes/state/parts"
	"lewes/state/path"
	"lewes/state/wire"
)

const (
	// recordLinger is how long a record answers repetitions after Handshake 3.
	recordLinger = 10 * time.Second
	// maxEarly is the number of transport packets kept before Handshake 3.
	maxEarly = 4
	// triesPerSecond bounds the tries of Handshake 1 that cost public-key work.
	triesPerSecond = 4
)

// record is a gateway's side of one handshake: what it knows of a client between
// its hello and its session.
type record struct {
	store   *ResponderTable
	index   uint32
	hello   [wire.HelloSize]byte
	salt    [32]byte
	source  path.Path
	created time.Time
	timer   Timer[*record]
	queue   *list.List // that the record waits in, for eviction
	place   *list.Element
	sibling *record // another one of the index

	suite   seal.Suite
	kem     *kem.KeyPair
	keyID   uint32 // that the hello named; 0: the client runs KKT
	ack     []byte
	in, out int // bytes, until Handshake 1 has opened

	request  []byte // KKT frames, once asked
	response []byte

	assembler  parts.Assembler
	transcript *[32]byte
	noise      *noise.XKResponder
	tries      int                       // of Handshake 1 that went on to public-key work
	tried      [triesPerSecond]time.Time // when the last of them did

	first   *[32]byte // BLAKE3 of the Handshake 1 that opened
	client  identity.PublicKey
	static  [32]byte
	psq     *psq.Secrets
	psk     [32]byte
	receive *seal.Key // of Handshake 3
	second  []byte    // Handshake 2, sealed
	early   []Packet
	third   []byte // Handshake 3, sealed
	session *Session
}

// from reports whether a packet comes from the record's source: address and port
// over UDP, address alone over TCP.
func (r *record) from(p path.Path) bool { return samePlace(p, r.source) }

// answer sends packets unless more would then have gone than came (section 4). A
// source that uses TCP has shown that it is there.
func (r *record) answer(to path.Path, out *Output, packets ...[]byte) error {
	total := 0
	for _, p := range packets {
		total += len(p)
	}
	if r.first == nil && r.source.Transport == path.UDP && r.out+total > r.in {
		return ErrAmplification
	}
	r.out += total
	for _, p := range packets {
		out.send(to, p)
	}
	return nil
}

func (r *record) sendAck(to path.Path, out *Output) error {
	return r.answer(to, out, clearPacket(r.store.mac, r.index, wire.TypeAck, raw(r.ack)))
}

// handleKKT answers a KKT request; the response is computed once.
func (r *record) handleKKT(content []byte, size int, from path.Path, out *Output) error {
	if r.keyID != 0 {
		return ErrUnexpectedMessage
	}
	frame, err := wire.KKTFrame(content)
	if err != nil {
		return err
	}
	id, sid, err := kkt.ParseRequest(frame)
	if err != nil {
		return err
	}
	sum := kdf.Hash(r.hello[:])
	if !bytes.Equal(sid[:], sum[:len(sid)]) {
		return kkt.ErrSession
	}
	if id != r.kem.ID() {
		return kkt.ErrSuite
	}
	if r.first == nil {
		r.in += size
	}
	if r.response == nil {
		r.request = bytes.Clone(frame)
		r.response = kkt.AppendResponse(nil, id, r.kem.Public(), sid, r.store.config.Identity)
	}
	var packets [][]byte
	for _, p := range splitFor(r.response, from.Transport == path.TCP) {
		packets = append(packets, clearPacket(r.store.mac, r.index, wire.TypeKKTResponse, &p))
	}
	return r.answer(from, out, packets...)
}

// handleFirst takes a part of Handshake 1. The first whole one that opens is
// final; a copy of it gets the stored Handshake 2 again.
func (r *record) handleFirst(now time.Time, content []byte, from path.Path, out *Output) error {
	part, err := parsePart(content, from.Transport == path.TCP)
	if err != nil {
		return err
	}
	message, err := r.assembler.Add(part)
	if err != nil || message == nil {
		return err
	}
	sum := kdf.Hash(message)
	if r.first != nil {
		if sum != *r.first {
			return ErrDuplicate
		}
		return r.answer(from, out, bytes.Clone(r.second))
	}
	payload, err := r.openFirst(message)
	if err != nil {
		return err
	}
	if err := r.charge(now); err != nil {
		return err
	}
	if err := r.accept(now, payload); err != nil {
		r.store.requeue(r, r.store.failed)
		return err
	}
	r.first = &sum
	r.store.requeue(r, r.store.opened)
	return r.answer(from, out, bytes.Clone(r.second))
}

// openFirst opens the Noise message. The one X25519 that it costs is done once a
// record, however many forged messages bear the right e.
func (r *record) openFirst(message []byte) ([]byte, error) {
	e, ok := noise.EphemeralInMessage1(message)
	if !ok {
		return nil, wire.ErrShort
	}
	commitment := kdf.Hash(e[:])
	if !bytes.Equal(commitment[:saltCommitmentLength], r.salt[8:]) {
		return nil, ErrSaltMismatch
	}
	if r.keyID == 0 && r.response == nil {
		return nil, ErrUnexpectedMessage
	}
	if r.noise == nil {
		identity := r.store.config.Identity.Public()
		t := transcript(identity[:], r.hello[:], r.request, r.response)
		r.transcript = &t
		r.noise = noise.NewXKResponder(noisePrologue(&t), r.store.config.Session.Static)
	}
	r.store.triedFirst()
	return r.noise.ReadMessage1(message)
}

// charge counts a try that goes on to public-key work, of which there are no more
// than triesPerSecond in any second.
func (r *record) charge(now time.Time) error {
	last := &r.tried[r.tries%triesPerSecond]
	if !last.IsZero() && now.Sub(*last) < time.Second {
		return ErrRateLimited
	}
	*last = now
	r.tries++
	return nil
}

// accept checks who the client is and makes Handshake 2.
func (r *record) accept(now time.Time, payload []byte) error {
	opened, err := psq.Respond(r.kem, r.transcript[:], payload)
	if err != nil {
		return err
	}
	config := r.store.config
	if off := opened.Time.Sub(config.wall(now)).Abs(); off > config.tolerance() {
		return ErrClockSkew
	}
	if config.Admit != nil && !config.Admit(opened.Client) {
		return fmt.Errorf("%w: %s", ErrNotListed, opened.Client)
	}
	static, err := opened.Client.X25519()
	if err != nil {
		return err
	}
	ecdh, err := noise.DH(&config.Session.Static.Private, &static)
	if err != nil {
		return err
	}
	defer clear(ecdh[:])
	ephemeral, err := noise.GenerateKeyPair(config.Session.Rand)
	if err != nil {
		return err
	}
	defer ephemeral.Wipe()
	message, err := r.noise.WriteMessage2(ephemeral, opened.Secrets.AppendResponderMsg(nil))
	if err != nil {
		return err
	}
	r.client, r.static, r.psq = opened.Client, static, opened.Secrets
	r.psk = handshakePSK(&ecdh, &r.psq.PSK, &r.salt, r.transcript, r.ack)
	c2g, g2c := handshakeKeys(&r.psk)
	r.receive = seal.NewKey(r.suite, &c2g)
	r.second = sealHandshake(r.suite, &g2c, r.index, message)
	clear(c2g[:])
	clear(g2c[:])
	return nil
}

// handleThird takes Handshake 3 and makes the session. A copy gets the final Ack
// again, sealed anew.
func (r *record) handleThird(now time.Time, packet []byte, out *Output) (*Session, error) {
	if r.session != nil {
		if !bytes.Equal(packet, r.third) {
			return nil, ErrDuplicate
		}
		if r.session.closed {
			return nil, ErrClosed
		}
		r.session.send(wire.TypeAck, r.session.terms.ack(), out)
		return nil, nil
	}
	if r.first == nil {
		return nil, ErrUnexpectedMessage
	}
	body, err := r.receive.Open(bytes.Clone(packet))
	if err != nil {
		return nil, err
	}
	if err := r.finish(now, body); err != nil {
		return nil, err
	}
	r.third = bytes.Clone(packet)
	r.session.send(wire.TypeAck, r.session.terms.ack(), out)
	r.store.requeue(r, r.store.done)
	r.store.timers.Set(&r.timer, now.Add(recordLinger))
	return r.session, nil
}

func (r *record) finish(now time.Time, body []byte) error {
	message, err := handshakeMessage(body, wire.ToGateway)
	if err != nil {
		return err
	}
	static, split, err := r.noise.ReadMessage3(&r.psk, message)
	if err != nil {
		return err
	}
	if static != r.static {
		r.store.remove(r) // the Noise state is spent
		return ErrStaticMismatch
	}
	r.session = newSession(now, &r.store.config.Session, &sessionSeed{
		role:       RoleGateway,
		peer:       r.client,
		peerStatic: r.static,
		suite:      r.suite,
		handle:     r.psq.Handle(),
		index:      r.index,
		first:      deriveFirst(split, &r.psk, &r.psq.KPQ),
		path:       r.source,
	})
	r.wipeSecrets()
	return nil
}

// keep holds a transport packet that came before Handshake 3.
func (r *record) keep(packet []byte, from path.Path) error {
	if r.first == nil || r.session != nil {
		return ErrUnexpectedMessage
	}
	if len(r.early) == maxEarly || r.store.earlyBytes+len(packet) > r.store.config.maxEarlyBytes() {
		return errEarlyFull
	}
	r.store.earlyBytes += len(packet)
	r.early = append(r.early, Packet{Data: bytes.Clone(packet), Path: from})
	return nil
}

var errEarlyFull = errors.New("state: too many packets came before Handshake 3")

// takeEarly gives the kept packets away.
func (r *record) takeEarly() []Packet {
	early := r.early
	for _, p := range early {
		r.store.earlyBytes -= len(p.Data)
	}
	r.early = nil
	return early
}

func (r *record) wipeSecrets() {
	if r.noise != nil {
		r.noise.Wipe()
		r.noise = nil
	}
	if r.psq != nil {
		r.psq.Wipe()
	}
	if r.receive != nil {
		r.receive.Wipe()
	}
	clear(r.psk[:])
}
