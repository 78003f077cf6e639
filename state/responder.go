package state

import (
	"bytes"
	"container/list"
	"time"

	"lewes/crypto/cookie"
	"lewes/crypto/identity"
	"lewes/crypto/kdf"
	"lewes/crypto/kem"
	"lewes/crypto/kkt"
	"lewes/crypto/noise"
	"lewes/crypto/psq"
	"lewes/crypto/seal"
	"lewes/state/parts"
	"lewes/state/path"
	"lewes/state/snapshot"
	"lewes/state/wire"
)

const (
	// responderLinger is how long a responder answers copies after Handshake 3.
	responderLinger = 10 * time.Second
	// maxEarlyPackets bounds the transport packets kept before Handshake 3.
	maxEarlyPackets = 4
	// triesPerSecond bounds the Handshake 1 messages that cost public-key operations.
	triesPerSecond = 4
)

// responder is a gateway's side of one handshake, from the hello to the session
// (PROTOCOL.md calls it a record).
type responder struct {
	table   *ResponderTable
	attempt uint32 // index of the clear packets and of Handshake 2
	index   uint32 // receiver index of the session
	crowded bool   // it is counted in ResponderTable.crowds
	hello   [wire.HelloSize]byte
	salt    [32]byte
	source  path.Path
	created time.Time
	timer   Timer[*responder]
	ofPeer  peerLinks[*responder]
	class   Class
	charged int64
	kind    recordKind
	turn    uint64 // order in which records came to be of their kind
	place   *list.Element
	next    *responder // with the same attempt and source

	suite    seal.Suite
	kem      *kem.KeyPair
	keyID    uint32 // in the hello; 0: the client runs KKT
	ack      []byte
	bytesIn  int // until Handshake 1 has opened
	bytesOut int

	request    []byte   // KKT frame
	kktPackets [][]byte // the response

	inbox      *inbox
	transcript *[32]byte
	noise      *noise.XKResponder
	tryCount   int                       // Handshake 1 messages that cost public-key operations
	tryTimes   [triesPerSecond]time.Time // of the last of them

	handshake1 *[32]byte // BLAKE3 of the Handshake 1 that opened
	client     identity.PublicKey
	static     [32]byte
	psq        *psq.Secrets
	psk        [32]byte
	receive    *seal.Key // of Handshake 3
	handshake2 []byte    // sealed
	earlyData  []Packet
	handshake3 []byte // sealed
	session    *Session
}

func (r *responder) links() *peerLinks[*responder] { return &r.ofPeer }

func (r *responder) key() attemptKey { return keyOf(r.attempt, r.source) }

// isSource reports whether a packet comes from the hello's source: address and port over
// UDP, address alone over TCP.
func (r *responder) isSource(p path.Path) bool { return p.SameSource(r.source) }

// answer sends packets unless more bytes would then have been sent than received (section
// 4). TCP has already validated its source.
func (r *responder) answer(to path.Path, out *Output, packets ...[]byte) error {
	total := 0
	for _, p := range packets {
		total += len(p)
	}
	if r.handshake1 == nil && r.source.Transport == path.UDP && r.bytesOut+total > r.bytesIn {
		return ErrAmplification
	}
	r.bytesOut += total
	for _, p := range packets {
		out.send(to, bytes.Clone(p))
	}
	return nil
}

func (r *responder) sendAck(to path.Path, out *Output) error {
	return r.answer(to, out, clearPacket(r.table.mac, r.attempt, wire.TypeAck, raw(r.ack)))
}

// handleKKT answers a KKT request. The response is computed once.
func (r *responder) handleKKT(content []byte, size int, from path.Path, out *Output) error {
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
	if r.handshake1 == nil {
		r.bytesIn += size
	}
	r.createKKT()
	return r.answer(from, out, r.kktPackets...)
}

// setResponse stores the packets of a KKT response, so that repeated requests cost no hash.
func (r *responder) setResponse(frame []byte) {
	for _, p := range splitFor(frame, r.source.Transport == path.TCP) {
		r.kktPackets = append(r.kktPackets, clearPacket(r.table.mac, r.attempt, wire.TypeKKTResponse, &p))
	}
}

// response returns the KKT response, nil if there is none yet.
func (r *responder) response() (frame []byte) {
	for _, p := range r.kktPackets {
		frame = append(frame, p[wire.HeaderSize+wire.PrefixSize+wire.PartHeaderSize:len(p)-cookie.TrailerSize]...)
	}
	return frame
}

