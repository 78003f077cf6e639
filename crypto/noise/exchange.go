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

// Errors of the handshakes. ErrLowOrder is another.
var (
	// ErrOpen says that a message does not authenticate: it was damaged or
	// forged, or made under another prologue, key or preshared key.
	ErrOpen = errors.New("message does not open")

	// ErrSize says that a message is too short to hold the keys it must begin
	// with, or longer than the 65535 bytes that Noise allows.
	ErrSize = errors.New("message of a size that cannot be")

	// ErrOrder says that the method is not the next step of this handshake, or
	// that the handshake is over or wiped.
	ErrOrder = errors.New("handshake step out of order")
)

// tagSize is what the AEAD adds.
const tagSize = 16

// Split is what a handshake ends with: the two keys of Noise's Split, and the
// handshake hash. Lewes derives its own keys from them (section 5).
type Split struct {
	InitiatorToResponder, ResponderToInitiator, Hash [32]byte
}

// Wipe overwrites keys and hash.
func (s *Split) Wipe() { *s = Split{} }

// Format keeps the keys out of whatever prints the value.
func (Split) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "noise.Split(redacted)") }

// exchange is one side of one handshake: the steps that succeeded, and the
// library's state after them. It is what the four exported types share.
type exchange struct {
	name   string // of the pattern, for errors
	config flynn.Config
	suite  suite
	psk    [32]byte
	peer   []byte // static public key, once known
	done   []step
	state  *flynn.HandshakeState // after done; nil when it has to be built
	over   bool
}

// step is one message: the payload that was written, or the message that was
// read. Written again with the same ephemeral key it comes out the same.
type step struct {
	write bool
	data  []byte
}

func newExchange(pattern flynn.HandshakePattern, initiator bool, prologue []byte, static, ephemeral KeyPair, pskPlacement int) *exchange {
	x := &exchange{name: pattern.Name}
	x.suite.static, x.suite.ephemeral = static, ephemeral
	x.config = flynn.Config{
		CipherSuite:           flynn.NewCipherSuite(&x.suite, &x.suite, flynn.HashSHA256),
		Pattern:               pattern,
		Initiator:             initiator,
		Prologue:              bytes.Clone(prologue),
		PresharedKeyPlacement: pskPlacement,
	}
	return x
}

// setPSK sets the preshared key, on a state that exists already too. The library
// refuses only keys of another length.
func (x *exchange) setPSK(psk *[32]byte) {
	x.psk = *psk
	x.config.PresharedKey = x.psk[:]
	if x.state != nil {
		_ = x.state.SetPresharedKey(x.psk[:])
	}
}

// at reports ErrOrder unless n messages have gone before this one.
func (x *exchange) at(n int) error {
	if x.over || len(x.done) != n {
		return fmt.Errorf("noise: message %d of %s: %w", n+1, x.name, ErrOrder)
	}
	return nil
}

// readFirst reads a message 1, the first or one in place of the last. An error
// leaves the last standing.
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

// take does the next step. It returns the message written or the payload read,
// in memory of its own, and after the last step the Split. On an error the
// steps done stay as they were.
func (x *exchange) take(s step) ([]byte, *Split, error) {
	out, split, err := x.try(s)
	if err != nil {
		x.drop()
		return nil, nil, fmt.Errorf("noise: %s message %d of %s: %w", s.verb(), len(x.done)+1, x.name, err)
	}
	if split != nil {
		x.wipe()
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

// build makes the library's state anew, if the last one is gone, and takes it
// through the steps that were done.
func (x *exchange) build() error {
	if x.state != nil {
		return nil
	}
	// The state is erased when it goes, so it gets copies.
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

// drop throws the library's state away.
func (x *exchange) drop() {
	if x.state != nil {
		wipe.Deep(x.state, libraryShared...)
		x.state = nil
	}
	x.suite.forgetCiphers()
}

func (x *exchange) wipe() {
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

// run puts the step to a state of the library, in the library's order of
// results, and turns its errors into ours.
func (s step) run(state *flynn.HandshakeState) (out []byte, toResponder, toInitiator *flynn.CipherState, err error) {
	if len(s.data) > flynn.MaxMsgLen {
		return nil, nil, nil, ErrSize
	}
	if s.write {
		// Room for a key in clear, a sealed key and the payload's tag.
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
