package kkt

import (
	"fmt"

	"lewes/crypto/identity"
	"lewes/crypto/kem"
)

// RequestSize is the length of LP/2's request in bytes, without padding.
const RequestSize = contextSize + sessionSize

// SessionID names the hello that a frame belongs to: the first 16 bytes of its
// BLAKE3.
type SessionID [sessionSize]byte

// ResponseSize is the length in bytes of a response that brings a key of this
// KEM, 0 if it is not supported.
func ResponseSize(id kem.ID) int {
	if !id.Supported() {
		return 0
	}
	return contextSize + id.PublicKeySize() + sessionSize + signatureSize
}

// AppendRequest appends to dst the 23 bytes that ask for the key of a KEM.
func AppendRequest(dst []byte, id kem.ID, session SessionID) []byte {
	return appendFrame(dst, requestContext(id), nil, session, nil)
}

// ParseRequest reads a request: exactly its 23 bytes, padding cut off. It does
// not know the hello, so the caller compares KEM and session id. Errors are
// ErrSize, ErrVersion, ErrContext, ErrSuite and ErrStatus, and
// kem.ErrUnsupported for a KEM that has a number but no implementation.
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

// AppendResponse appends to dst the response to a request for the key of a KEM.
// pk is the raw public key; one of a length that is not the KEM's is an error
// of the program, and panics. The signature is one Ed25519 operation: a gateway
// makes it once a handshake record.
func AppendResponse(dst []byte, id kem.ID, pk []byte, session SessionID, signer *identity.PrivateKey) []byte {
	if !id.Supported() || len(pk) != id.PublicKeySize() {
		panic(fmt.Sprintf("kkt: %d bytes are no public key of %v", len(pk), id))
	}
	return appendFrame(dst, requestContext(id).answer(), pk, session, signer)
}

// VerifyResponse checks the whole response to a request for the key of a KEM,
// as AppendRequest makes it, and returns the key, which aliases b. It is the
// raw key, of the right length; whether it is a key at all, Encapsulate finds
// out. Errors are ErrSize, ErrVersion, ErrContext, ErrSuite, ErrSession,
// ErrSignature and, with a good signature only, a *StatusError.
func VerifyResponse(b []byte, id kem.ID, session SessionID, gateway identity.PublicKey) (pk []byte, err error) {
	f, err := verifyResponse(b, requestContext(id).answer(), session, gateway)
	if err != nil {
		return nil, fmt.Errorf("kkt: response: %w", err)
	}
	return f.body, nil
}

// verifyResponse does what is cheap first.
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