// createKKT creates the KKT response, once. Both frames follow from the hello.
func (r *responder) createKKT() {
	if r.kktPackets != nil {
		return
	}
	r.table.Stats.KEMKeys++
	sum := kdf.Hash(r.hello[:])
	session, id := kkt.SessionID(sum[:len(kkt.SessionID{})]), r.kem.ID()
	r.request = kkt.AppendRequest(nil, id, session)
	r.setResponse(kkt.AppendResponse(nil, id, r.kem.Public(), session, r.table.config.Identity))
}

// maxHandshake1Parts bounds the kept parts of Handshake 1: of two messages.
const maxHandshake1Parts = 4

// inbox assembles Handshake 1 for the responders of one index and source, so that a part costs the
// same whatever their number. Its parts are charged to one of them and go with it.
type inbox struct {
	parts.Assembler
	owner *responder
}

// handleHandshake1 processes a Handshake 1 with its hash. The first message that opens is final;
// copies of it are answered by the stored Handshake 2.
func (r *responder) handleHandshake1(now time.Time, message []byte, sum [32]byte, from path.Path, out *Output) error {
	if r.handshake1 != nil {
		if sum != *r.handshake1 {
			return ErrDuplicate
		}
		return r.answer(from, out, r.handshake2)
	}
	payload, err := r.openHandshake1(now, message)
	if err != nil {
		return err
	}
	if err := r.limitTries(now); err != nil {
		return err
	}
	if err := r.accept(now, payload); err != nil {
		r.table.requeue(r, failedRecord)
		return err
	}
	r.handshake1 = &sum
	r.table.addReady(r)
	return r.answer(from, out, r.handshake2)
}

// openHandshake1 opens the Noise message. It costs one X25519 operation per responder,
// however many forged messages carry the right e.
func (r *responder) openHandshake1(now time.Time, message []byte) ([]byte, error) {
	e, ok := noise.EphemeralInMessage1(message)
	if !ok {
		return nil, wire.ErrShort
	}
	commitment := kdf.Hash(e[:])
	if !bytes.Equal(commitment[:saltCommitmentLength], r.salt[8:]) {
		return nil, ErrSaltMismatch
	}
	if r.keyID == 0 {
		r.createKKT() // the record may be another than the one that answered the KKTRequest
	}
	if r.noise == nil {
		identity := r.table.config.Identity.Public()
		t := transcript(identity[:], r.hello[:], r.request, r.response())
		r.transcript = &t
		r.noise = noise.NewXKResponder(noisePrologue(&t), r.table.config.Session.Static)
	}
	r.table.budgets.tries.add(now, 1)
	return r.noise.ReadMessage1(message)
}

// limitTries admits triesPerSecond messages in any second to public-key operations.
func (r *responder) limitTries(now time.Time) error {
	last := &r.tryTimes[r.tryCount%triesPerSecond]
	if !last.IsZero() && now.Sub(*last) < time.Second {
		return ErrRateLimited
	}
	*last = now
	r.tryCount++
	return nil
}

