package state

import (
	"errors"
	"time"

	"lewes/crypto/kdf"
	"lewes/state/parts"
	"lewes/state/path"
	"lewes/state/snapshot"
	"lewes/state/wire"
)

// maxRegisters is the number of Registers that a gateway's session keeps: 16 with their results (section 9),
// and one more, which may be under way.
const maxRegisters = 16 + 1

// Repeats of a Register without a result, section 9.
const (
	registerRetry    = 500 * time.Millisecond // doubles with each repeat
	registerRetryMax = 8 * time.Second
)

var (
	// ErrNoRegistration means that the gateway does not answer Register, or that the session is not
	// confirmed yet.
	ErrNoRegistration = errors.New("state: gateway does not answer Register")
	// ErrRegisterLong means that a Register does not fit in the parts of one message.
	ErrRegisterLong = errors.New("state: Register is too long for four parts")
)

// maxRegister is the size of the largest message that is sent in parts of handshake datagrams, which
// every path carries.
const maxRegister = wire.MaxParts * parts.MaxData

// registration is the part of a session that deals with Register.
type registration struct {
	parts parts.Assembler // of Registers at a gateway, of results at a client

	// At a gateway.
	kept []keptResult // request ids rise; at most one is under way, and it is never dropped

	// At a client.
	id      uint32 // of the last Register
	message []byte // that waits for its result; nil: none
	next    time.Time
	wait    time.Duration
}

func newRegistration() *registration {
	return &registration{parts: parts.Assembler{Limit: parts.MaxRegister}}
}

// keptResult is a Register and its result.
type keptResult struct {
	id   uint32
	hash [32]byte // of the Register
	cbor []byte   // the result without its id; nil while it is under way
}

// RegisterRequest is a Register for the gateway to act on. FinishRegister ends it.
type RegisterRequest struct {
	ID      uint32
	Message []byte // for wire.ParseRegister. The receiver owns it
}

// HandleRegister handles a part of a Register that KeySet.Open returned at a gateway. It returns a request
// if the part completes a new one: the caller acts on it and then calls FinishRegister, at any time. Repeats,
// reused ids, malformed Registers and one beside another that is under way are answered here. An error means
// that the part was ignored or the Register malformed.
func (s *Session) HandleRegister(now time.Time, k *KeySet, content []byte, from path.Path, out *Output) (*RegisterRequest, error) {
	switch {
	case s.closed:
		return nil, ErrClosed
	case k.readOnly:
		return nil, ErrStale
	}
	message, err := s.addRegisterPart(now, content, from)
	if message == nil {
		return nil, err
	}
	id, err := wire.RegisterID(message)
	if err != nil {
		return nil, err
	}
	hash := kdf.Hash(message)
	newest, underWay := uint32(0), false
	for i := range s.registration.kept {
		r := &s.registration.kept[i]
		newest = r.id
		underWay = underWay || r.cbor == nil
		switch {
		case r.id != id:
		case r.hash != hash:
			s.sendResult(id, failure(wire.CodeBadRequest, "the request id is that of another Register"), out)
			return nil, nil
		case r.cbor != nil:
			s.sendResult(id, r.cbor, out)
			return nil, nil
		default:
			return nil, nil
		}
	}
	if id < newest {
		s.sendResult(id, failure(wire.CodeBadRequest, "the request id is below an earlier one"), out)
		return nil, nil
	}
	s.registration.add(keptResult{id: id, hash: hash})
	if _, err := wire.ParseRegister(message); err != nil {
		s.FinishRegister(id, failure(wire.CodeBadRequest, "the Register is malformed"), out)
		return nil, err
	}
	if underWay {
		s.FinishRegister(id, failure(wire.CodeBusy, "another Register of the session is under way"), out)
		return nil, nil
	}
	return &RegisterRequest{ID: id, Message: append([]byte(nil), message...)}, nil
}

// add keeps a result in the place of the oldest one that is not under way.
func (r *registration) add(k keptResult) {
	if len(r.kept) == maxRegisters {
		oldest := 0
		if r.kept[0].cbor == nil {
			oldest = 1
		}
		r.kept = append(r.kept[:oldest], r.kept[oldest+1:]...)
	}
	r.kept = append(r.kept, k)
}

// failure returns the CBOR of a result without anything but a code and a text.
func failure(code wire.RegisterCode, text string) []byte {
	return (&wire.RegisterResult{Code: code, Error: wire.Detail(text), Remaining: wire.Unlimited}).AppendCBOR(nil)
}

