package noise

import (
	"bytes"

	flynn "github.com/flynn/noise"
)

// kkPSK is where KKpsk0 mixes the preshared key in: before message 1.
const kkPSK = 0

// KKInitiator is the client's side of a subsession, Noise_KKpsk0 (section 7).
type KKInitiator struct{ x *exchange }

// NewKKInitiator starts a subsession with the gateway whose X25519 static key
// is given. Nothing passed is kept but copies.
func NewKKInitiator(prologue []byte, static, ephemeral KeyPair, peer [KeySize]byte, psk *[32]byte) *KKInitiator {
	return &KKInitiator{newKK(true, prologue, static, ephemeral, peer, psk)}
}

// WriteMessage1 returns psk, e, es, ss and the sealed payload: 48 bytes and the
// payload.
func (i *KKInitiator) WriteMessage1(payload []byte) ([]byte, error) {
	if err := i.x.at(0); err != nil {
		return nil, err
	}
	msg, _, err := i.x.take(step{write: true, data: payload})
	return msg, err
}

// ReadMessage2 opens the gateway's message, returns its payload, which the
// caller owns, and ends the handshake; i is then wiped. After an error the
// handshake is what it was before, and another message 2 may be tried.
func (i *KKInitiator) ReadMessage2(msg []byte) ([]byte, *Split, error) {
	if err := i.x.at(1); err != nil {
		return nil, nil, err
	}
	return i.x.take(step{data: msg})
}

// Wipe overwrites every secret; every other method then returns ErrOrder.
func (i *KKInitiator) Wipe() { i.x.wipe() }

// KKResponder is the gateway's side of a subsession, Noise_KKpsk0 (section 7).
type KKResponder struct{ x *exchange }

// NewKKResponder waits for message 1 of the client whose X25519 static key is
// given.
func NewKKResponder(prologue []byte, static KeyPair, peer [KeySize]byte, psk *[32]byte) *KKResponder {
	return &KKResponder{newKK(false, prologue, static, KeyPair{}, peer, psk)}
}

// ReadMessage1 opens the client's message and returns its payload, which the
// caller owns. It may be called again until message 2 is written, after an
// error and also after a success whose payload turned out to be no good: the
// last message that opened is the one that counts, and one that does not open
// changes nothing.
func (r *KKResponder) ReadMessage1(msg []byte) ([]byte, error) {
	return r.x.readFirst(msg)
}

// WriteMessage2 returns e, ee, se and the sealed payload, 48 bytes and the
// payload, and ends the handshake; r is wiped.
func (r *KKResponder) WriteMessage2(ephemeral KeyPair, payload []byte) ([]byte, *Split, error) {
	if err := r.x.at(1); err != nil {
		return nil, nil, err
	}
	r.x.suite.ephemeral = ephemeral
	return r.x.take(step{write: true, data: payload})
}

// Wipe overwrites every secret; every other method then returns ErrOrder.
func (r *KKResponder) Wipe() { r.x.wipe() }

func newKK(initiator bool, prologue []byte, static, ephemeral KeyPair, peer [KeySize]byte, psk *[32]byte) *exchange {
	x := newExchange(flynn.HandshakeKK, initiator, prologue, static, ephemeral, kkPSK)
	x.peer = bytes.Clone(peer[:])
	x.setPSK(psk)
	return x
}
