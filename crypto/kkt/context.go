package kkt

import (
	"errors"
	"fmt"

	"lewes/crypto/kem"
)

// Errors of frames, for errors.Is.
var (
	// ErrSize means that a frame's length does not match its context.
	ErrSize = errors.New("KKT frame of the wrong length")

	// ErrVersion means that a frame is not of KKT version 1.
	ErrVersion = errors.New("unknown KKT version")

	// ErrContext means that a role, mode, sequence or reserved byte is undefined,
	// or not the one that LP/2 uses.
	ErrContext = errors.New("KKT context not allowed here")

	// ErrSuite means that the KEM, hash, hash length or signature scheme is
	// unknown, or not the requested one.
	ErrSuite = errors.New("KKT cipher suite not allowed here")

	// ErrStatus means that the frame reports a failure and contains no key. A
	// response returns it as a *StatusError.
	ErrStatus = errors.New("KKT frame with a status")

	// ErrSession means that a response belongs to another hello.
	ErrSession = errors.New("KKT response to another hello")

	// ErrSignature means that the gateway did not sign this frame.
	ErrSignature = errors.New("KKT signature does not verify")

	// ErrPin means that a KEM public key is not the pinned one.
	ErrPin = errors.New("KEM public key is not the pinned one")
)

const (
	version = 1

	contextSize   = 7
	sessionSize   = 16
	signatureSize = 64

	defaultHashLength = 32
	minHashLength     = 16

	ed25519Scheme = 0 // the only signature scheme of KKT
)

// role is the sender's part in the exchange.
type role uint8

const (
	initiator role = iota
	responder
	anonymous // an initiator that does not sign
)

// mode selects the keys that are transferred.
type mode uint8

const (
	oneWay mode = iota // the responder's
	mutual             // both
)

// Status is a frame's answer to the previous frame.
type Status uint8

// The statuses of KKT. LP/2 uses StatusOK only.
const (
	StatusOK Status = iota
	StatusBadRequest
	StatusBadResponse
	StatusBadSignature
	StatusUnsupportedSuite
	StatusUnsupportedVersion
	StatusInvalidKey
	StatusTimeout
)

var statusNames = [...]string{
	"ok", "bad request", "bad response", "bad signature",
	"unsupported cipher suite", "unsupported version", "invalid key", "timeout",
}

// String returns the status in words.
func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return fmt.Sprintf("status %d", uint8(s))
}

// StatusError is a response with a valid signature and a failure status. It matches ErrStatus.
type StatusError struct{ Status Status }

func (e *StatusError) Error() string { return "the gateway answered KKT with: " + e.Status.String() }

// Is reports whether target is ErrStatus.
func (e *StatusError) Is(target error) bool { return target == ErrStatus }

// Hash functions of a KEM public key. LP/2 uses BLAKE3 only.
const (
	hashBLAKE3   = 0
	hashSHAKE256 = 1
	hashSHAKE128 = 2
	hashSHA3     = 3 // SHA3-256; SHA256 in the reference
)

// context is the first part of a frame. It has one encoding: two contexts are
// equal if and only if their bytes are.
type context struct {
	sequence   uint8
	status     Status
	mode       mode
	role       role
	kem        kem.ID
	hash       uint8
	hashLength uint8 // in bytes; 0 on the wire is 32 here
}

// requestContext returns the context of LP/2's request.
func requestContext(id kem.ID) context {
	return context{role: anonymous, mode: oneWay, kem: id, hash: hashBLAKE3, hashLength: defaultHashLength}
}

// answer returns the context of the response to a request with context c.
func (c context) answer() context {
	c.sequence++
	c.role = responder
	return c
}

func (c context) append(dst []byte) []byte {
	length := c.hashLength
	if length == defaultHashLength {
		length = 0
	}
	return append(dst,
		version<<4|c.sequence,
		uint8(c.status)<<5|uint8(c.mode)<<2|uint8(c.role),
		uint8(c.kem), c.hash, length, ed25519Scheme,
		0)
}

// parseContext parses a context that KKT allows, including those that LP/2 does not use.
func parseContext(b []byte) (context, error) {
	if len(b) < contextSize {
		return context{}, fmt.Errorf("%d bytes: %w", len(b), ErrSize)
	}
	if v := b[0] >> 4; v != version {
		return context{}, fmt.Errorf("version %d: %w", v, ErrVersion)
	}
	c := context{
		sequence:   b[0] & 0x0f,
		status:     Status(b[1] >> 5),
		mode:       mode(b[1] >> 2 & 7),
		role:       role(b[1] & 3),
		kem:        kem.ID(b[2]),
		hash:       b[3],
		hashLength: b[4],
	}
	switch {
	case c.role > anonymous:
		return context{}, fmt.Errorf("role %d: %w", c.role, ErrContext)
	case c.mode > mutual:
		return context{}, fmt.Errorf("mode %d: %w", c.mode, ErrContext)
	case c.role == anonymous && c.mode == mutual:
		return context{}, fmt.Errorf("anonymous and mutual: %w", ErrContext)
	case b[6] != 0:
		return context{}, fmt.Errorf("reserved byte %d: %w", b[6], ErrContext)
	case !knownKEM(c.kem):
		return context{}, fmt.Errorf("%v: %w", c.kem, ErrSuite)
	case c.hash > hashSHA3:
		return context{}, fmt.Errorf("hash %d: %w", c.hash, ErrSuite)
	case c.hashLength == defaultHashLength:
		return context{}, fmt.Errorf("hash length 32, which is written 0: %w", ErrSuite)
	case c.hashLength != 0 && c.hashLength < minHashLength:
		return context{}, fmt.Errorf("hash length %d: %w", c.hashLength, ErrSuite)
	case b[5] != ed25519Scheme:
		return context{}, fmt.Errorf("signature scheme %d: %w", b[5], ErrSuite)
	}
	if c.hashLength == 0 {
		c.hashLength = defaultHashLength
	}
	return c, nil
}

func knownKEM(id kem.ID) bool { return id.Supported() || id == kem.McEliece }

// expect returns an error unless c equals want.
func (c context) expect(want context) error {
	switch {
	case c.role != want.role:
		return fmt.Errorf("role %d, not %d: %w", c.role, want.role, ErrContext)
	case c.mode != want.mode:
		return fmt.Errorf("mode %d, not %d: %w", c.mode, want.mode, ErrContext)
	case c.sequence != want.sequence:
		return fmt.Errorf("sequence %d, not %d: %w", c.sequence, want.sequence, ErrContext)
	case c.kem != want.kem:
		return fmt.Errorf("%v, not %v: %w", c.kem, want.kem, ErrSuite)
	case c.hash != want.hash:
		return fmt.Errorf("hash %d, not %d: %w", c.hash, want.hash, ErrSuite)
	case c.hashLength != want.hashLength:
		return fmt.Errorf("hash length %d, not %d: %w", c.hashLength, want.hashLength, ErrSuite)
	case c.status != want.status:
		return fmt.Errorf("status %q: %w", c.status, ErrStatus)
	}
	return nil
}

// bodySize returns the length of the body of a frame with this context: that of
// a key, or 0 if the sender transfers none.
func (c context) bodySize() (int, error) {
	hasKey := c.role == responder && c.status == StatusOK || c.role == initiator && c.mode == mutual
	if !hasKey {
		return 0, nil
	}
	if !c.kem.Supported() {
		return 0, fmt.Errorf("%v: %w", c.kem, kem.ErrUnsupported)
	}
	return c.kem.PublicKeySize(), nil
}

func (c context) signatureSize() int {
	if c.role == anonymous {
		return 0
	}
	return signatureSize
}