// FinishRegister keeps the result of a request under way and sends it. cbor is from
// wire.RegisterResult.AppendCBOR; the session owns it from now on. FinishRegister does nothing if the session
// is closed or the request is not under way.
func (s *Session) FinishRegister(id uint32, cbor []byte, out *Output) {
	if s.closed || s.registration == nil {
		return
	}
	for i := range s.registration.kept {
		if r := &s.registration.kept[i]; r.id == id && r.cbor == nil {
			r.cbor = cbor
			s.sendResult(id, cbor, out)
		}
	}
}

// SendUnasked sends a result that answers no Register: the account of the session's client has changed.
func (s *Session) SendUnasked(cbor []byte, out *Output) {
	if !s.closed {
		s.sendResult(0, cbor, out)
	}
}

func (s *Session) sendResult(id uint32, cbor []byte, out *Output) {
	message := make([]byte, 4, 4+len(cbor))
	message[0], message[1], message[2], message[3] = byte(id), byte(id>>8), byte(id>>16), byte(id>>24)
	s.sendParts(wire.TypeRegisterResult, append(message, cbor...), out)
}

// addRegisterPart adds a part of a Register or RegisterResult and returns the message that it completes.
func (s *Session) addRegisterPart(now time.Time, content []byte, from path.Path) ([]byte, error) {
	part, err := wire.ParsePart(content)
	if err == nil && part.Count != 1 && s.isStream(from) {
		err = wire.ErrPart
	}
	if err != nil {
		return nil, err
	}
	if s.registration == nil {
		s.registration = newRegistration()
	}
	return s.registration.parts.Add(now, part)
}

func (r *registration) snapshot(c *snapshot.Codec) {
	var finished []keptResult
	for _, k := range r.kept {
		if k.cbor != nil {
			finished = append(finished, k)
		}
	}
	const least = 4 + 32 + 4
	n := c.Count(len(finished), maxRegisters, least)
	if c.Decoding() {
		finished = make([]keptResult, n)
	}
	last := uint32(0)
	for i := range finished {
		k := &finished[i]
		c.Uint32(&k.id)
		c.Check(k.id > last, "request id %d after %d", k.id, last)
		last = k.id
		c.Fixed(k.hash[:])
		c.Blob(&k.cbor, parts.MaxRegister)
		c.Check(len(k.cbor) > 0, "no result")
	}
	if c.Decoding() {
		r.kept = finished
	}
}

// Register sends a Register under the next request id and repeats it until its result arrives as an
// event of kind Registered, or CancelRegister. It takes the place of an earlier one that waits. m is not kept.
// Errors: ErrClosed, ErrNoRegistration, ErrRegisterLong.
func (s *Session) Register(now time.Time, m *wire.Register, out *Output) (id uint32, err error) {
	switch {
	case s.closed:
		return 0, ErrClosed
	case s.terms.Flags&wire.AckRegisters == 0:
		return 0, ErrNoRegistration
	}
	if s.registration == nil {
		s.registration = newRegistration()
	}
	r := s.registration
	numbered := *m
	numbered.RequestID = r.id + 1
	message := numbered.Append(nil)
	if len(message) > maxRegister {
		return 0, ErrRegisterLong
	}
	r.id, r.message, r.wait = numbered.RequestID, message, registerRetry
	r.send(now, s, out)
	s.reschedule()
	return r.id, nil
}

// CancelRegister stops the repeats of a Register. Its result, if one arrives, is ignored.
func (s *Session) CancelRegister() {
	if s.registration != nil {
		clear(s.registration.message)
		s.registration.message, s.registration.next = nil, time.Time{}
	}
}

func (r *registration) send(now time.Time, s *Session, out *Output) {
	s.sendParts(wire.TypeRegister, r.message, out)
	r.next = now.Add(r.wait)
	r.wait = min(2*r.wait, registerRetryMax)
}

func (r *registration) deadline() time.Time {
	if r == nil {
		return time.Time{}
	}
	return r.next
}

func (r *registration) tick(now time.Time, s *Session, out *Output) {
	if r != nil && r.message != nil && !now.Before(r.next) {
		r.send(now, s, out)
		s.NoteSent(now)
	}
}

// handleRegisterResult handles a part of a RegisterResult at a client.
func (s *Session) handleRegisterResult(now time.Time, content []byte, from path.Path, out *Output) error {
	message, err := s.addRegisterPart(now, content, from)
	if message == nil {
		return err
	}
	result, err := wire.ParseRegisterResult(message)
	if err != nil {
		return err
	}
	switch {
	case result.RequestID == 0:
	case s.registration.message == nil || result.RequestID != s.registration.id:
		return ErrStale
	default:
		s.CancelRegister()
		s.reschedule()
	}
	out.event(Event{Kind: Registered, Session: s, Result: &result})
	return nil
}
