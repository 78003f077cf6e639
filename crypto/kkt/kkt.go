package kkt

import (
	"crypto/subtle"
	"fmt"

	"github.com/zeebo/blake3"

	"lewes/crypto/identity"
	"lewes/crypto/kem"
)

// SessionID is the first 16 bytes of the BLAKE3 of the hello that a frame belongs to.
type SessionID [sessionSize]byte

// AppendRequest appends the 23-byte request for the key of a KEM to dst.
func AppendRequest(dst []byte, id kem.ID, session SessionID) []byte {
	return appendFrame(dst, requestContext(id), nil, session, nil)
}

// ParseRequest parses a request: exactly its 23 bytes, without padding. The caller compares KEM and
// session id with the hello. Errors are ErrSize, ErrVersion, ErrContext, ErrSuite and ErrStatus,
// and kem.ErrUnsupported for a KEM that has a number but no implementation.
func ParseRequest(b []byte) (id kem.ID, session SessionID, err error) {
	f, err := parseRequest(b)
	if err != nil {
		return 0, SessionID{}, fmt.Errorf("kkt: request: %w", err)
	}
	return f.context.kem, f.session, nil
}

func parseRequest(b []byte) (frame, error) {
	c, err := parseContext(b)
	if err != nil {
		return frame{}, err
	}
	if err := c.expect(requestContext(c.kem)); err != nil {
		return frame{}, err
	}
	if !c.kem.Supported() {
		return frame{}, fmt.Errorf("%v: %w", c.kem, kem.ErrUnsupported)
	}
	return parseFrame(b)
}

// ResponseSize returns the length of a response with the key of a KEM, in bytes.
func ResponseSize(id kem.ID) int {
	return contextSize + id.PublicKeySize() + sessionSize + signatureSize
}

// AppendResponse appends the response to a request for the key of a KEM to dst. pk is the raw
// public key; AppendResponse panics if it has the wrong length for the KEM. The signature is one
// Ed25519 operation, which a gateway makes once per handshake attempt.
func AppendResponse(dst []byte, id kem.ID, pk []byte, session SessionID, signer *identity.PrivateKey) []byte {
	if !id.Supported() || len(pk) != id.PublicKeySize() {
		panic(fmt.Sprintf("kkt: %d bytes are no public key of %v", len(pk), id))
	}
	return appendFrame(dst, requestContext(id).answer(), pk, session, signer)
}

// VerifyResponse checks a response to AppendRequest and returns the raw key, which aliases b and
// has the right length; kem.Encapsulate checks its encoding. Errors are ErrSize, ErrVersion,
// ErrContext, ErrSuite, ErrSession, ErrSignature and, only with a valid signature, a *StatusError.
func VerifyResponse(b []byte, id kem.ID, session SessionID, gateway identity.PublicKey) (pk []byte, err error) {
	f, err := verifyResponse(b, requestContext(id).answer(), session, gateway)
	if err != nil {
		return nil, fmt.Errorf("kkt: response: %w", err)
	}
	return f.body, nil
}

// verifyResponse makes the cheap checks first.
func verifyResponse(b []byte, want context, session SessionID, gateway identity.PublicKey) (frame, error) {
	f, err := parseFrame(b)
	if err != nil {
		return frame{}, err
	}
	status := f.context.status
	want.status = status
	if err := f.context.expect(want); err != nil {
		return frame{}, err
	}
	if f.session != session {
		return frame{}, ErrSession
	}
	if err := f.verify(gateway); err != nil {
		return frame{}, err
	}
	if status != StatusOK {
		return frame{}, &StatusError{status}
	}
	return f, nil
}

// VerifyPin compares the BLAKE3 of a gateway's KEM public key with the 32-byte
// hash that the client has pinned. A pin of another length gives ErrPin too.
func VerifyPin(pk, pin []byte) error {
	sum := blake3.Sum256(pk)
	if subtle.ConstantTimeCompare(sum[:], pin) != 1 {
		return fmt.Errorf("kkt: its hash is %x: %w", sum, ErrPin)
	}
	return nil
}

// frame is a parsed frame. Its slices alias the input.
type frame struct {
	context   context
	body      []byte
	session   SessionID
	signed    []byte // everything before the signature
	signature []byte // empty in an anonymous request
}

// appendFrame appends a frame, signed unless signer is nil.
func appendFrame(dst []byte, c context, body []byte, session SessionID, signer *identity.PrivateKey) []byte {
	start := len(dst)
	dst = c.append(dst)
	dst = append(dst, body...)
	dst = append(dst, session[:]...)
	if signer == nil {
		return dst
	}
	return append(dst, signer.Sign(dst[start:])...)
}

// parseFrame parses a frame with a context that KKT allows. It verifies nothing.
func parseFrame(b []byte) (frame, error) {
	c, err := parseContext(b)
	if err != nil {
		return frame{}, err
	}
	body, err := c.bodySize()
	if err != nil {
		return frame{}, err
	}
	signed := contextSize + body + sessionSize
	if want := signed + c.signatureSize(); len(b) != want {
		return frame{}, fmt.Errorf("%d bytes, not %d: %w", len(b), want, ErrSize)
	}
	return frame{
		context:   c,
		body:      b[contextSize : contextSize+body : contextSize+body],
		session:   SessionID(b[contextSize+body:]),
		signed:    b[:signed],
		signature: b[signed:],
	}, nil
}

// verify checks the signature over the received bytes.
func (f *frame) verify(signer identity.PublicKey) error {
	if !signer.Verify(f.signed, f.signature) {
		return fmt.Errorf("by %v: %w", signer, ErrSignature)
	}
	return nil
}
