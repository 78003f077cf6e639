package noise

import (
	"bytes"
	"fmt"

	flynn "github.com/flynn/noise"
)

// Message1Overhead is the length of a message 1 of either handshake without its payload, in bytes.
const Message1Overhead = KeySize + tagSize

// message3Size is the length of message 3: the sealed static key and the tag of an empty payload.
const message3Size = KeySize + tagSize + tagSize

// XKInitiator is the client's side of a handshake, Noise_XKpsk3 (section 5).
type XKInitiator struct{ *exchange }

// NewXKInitiator starts a handshake with the gateway of this X25519 static key.
// It copies its arguments.
func NewXKInitiator(prologue []byte, static, ephemeral KeyPair, gateway [KeySize]byte) *XKInitiator {
	x := newExchange(flynn.HandshakeXK, true, prologue, static, ephemeral)
	x.peer = bytes.Clone(gateway[:])
	return &XKInitiator{x}
}

// WriteMessage1 returns e, es and the sealed payload: 48 bytes and the payload.
// ErrLowOrder means that the gateway's key is invalid.
func (i *XKInitiator) WriteMessage1(payload []byte) ([]byte, error) {
	return i.step(0, step{write: true, data: payload})
}

// Clone returns a handshake that goes on from the same messages, with memory of its own: each answer
// to message 1 needs one, since a handshake never writes two messages 3.
func (i *XKInitiator) Clone() *XKInitiator {
	return &XKInitiator{i.exchange.clone(flynn.HandshakeXK, true)}
}

// ReadMessage2 opens the gateway's message and returns its payload, which the caller owns. An error
// leaves the handshake unchanged, and another message 2 may be tried.
func (i *XKInitiator) ReadMessage2(msg []byte) ([]byte, error) {
	return i.step(1, step{data: msg})
}

// WriteMessage3 returns the last message, s, se and psk without a payload, and
// ends the handshake; i is wiped.
func (i *XKInitiator) WriteMessage3(psk *[32]byte) ([]byte, *Split, error) {
	if err := i.at(2); err != nil {
		return nil, nil, err
	}
	i.setPSK(psk)
	return i.take(step{write: true})
}

// XKResponder is the gateway's side of a handshake, Noise_XKpsk3 (section 5).
type XKResponder struct{ *exchange }

// NewXKResponder returns a handshake that expects message 1.
func NewXKResponder(prologue []byte, static KeyPair) *XKResponder {
	return &XKResponder{newExchange(flynn.HandshakeXK, false, prologue, static, KeyPair{})}
}

// ReadMessage1 opens the client's first message and returns its payload, which
// the caller owns. It may be called again until message 2 is written: the last
// message that opened counts, and one that does not open changes nothing.
// Messages with the same ephemeral key cost one X25519 operation in all.
func (r *XKResponder) ReadMessage1(msg []byte) ([]byte, error) { return r.readFirst(msg) }

// WriteMessage2 returns e, ee and the sealed payload: 48 bytes and the payload.
func (r *XKResponder) WriteMessage2(ephemeral KeyPair, payload []byte) ([]byte, error) {
	if err := r.at(1); err != nil {
		return nil, err
	}
	r.suite.ephemeral = ephemeral
	return r.step(1, step{write: true, data: payload})
}

// ReadMessage3 opens the client's last message, ends the handshake and returns the client's static
// key, which the caller must check. r is then wiped. An error leaves the handshake unchanged, and
// another message 3 may be tried. A message 3 with a payload gives ErrSize.
func (r *XKResponder) ReadMessage3(psk *[32]byte, msg []byte) (client [KeySize]byte, split *Split, err error) {
	if err := r.at(2); err != nil {
		return client, nil, err
	}
	if len(msg) != message3Size {
		return client, nil, fmt.Errorf("noise: reading message 3 of XK: %d bytes, not %d: %w", len(msg), message3Size, ErrSize)
	}
	r.setPSK(psk)
	_, split, err = r.take(step{data: msg})
	if err != nil {
		return client, nil, err
	}
	return [KeySize]byte(r.peer), split, nil
}

// EphemeralInMessage1 returns the ephemeral public key at the start of a message 1 of either
// pattern, and false if the message is too short. The gateway compares it with the commitment in
// the hello's salt before any public-key operation (section 5).
func EphemeralInMessage1(msg []byte) (e [KeySize]byte, ok bool) {
	if len(msg) < KeySize+tagSize {
		return e, false
	}
	return [KeySize]byte(msg), true
}

// KKInitiator is the client's side of a subsession, Noise_KKpsk0 (section 7).
type KKInitiator struct{ *exchange }

// NewKKInitiator starts a subsession with the gateway of this X25519 static key.
// It copies its arguments.
func NewKKInitiator(prologue []byte, static, ephemeral KeyPair, peer [KeySize]byte, psk *[32]byte) *KKInitiator {
	return &KKInitiator{newKK(true, prologue, static, ephemeral, peer, psk)}
}

// WriteMessage1 returns psk, e, es, ss and the sealed payload: 48 bytes and the payload.
func (i *KKInitiator) WriteMessage1(payload []byte) ([]byte, error) {
	return i.step(0, step{write: true, data: payload})
}

// ReadMessage2 opens the gateway's message, returns its payload, which the
// caller owns, and ends the handshake; i is then wiped. An error leaves the
// handshake unchanged, and another message 2 may be tried.
func (i *KKInitiator) ReadMessage2(msg []byte) ([]byte, *Split, error) {
	if err := i.at(1); err != nil {
		return nil, nil, err
	}
	return i.take(step{data: msg})
}

// KKResponder is the gateway's side of a subsession, Noise_KKpsk0 (section 7).
type KKResponder struct{ *exchange }

// NewKKResponder returns a handshake that expects message 1 of the client with
// this X25519 static key.
func NewKKResponder(prologue []byte, static KeyPair, peer [KeySize]byte, psk *[32]byte) *KKResponder {
	return &KKResponder{newKK(false, prologue, static, KeyPair{}, peer, psk)}
}

// ReadMessage1 opens the client's message and returns its payload, which the
// caller owns. It may be called again until message 2 is written: the last
// message that opened counts, and one that does not open changes nothing.
func (r *KKResponder) ReadMessage1(msg []byte) ([]byte, error) { return r.readFirst(msg) }

// WriteMessage2 returns e, ee, se and the sealed payload, 48 bytes and the
// payload, and ends the handshake; r is wiped.
func (r *KKResponder) WriteMessage2(ephemeral KeyPair, payload []byte) ([]byte, *Split, error) {
	if err := r.at(1); err != nil {
		return nil, nil, err
	}
	r.suite.ephemeral = ephemeral
	return r.take(step{write: true, data: payload})
}

func newKK(initiator bool, prologue []byte, static, ephemeral KeyPair, peer [KeySize]byte, psk *[32]byte) *exchange {
	x := newExchange(flynn.HandshakeKK, initiator, prologue, static, ephemeral)
	x.peer = bytes.Clone(peer[:])
	x.setPSK(psk)
	return x
}
