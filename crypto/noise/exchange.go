package noise

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"

	flynn "github.com/flynn/noise"

	"lewes/crypto/wipe"
)

// Errors of the handshakes, besides ErrLowOrder.
var (
	// ErrOpen means that a message does not authenticate: it is damaged or forged,
	// or was made under another prologue, key or preshared key.
	ErrOpen = errors.New("message does not open")

	// ErrSize means that a message is too short to contain its keys, or longer
	// than the 65535 bytes that Noise allows.
	ErrSize = errors.New("message of invalid size")

	// ErrOrder means that the method is not the next step of this handshake, or
	// that the handshake is finished or wiped.
	ErrOrder = errors.New("handshake step out of order")
)

// tagSize is the AEAD's overhead.
const tagSize = 16

// Split is the result of a handshake: the two keys of Noise's Split and the
// handshake hash. Lewes derives its keys from them (section 5).
type Split struct {
	InitiatorToResponder, ResponderToInitiator, Hash [32]byte
}

// Wipe overwrites keys and hash.
func (s *Split) Wipe() { *s = Split{} }

// Format writes a fixed text for every verb, so that the keys are never printed.
func (Split) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "noise.Split(redacted)") }

// exchange is one side of one handshake: the successful steps, and the library's
// state after them. The four exported types share it.
type exchange struct {
	name   string // of the pattern, for errors
	config flynn.Config
	suite  suite
	psk    [32]byte
	peer   []byte // static public key; nil until known
	done   []step
	state  *flynn.HandshakeState // after the steps in done; nil until built
	over   bool
}

// step is one message: the payload written or the message read. Repeating a
// write with the same ephemeral key gives the same message.
type step struct {
	write bool
	data  []byte
}

func newExchange(pattern flynn.HandshakePattern, initiator bool, prologue []byte, static, ephemeral KeyPair) *exchange {
	placement := 3 // XKpsk3: both sides may learn the preshared key as late as message 3
	if pattern.Name == flynn.HandshakeKK.Name {
		placement = 0 // KKpsk0: before message 1
	}
	x := &exchange{name: pattern.Name}
	x.suite.static, x.suite.ephemeral = static, ephemeral
	x.config = flynn.Config{
		CipherSuite:           flynn.NewCipherSuite(&x.suite, &x.suite, flynn.HashSHA256),
		Pattern:               pattern,
		Initiator:             initiator,
		Prologue:              bytes.Clone(prologue),
		PresharedKeyPlacement: placement,
	}
	return x
}

// clone returns an exchange that has made the same steps, with memory of its own.
func (x *exchange) clone(pattern flynn.HandshakePattern, initiator bool) *exchange {
	c := newExchange(pattern, initiator, x.config.Prologue, x.suite.static, x.suite.ephemeral)
	c.peer, c.over = bytes.Clone(x.peer), x.over
	for _, s := range x.done {
		c.done = append(c.done, step{s.write, bytes.Clone(s.data)})
	}
	return c
}

// setPSK sets the preshared key, also on an existing state. The library rejects
// only keys of another length.
func (x *exchange) setPSK(psk *[32]byte) {
	x.psk = *psk
	x.config.PresharedKey = x.psk[:]
	if x.state != nil {
		_ = x.state.SetPresharedKey(x.psk[:])
	}
}

// at returns ErrOrder unless exactly n steps are done.
func (x *exchange) at(n int) error {
	if x.over || len(x.done) != n {
		return fmt.Errorf("noise: message %d of %s: %w", n+1, x.name, ErrOrder)
	}
	return nil
}

// readFirst reads a message 1, which replaces the previous one. An error keeps the previous one.
func (x *exchange) readFirst(msg []byte) ([]byte, error) {
	before := x.done
	if len(before) == 1 {
		x.drop()
		x.done = nil
	}
	if err := x.at(0); err != nil {
		return nil, err
	}
	payload, _, err := x.take(step{data: msg})
	if err != nil {
		x.done = before
	}
	return payload, err
}