// accept authenticates the client and builds Handshake 2.
func (r *responder) accept(now time.Time, payload []byte) error {
	opened, err := psq.Respond(r.kem, r.transcript[:], payload)
	if err != nil {
		return err
	}
	config := r.table.config
	if off := opened.Time.Sub(config.wall(now)).Abs(); off > config.tolerance() {
		return ErrClockSkew
	}
	if !r.table.admits(opened.Client) {
		return &NotListedError{opened.Client}
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
	r.handshake2 = sealHandshake(r.suite, &g2c, r.attempt, message)
	clear(c2g[:])
	clear(g2c[:])
	return nil
}

// handleHandshake3 creates the session. Copies are answered by the final Ack, sealed again.
func (r *responder) handleHandshake3(now time.Time, packet []byte, out *Output) (*Session, error) {
	if r.session != nil {
		if !bytes.Equal(packet, r.handshake3) {
			return nil, ErrDuplicate
		}
		if r.session.closed {
			return nil, ErrClosed
		}
		r.session.send(wire.TypeAck, r.session.terms.ack(), out)
		return nil, nil
	}
	if r.handshake1 == nil {
		return nil, ErrUnexpectedMessage
	}
	body, err := r.receive.Open(bytes.Clone(packet))
	if err != nil {
		return nil, err
	}
	if !r.table.admits(r.client) { // since Handshake 1
		r.table.remove(r)
		return nil, &NotListedError{r.client}
	}
	if err := r.finish(now, body); err != nil {
		return nil, err
	}
	r.table.removeReady(r)
	r.handshake3 = bytes.Clone(packet)
	r.session.send(wire.TypeAck, r.session.terms.ack(), out)
	r.table.requeue(r, doneRecord)
	r.table.timers.Set(&r.timer, now.Add(responderLinger))
	return r.session, nil
}

func (r *responder) finish(now time.Time, body []byte) error {
	message, err := handshakeMessage(body, wire.ToGateway)
	if err != nil {
		return err
	}
	static, split, err := r.noise.ReadMessage3(&r.psk, message)
	if err != nil {
		return err
	}
	if static != r.static {
		r.table.remove(r) // the Noise state is consumed
		return ErrStaticMismatch
	}
	r.session = &Session{
		config: &r.table.config.Session, role: RoleGateway, suite: r.suite, handle: r.psq.Handle(),
		peer: r.client, peerStatic: r.static,
	}
	first := deriveFirst(split, &r.psk, &r.psq.KPQ)
	r.session.establish(now, r.index, &first, r.source)
	r.wipeSecrets()
	return nil
}

// bufferEarly keeps a transport packet that arrived before Handshake 3.
func (r *responder) bufferEarly(packet []byte, from path.Path) error {
	if r.handshake1 == nil || r.session != nil {
		return ErrUnexpectedMessage
	}
	if len(r.earlyData) == maxEarlyPackets || len(packet) > wire.MaxUDPPacket {
		return errEarlyFull
	}
	r.earlyData = append(r.earlyData, Packet{Data: bytes.Clone(packet), Path: from})
	r.table.recharge(r)
	return nil
}

// Memory of a responder in bytes, as measured: without its variable parts, of its Noise and PSQ state,
// and what each of its buffers takes beside its contents.
const (
	recordSize     = 1152
	cryptoSize     = 4096
	bufferOverhead = 160
)

// size returns the bytes that the responder takes, at least.
func (r *responder) size() int64 {
	n := recordSize
	if r.noise != nil {
		n += cryptoSize
	}
	for _, all := range [...][][]byte{r.kktPackets, {r.handshake2, r.handshake3}} {
		for _, b := range all {
			if b != nil {
				n += len(b) + bufferOverhead
			}
		}
	}
	for _, p := range r.earlyData {
		n += len(p.Data) + bufferOverhead
	}
	if r.inbox.owner == r {
		n += r.inbox.Size() + r.inbox.Kept()*bufferOverhead
	}
	return int64(n)
}

func (r *responder) wipeSecrets() {
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

// Bounds of an encoded responder.
const (
	maxAckSize       = 256
	minResponderSize = 200 // without its variable parts
)

// snapshot writes or reads a responder that waits for Handshake 1, and its deadline.
func (r *responder) snapshot(c *snapshot.Codec, until *time.Time) {
	var kemID kem.ID
	var kemKeyID uint32
	if !c.Decoding() {
		kemID, kemKeyID = r.kem.ID(), r.kem.KeyID()
	}
	c.Uint32(&r.attempt)
	c.Uint32(&r.index)
	c.Fixed(r.hello[:])
	c.Fixed(r.salt[:])
	c.Path(&r.source)
	c.Time(&r.created)
	c.Time(until)
	snapshot.Byte(c, &r.suite)
	c.Check(r.suite.Valid() && r.attempt != 0 && r.index != 0 && !until.IsZero(), "handshake of index %d with AEAD %d", r.index, r.suite)
	snapshot.Byte(c, &kemID)
	c.Uint32(&kemKeyID)
	c.Uint32(&r.keyID)
	c.Blob(&r.ack, maxAckSize)
	snapshot.Int(c, &r.bytesIn)
	snapshot.Int(c, &r.bytesOut)
	c.Blob(&r.request, wire.MaxTCPPacket)
	response := r.response()
	c.Blob(&response, wire.MaxTCPPacket)
	c.Check(len(response) == 0 || len(response) == kkt.ResponseSize(kemID), "KKT response of %d bytes", len(response))
	if c.Decoding() && c.Err() == nil {
		r.kem = r.table.config.KEMs.Find(kemID, kemKeyID)
		if len(response) > 0 {
			r.setResponse(response)
		}
	}
}
