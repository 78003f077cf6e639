package state

import (
	"errors"
	"time"

	"lewes/crypto/kem"
	"lewes/crypto/seal"
	"lewes/state/path"
	"lewes/state/wire"
)

// Verify reports whether a level-2 packet has a valid MAC1. It is safe for concurrent use. The
// caller drops other packets before it spends anything on them (section 1).
func (t *ResponderTable) Verify(packet []byte) bool { return t.mac.Verify(packet) }

// HandleClear processes a level-2 packet whose size and MAC1 the caller has checked. A non-nil
// error means that the packet was dropped.
func (t *ResponderTable) HandleClear(now time.Time, header wire.Header, packet []byte, from path.Path, out *Output) error {
	kind, content, err := t.readClear(now, header, packet, from, out)
	switch {
	case err != nil:
		return err
	case kind == wire.TypeClientHello:
		return t.handleHello(now, packet, content, from, out)
	case kind == wire.TypeHandshake:
		return t.handleHandshake1Part(now, header.ReceiverIdx, packet, content, from, out)
	case isShort(packet, from):
		return wire.ErrShort
	}
	return t.handleKKTRequest(header.ReceiverIdx, packet, content, from, out)
}

// RejectShutdown processes a level-2 packet while the gateway shuts down: valid hellos are
// answered by a Reject, all other packets are dropped. The caller has checked MAC1.
func (t *ResponderTable) RejectShutdown(now time.Time, header wire.Header, packet []byte, from path.Path, out *Output) error {
	kind, content, err := t.readClear(now, header, packet, from, out)
	if err != nil {
		return err
	}
	if kind != wire.TypeClientHello {
		return ErrClosed
	}
	hello, err := readHello(packet, content, from)
	if err != nil {
		return err
	}
	t.reject(now, hello.Attempt, wire.RejectShuttingDown, from, out)
	return nil
}

// readClear returns the type and content of a level-2 packet. A hello of another version
// is answered and returns an error.
func (t *ResponderTable) readClear(now time.Time, header wire.Header, packet []byte, from path.Path, out *Output) (wire.Type, []byte, error) {
	kind, content, err := wire.ParseBody(wire.Body(packet))
	if errors.Is(err, wire.ErrVersion) && header.ReceiverIdx == 0 && !isShort(packet, from) {
		// Every version has the attempt index in the same place.
		index, _ := wire.ReceiverIdx(packet)
		t.reject(now, index, wire.RejectVersion, from, out)
	}
	if err != nil {
		return 0, nil, err
	}
	if !header.Allows(kind, wire.ToGateway) {
		return 0, nil, ErrUnexpectedMessage
	}
	return kind, content, nil
}

func readHello(packet, content []byte, from path.Path) (wire.ClientHello, error) {
	if isShort(packet, from) {
		return wire.ClientHello{}, wire.ErrShort
	}
	return wire.ParseClientHello(content)
}

// isShort reports whether a hello or KKT request over UDP lacks its padding.
func isShort(packet []byte, from path.Path) bool {
	return from.Transport == path.UDP && len(packet) < wire.MinHelloDatagram
}

func (t *ResponderTable) countHandshake1(opened bool, err error) {
	switch {
	case opened:
		t.Stats.Opened++
	case errors.Is(err, ErrNotListed):
		t.Stats.Unlisted++
	case errors.Is(err, ErrRateLimited):
		t.Stats.Limited++
	case err != nil:
		t.Stats.Failed++
	}
}

// handleHello processes a ClientHello in the steps of section 4, the cheapest first.
func (t *ResponderTable) handleHello(now time.Time, packet, content []byte, from path.Path, out *Output) error {
	hello, err := readHello(packet, content, from)
	if err != nil {
		return err
	}
	t.Stats.Hellos++
	if clockOffset(t.config.wall(now), hello.Seconds()) > t.config.tolerance() {
		t.reject(now, hello.Attempt, wire.RejectClock, from, out)
		return ErrClockSkew
	}
	if r := t.find(&hello, from); r != nil {
		t.Stats.Repeated++
		if r.handshake1 == nil {
			r.bytesIn += len(packet)
		}
		return r.sendAck(from, out)
	}
	if hello.Doubted != 0 && t.config.Holds != nil && t.config.Holds(hello.Doubted) {
		t.Stats.Held++
		out.send(from, clearPacket(t.mac, hello.Attempt, wire.TypeHeld, &wire.Empty{}))
		return nil
	}
	pair, suite, code := t.choose(&hello)
	if code != 0 {
		t.reject(now, hello.Attempt, code, from, out)
		return nil
	}
	class, busy := t.checkLimits(now, &hello, from)
	if busy != nil {
		t.Stats.Busy++
		out.send(from, clearPacket(t.mac, hello.Attempt, wire.TypeBusy, busy))
		return nil
	}
	return t.accept(now, &hello, class, pair, suite, len(packet), from, out)
}