// step makes step number n, which is not the last.
func (x *exchange) step(n int, s step) ([]byte, error) {
	if err := x.at(n); err != nil {
		return nil, err
	}
	out, _, err := x.take(s)
	return out, err
}

// take makes the next step. It returns the message written or the payload read,
// in new memory, and after the last step the Split. An error changes nothing.
func (x *exchange) take(s step) ([]byte, *Split, error) {
	out, split, err := x.try(s)
	if err != nil {
		x.drop()
		return nil, nil, fmt.Errorf("noise: %s message %d of %s: %w", s.verb(), len(x.done)+1, x.name, err)
	}
	if split != nil {
		x.Wipe()
		return out, split, nil
	}
	x.done = append(x.done, step{s.write, bytes.Clone(s.data)})
	return out, nil, nil
}

func (x *exchange) try(s step) ([]byte, *Split, error) {
	if err := x.build(); err != nil {
		return nil, nil, err
	}
	out, toResponder, toInitiator, err := s.run(x.state)
	if err != nil {
		return nil, nil, err
	}
	if toResponder == nil {
		return out, nil, nil
	}
	split := &Split{
		InitiatorToResponder: toResponder.UnsafeKey(),
		ResponderToInitiator: toInitiator.UnsafeKey(),
		Hash:                 [32]byte(x.state.ChannelBinding()),
	}
	wipe.Deep(toResponder, libraryShared...)
	wipe.Deep(toInitiator, libraryShared...)
	x.peer = bytes.Clone(x.state.PeerStatic())
	return out, split, nil
}

// build makes a new library state, if there is none, and repeats the steps done.
func (x *exchange) build() error {
	if x.state != nil {
		return nil
	}
	// drop erases the state, so it gets copies.
	config := x.config
	config.StaticKeypair = x.suite.static.library()
	config.PeerStatic = bytes.Clone(x.peer)
	state, err := flynn.NewHandshakeState(config)
	if err != nil {
		return err
	}
	x.state = state
	for _, s := range x.done {
		if _, _, _, err := s.run(state); err != nil {
			return err
		}
	}
	return nil
}

// libraryShared are the types in the library's states whose values are shared:
// the suite, which wipes its own secrets, the random source, and the patterns.
var libraryShared = []reflect.Type{
	reflect.TypeFor[flynn.CipherSuite](), reflect.TypeFor[io.Reader](), reflect.TypeFor[[][]flynn.MessagePattern](),
}

// drop erases and discards the library's state.
func (x *exchange) drop() {
	if x.state != nil {
		wipe.Deep(x.state, libraryShared...)
		x.state = nil
	}
	x.suite.forgetCiphers()
}

// Wipe overwrites every secret; every other method then returns ErrOrder.
func (x *exchange) Wipe() {
	x.over = true
	x.drop()
	x.suite.wipe()
	clear(x.psk[:])
	for _, s := range x.done {
		clear(s.data)
	}
	x.done = nil
}

func (s step) verb() string {
	if s.write {
		return "writing"
	}
	return "reading"
}

// run performs the step on a state of the library and converts its errors.
func (s step) run(state *flynn.HandshakeState) (out []byte, toResponder, toInitiator *flynn.CipherState, err error) {
	if len(s.data) > flynn.MaxMsgLen {
		return nil, nil, nil, ErrSize
	}
	if s.write {
		// Room for a plain key, a sealed key and the payload's tag.
		room := make([]byte, 0, 2*KeySize+2*tagSize+len(s.data))
		out, toResponder, toInitiator, err = state.WriteMessage(room, s.data)
		if err == nil && len(out) > flynn.MaxMsgLen {
			err = ErrSize
		}
		return out, toResponder, toInitiator, err
	}
	out, toResponder, toInitiator, err = state.ReadMessage(nil, s.data)
	switch {
	case err == nil, errors.Is(err, ErrLowOrder):
	case errors.Is(err, flynn.ErrShortMessage):
		err = ErrSize
	default:
		err = ErrOpen
	}
	return out, toResponder, toInitiator, err
}
