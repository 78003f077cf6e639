package noise

import (
	"bytes"
	"fmt"

	flynn "github.com/flynn/noise"
)

// xkPSK is where XKpsk3 mixes the preshared key in: at the end of message 3,
// so both sides may learn it as late as that.
const xkPSK = 3

// message3Size is the length of message 3: the sealed static key and the tag of
// an empty payload.
const message3Size = KeySize + tagSize + tagSize

// XKInitiator is the client's side of a handshake, Noise_XKpsk3 (section 5).
type XKInitiator struct{ x *exchange }

// NewXKInitiator starts a handshake with the gateway whose X25519 static key
// is given. Nothing passed is kept but copies.
func NewXKInitiator(prologue []byte, static, ephemeral KeyPair, gateway [KeySize]byte) *XKInitiator {
	x := newExchange(flynn.HandshakeXK, true, prologue, static, ephemeral, xkPSK)
	x.peer = bytes.Clone(gateway[:])
	return &XKInitiator{x}
}

// WriteMessage1 returns e, es and the sealed payload: 48 bytes and the payload.
// ErrLowOrder says that the gateway's key is no key.
func (i *XKInitiator) WriteMessage1(payload []byte) ([]byte, error) {
	if err := i.x.at(0); err != nil {
		return nil, err
	}
	msg, _, err := i.x.take(step{write: true, data: payload})
	return msg, err
}

// ReadMessage2 opens the gateway's message and returns its payload, which the
// caller owns. After an error the handshake is what it was before, and another
// message 2 may be tried.
func (i *XKInitiator) ReadMessage2(msg []byte) ([]byte, error) {
	if err := i.x.at(1); err != nil {
		return nil, err
	}
	payload, _, err := i.x.take(step{data: msg})
	return payload, err
}

// WriteMessage3 returns the last message, s, se and psk with no payload, and
// ends the handshake; i is wiped.
func (i *XKInitiator) WriteMessage3(psk *[32]byte) ([]byte, *Split, error) {
	if err := i.x.at(2); err != nil {
		return nil, nil, err
	}
	i.x.setPSK(psk)
	return i.x.take(step{write: true})
}

// Wipe overwrites every secret; every other method then returns ErrOrder.
func (i *XKInitiator) Wipe() { i.x.wipe() }

// XKResponder is the gateway's side of a handshake, Noise_XKpsk3 (section 5).
type XKResponder struct{ x *exchange }

// NewXKResponder waits for the first message of a handshake.
func NewXKResponder(prologue []byte, static KeyPair) *XKResponder {
	return &XKResponder{newExchange(flynn.HandshakeXK, false, prologue, static, KeyPair{}, xkPSK)}
}

// ReadMessage1 opens the client's first message and returns its payload, which
// the caller owns. It may be called again until message 2 is written, after an
// error and also after a success whose payload turned out to be no good: the
// last message that opened is the one that counts, and one that does not open
// changes nothing. Trying messages that begin with the same ephemeral key costs
// one X25519 in all.
func (r *XKResponder) ReadMessage1(msg []byte) ([]byte, error) {
	return r.x.readFirst(msg)
}

// WriteMessage2 returns e, ee and the sealed payload: 48 bytes and the payload.
func (r *XKResponder) WriteMessage2(ephemeral KeyPair, payload []byte) ([]byte, error) {
	if err := r.x.at(1); err != nil {
		return nil, err
	}
	r.x.suite.ephemeral = ephemeral
	msg, _, err := r.x.take(step{write: true, data: payload})
	return msg, err
}

// ReadMessage3 opens the client's last message, ends the handshake, and returns
// the client's static key: whose it is, is for the caller to check. r is then
// wiped. After an error the handshake is what it was before, and another
// message 3 may be tried. A message 3 that carries a payload is refused with
// ErrSize.
func (r *XKResponder) ReadMessage3(psk *[32]byte, msg []byte) (client [KeySize]byte, split *Split, err error) {
	if err := r.x.at(2); err != nil {
		return client, nil, err
	}
	if len(msg) != message3Size {
		return client, nil, fmt.Errorf("noise: reading message 3 of XK: %d bytes, not %d: %w", len(msg), message3Size, ErrSize)
	}
	r.x.setPSK(psk)
	_, split, err = r.x.take(step{data: msg})
	if err != nil {
		return client, nil, err
	}
	return [KeySize]byte(r.x.peer), split, nil
}

// Wipe overwrites every secret; every other method then returns ErrOrder.
func (r *XKResponder) Wipe() { r.x.wipe() }

// EphemeralInMessage1 returns the ephemeral public key that a message 1 of
// either pattern begins with, and false for a message too short to be one. The
// gateway compares it with the one that the hello's salt commits to, before it
// does any public-key operation (section 5).
func EphemeralInMessage1(msg []byte) (e [KeySize]byte, ok bool) {
	if len(msg) < KeySize+tagSize {
		return e, false
	}
	return [KeySize]byte(msg), true
}