// accept adds a responder for a hello and answers with its Ack.
func (t *ResponderTable) accept(now time.Time, hello *wire.ClientHello, class Class, pair *kem.KeyPair, suite seal.Suite, size int, from path.Path, out *Output) error {
	// In a full store one gives way, and another while the store holds more than its bound.
	for n := 0; n < 2 && t.records.Full(1) && t.evict(); n++ {
	}
	ack := wire.Ack{AEAD: uint8(suite), KEM: hello.KEM, ReceiverIdx: t.config.Session.NewIndex()}
	if _, err := t.config.Session.Rand.Read(ack.Nonce[:]); err != nil {
		return err
	}
	r := &responder{table: t, class: class}
	r.attempt, r.index = hello.Attempt, ack.ReceiverIdx
	r.hello, r.salt, r.keyID = hello.Hello(), hello.Salt, hello.KEMKeyID
	r.source, r.created, r.bytesIn = from, now, size
	r.suite, r.kem, r.ack = suite, pair, ack.Append(nil)
	t.add(r, now.Add(t.config.handshakeTTL()))
	return r.sendAck(from, out)
}

// clockOffset returns the offset of a client's clock, which has whole seconds.
func clockOffset(now time.Time, seconds uint64) time.Duration {
	ours := uint64(now.Unix())
	off := max(ours, seconds) - min(ours, seconds)
	return time.Duration(min(off, 1<<32)) * time.Second
}

// choose returns the KEM key and the AEAD for a hello, or the code of its rejection.
func (t *ResponderTable) choose(hello *wire.ClientHello) (*kem.KeyPair, seal.Suite, wire.RejectCode) {
	if !t.config.KEMs.Offered(kem.ID(hello.KEM)) {
		return nil, 0, wire.RejectKEM
	}
	offer := seal.Suite(hello.AEADOffer)
	suite, ok := seal.Choose(offer, t.config.Suites)
	if !ok || offer&seal.ChaCha20Poly1305 == 0 { // mandatory in every offer
		return nil, 0, wire.RejectAEAD
	}
	pair := t.config.KEMs.Find(kem.ID(hello.KEM), hello.KEMKeyID)
	if pair == nil {
		return nil, 0, wire.RejectStaleKey
	}
	return pair, suite, 0
}

// checkLimits returns the class of a hello's source, and nil or a Busy that makes the client come back
// later or with a cookie.
func (t *ResponderTable) checkLimits(now time.Time, hello *wire.ClientHello, from path.Path) (class Class, busy *wire.Busy) {
	source, key := from.Peer.Addr(), keyOf(hello.Attempt, from)
	if t.config.Full != nil && t.config.Full() {
		return Unproved, t.busy(fullWait)
	}
	trusted := t.config.Trusted != nil && t.config.Trusted(source)
	budgets := t.budgets.hellos(t.config, source)
	if t.hasProof(now, hello, from) {
		if wait, ok := budgets[Proved].Take(now, source); !ok {
			return Proved, t.busy(wait)
		}
		if !t.makeRoom(key, Proved) {
			return Proved, t.busy(fullWait)
		}
		return Proved, nil
	}
	if _, ok := budgets[Unproved].Take(now, source); ok && !t.underLoad(now) && (trusted || t.crowds[prefixOf(from)] < maxCrowd) && t.makeRoom(key, Unproved) {
		return Unproved, nil
	}
	busy = t.busy(budgets[Proved].Wait(now, source)) // the hello returns with the cookie
	if made, err := t.jar.Make(now, from.Peer, hello.Attempt, &hello.Salt); err == nil {
		t.Stats.Cookies++
		busy.HasCookie, busy.Cookie = true, made
	}
	return Unproved, busy
}

// hasProof reports whether a hello shows that its sender receives packets at its address.
func (t *ResponderTable) hasProof(now time.Time, hello *wire.ClientHello, from path.Path) bool {
	return from.Transport == path.TCP ||
		hello.HasCookie && t.jar.Valid(now, from.Peer, hello.Attempt, &hello.Salt, hello.Cookie[:])
}

// Class returns the class of the source of a handshake packet, whose MAC1 was checked if it has one.
// A hello shows it by itself, other packets by the record that they belong to.
func (t *ResponderTable) Class(now time.Time, header wire.Header, packet []byte, from path.Path) Class {
	if from.Transport == path.TCP {
		return Proved
	}
	if header.ReceiverIdx != 0 {
		for r := t.ofHeader(header, from); r != nil; r = r.next {
			if r.class == Proved {
				return Proved
			}
		}
		return Unproved
	}
	_, content, err := wire.ParseBody(wire.Body(packet))
	if err != nil {
		return Unproved
	}
	if hello, err := wire.ParseClientHello(content); err == nil && t.hasProof(now, &hello, from) {
		return Proved
	}
	return Unproved
}

// underLoad reports whether all hellos need a cookie.
func (t *ResponderTable) underLoad(now time.Time) bool {
	b := t.budgets
	return t.config.Crowded != nil && t.config.Crowded() ||
		b.records.moreThanHalf() || b.memory[Unproved].moreThanHalf() || b.tries.rate(now) > t.config.cookieThreshold()
}

// fullWait is the wait that a full gateway asks for; it cannot predict the end of a session.
const fullWait = time.Second

// busy returns a Busy for wait, or for the queueing delay if that is longer.
func (t *ResponderTable) busy(wait time.Duration) *wire.Busy {
	if t.config.QueueDelay != nil {
		wait = max(wait, t.config.QueueDelay())
	}
	return &wire.Busy{RetryAfterMillis: uint32((wait + time.Millisecond - 1) / time.Millisecond)}
}

func (t *ResponderTable) reject(now time.Time, index uint32, code wire.RejectCode, to path.Path, out *Output) {
	t.Stats.Rejects[code]++
	m := wire.Reject{Code: code, GatewaySeconds: uint64(t.config.wall(now).Unix())}
	out.send(to, clearPacket(t.mac, index, wire.TypeReject, &m))
}
