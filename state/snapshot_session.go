package state

import (
	"errors"
	"fmt"
	"time"

	"lewes/state/parts"
	"lewes/state/snapshot"
)

// sessionVersion is the version of an encoded session. A reader accepts its own and earlier ones.
const sessionVersion = 2

// skipAhead is the number of sequence numbers that a decoded session leaves out. Freeze alone
// prevents the reuse of a number; the gap is a second safeguard. It is smaller than the replay
// window, so that packets in flight before the gap are still accepted.
const skipAhead = 1024

var (
	// ErrUnknownVersion means that a newer program has encoded the session.
	ErrUnknownVersion = errors.New("state: unknown session version")
	// ErrNotFrozen means that a session to be encoded may still seal.
	ErrNotFrozen = errors.New("state: session is not a frozen gateway's")
)

// Freeze makes every Seal of the session fail, in any goroutine, until Thaw. Between
// Freeze and Thaw or Wipe its owner calls nothing but Write.
func (s *Session) Freeze() { s.eachKeySet(func(k *KeySet) { k.sender.freeze() }) }

// Thaw undoes Freeze. It must not be called once a successor may have continued the
// encoded session.
func (s *Session) Thaw() { s.eachKeySet(func(k *KeySet) { k.sender.thaw() }) }

// Wipe erases the secrets of a frozen session that a successor has continued.
func (s *Session) Wipe() {
	s.eachKeySet((*KeySet).wipe)
	if s.rekey.responder != nil {
		s.rekey.responder.secrets.wipe()
	}
	clear(s.exporter[:])
	clear(s.rekey.seed[:])
	s.closed = true
}

// eachKeySet calls f for the current key set, the demoted ones, and an unproved child at a gateway.
func (s *Session) eachKeySet(f func(*KeySet)) {
	f(s.keys.current)
	for _, k := range s.keys.demoted {
		f(k)
	}
	if s.rekey.responder != nil && s.rekey.responder.child != nil {
		f(s.rekey.responder.child)
	}
}

// Write encodes a frozen gateway's session with its secrets. Left out are User, the
// times of the last Pings, the parts of incomplete messages, and a Register under way: its repeat is a new
// request.
func (s *Session) Write(w *snapshot.Writer) error {
	if s.role != RoleGateway || !s.keys.current.sender.frozen() {
		return ErrNotFrozen
	}
	w.Uint8(sessionVersion)
	s.snapshot(snapshot.Encode(w), sessionVersion)
	return nil
}

// ReadSession decodes a session. Its error is ErrUnknownVersion or the Reader's. The
// caller wipes the input.
func ReadSession(r *snapshot.Reader, config *SessionConfig) (*Session, error) {
	version := r.Uint8()
	if r.Err() == nil && version != 1 && version != sessionVersion {
		return nil, fmt.Errorf("%w: %d", ErrUnknownVersion, version)
	}
	s := &Session{config: config, role: RoleGateway}
	s.snapshot(snapshot.Decode(r), version)
	if r.Err() != nil {
		return nil, r.Err()
	}
	s.reschedule()
	return s, nil
}

// snapshot codes a session of a version. Version 1 has no results of Registers.
func (s *Session) snapshot(c *snapshot.Codec, version uint8) {
	c.Fixed(s.peer[:])
	c.Fixed(s.peerStatic[:])
	snapshot.Byte(c, &s.suite)
	c.Check(s.suite.Valid(), "AEAD %d", s.suite)
	c.Fixed(s.handle[:])
	c.Fixed(s.exporter[:])
	c.Fixed(s.rekey.seed[:])
	s.terms.snapshot(c)
	s.keys.snapshot(c, s)
	s.migration.snapshot(c)
	s.rekey.snapshot(c, s)
	s.mtu.snapshot(c)
	s.liveness.snapshot(c)
	for _, at := range []*time.Time{&s.rekey.requestAt, &s.started, &s.lastOpened, &s.compactAt, &s.demotedAckAt} {
		c.Time(at)
	}
	if version >= 2 {
		if r := snapshot.Optional(c, &s.registration); r != nil {
			r.snapshot(c)
			r.parts.Limit = parts.MaxRegister
		}
	}
}

func (r *keyRing) snapshot(c *snapshot.Codec, s *Session) {
	if c.Decoding() {
		r.current = new(KeySet)
	}
	r.current.snapshot(c, s)
	for i := range c.Count(len(r.demoted), maxDemoted, keySetMinSize) {
		if c.Decoding() {
			r.demoted = append(r.demoted, new(KeySet))
		}
		r.demoted[i].snapshot(c, s)
	}
	if c.Decoding() {
		r.use(r.current)
	}
}
