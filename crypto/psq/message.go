package psq

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"lewes/crypto/identity"
	"lewes/crypto/kem"
)

// Errors of messages, for errors.Is, besides the errors of package kem.
var (
	// ErrSize means that a message, or a length field in it, has the wrong length.
	ErrSize = errors.New("PSQ message of the wrong length")

	// ErrMAC means that the initiator has another secret: it used another KEM key
	// or another transcript, or the message was damaged.
	ErrMAC = errors.New("PSQ mac is wrong")

	// ErrOpen means that the sealed part does not authenticate.
	ErrOpen = errors.New("PSQ message does not open")

	// ErrSignature means that the client in the credential did not sign the message.
	ErrSignature = errors.New("PSQ credential's signature does not verify")

	// ErrTime means that a credential's time is before 1970 or after the year
	// 9999, or has more than 999 milliseconds.
	ErrTime = errors.New("PSQ credential's time is out of range")

	// ErrHandle means that a gateway's answer belongs to another session.
	ErrHandle = errors.New("PSQ answer with another handle")
)

const tagSize = chacha20poly1305.Overhead

// Offsets in a credential, the plaintext of the initiator's message.
const (
	secondsAt      = 0
	millisAt       = secondsAt + 8
	ttlAt          = millisAt + 4
	signatureAt    = ttlAt + 16
	identityAt     = signatureAt + 64
	credentialSize = identityAt + 32
)

// ttl is the low half of the reference's lifetime of a credential in
// milliseconds. It is not checked.
const ttl = 3_600_000

// maxSeconds is the end of the year 9999.
const maxSeconds = 253_402_300_799

// appendCredential appends the plaintext of an initiator's message.
func appendCredential(dst []byte, now time.Time, signature []byte, client identity.PublicKey) ([]byte, error) {
	seconds := now.Unix()
	if seconds < 0 || seconds > maxSeconds {
		return nil, fmt.Errorf("our clock is at %v: %w", now.UTC().Format(time.RFC3339), ErrTime)
	}
	dst = binary.BigEndian.AppendUint64(dst, uint64(seconds))
	dst = binary.BigEndian.AppendUint32(dst, uint32(now.Nanosecond()/int(time.Millisecond)))
	dst = binary.BigEndian.AppendUint64(dst, 0)
	dst = binary.BigEndian.AppendUint64(dst, ttl)
	dst = append(dst, signature...)
	return append(dst, client[:]...), nil
}

// credential is the content of an initiator's message.
type credential struct {
	time      time.Time
	signature []byte
	client    identity.PublicKey
}

// parseCredential parses a plaintext of the right size; the signature aliases it.
func parseCredential(b []byte) (credential, error) {
	seconds, millis := binary.BigEndian.Uint64(b[secondsAt:]), binary.BigEndian.Uint32(b[millisAt:])
	if seconds > maxSeconds || millis >= 1000 {
		return credential{}, fmt.Errorf("%d s and %d ms: %w", seconds, millis, ErrTime)
	}
	return credential{
		time:      time.Unix(int64(seconds), int64(millis)*int64(time.Millisecond)),
		signature: b[signatureAt:identityAt],
		client:    identity.PublicKey(b[identityAt:]),
	}, nil
}

// sealedSize returns the size of tag ‖ length ‖ size sealed bytes.
func sealedSize(size int) int { return tagSize + len(appendLength(nil, size)) + size }

// InitiatorMsgSize returns the size in bytes of an initiator's message, 0 for an unsupported KEM.
func InitiatorMsgSize(id kem.ID) int {
	if !id.Supported() {
		return 0
	}
	return len(kem.AppendCiphertextTLS(nil, id, nil)) + id.CiphertextSize() + macSize + sealedSize(credentialSize)
}

// ResponderMsgSize is the size in bytes of a responder's message.
const ResponderMsgSize = tagSize + 1 + HandleSize

// initiatorMsg is a parsed initiator's message. Its slices alias the input.
type initiatorMsg struct {
	ciphertext []byte // of the KEM, raw
	encTLS     []byte // the same in its TLS form
	signed     []byte // enc' ‖ mac
	mac        []byte
	sealed     []byte // tag ‖ length ‖ sealed credential
}

// parseInitiatorMsg checks all sizes, before any cryptographic operation.
func parseInitiatorMsg(id kem.ID, msg []byte) (m initiatorMsg, err error) {
	var rest []byte
	if m.ciphertext, m.encTLS, rest, err = kem.CutCiphertextTLS(id, msg); err != nil {
		return initiatorMsg{}, err
	}
	if want := macSize + sealedSize(credentialSize); len(rest) != want {
		return initiatorMsg{}, fmt.Errorf("%d bytes after the ciphertext, not %d: %w", len(rest), want, ErrSize)
	}
	m.signed = msg[:len(m.encTLS)+macSize]
	m.mac, m.sealed = rest[:macSize], rest[macSize:]
	return m, checkSealed(m.sealed, credentialSize)
}

// checkSealed checks that b is tag ‖ length ‖ size sealed bytes, with the length
// in its shortest form.
func checkSealed(b []byte, size int) error {
	if len(b) != sealedSize(size) {
		return fmt.Errorf("%d sealed bytes, not %d: %w", len(b), sealedSize(size), ErrSize)
	}
	length := b[tagSize : len(b)-size]
	if want := appendLength(nil, size); string(length) != string(want) {
		return fmt.Errorf("its length field is %x, not %x: %w", length, want, ErrSize)
	}
	return nil
}

// appendLength appends a length below 2^14 as the shortest variable-length
// integer of QUIC (RFC 9000, section 16).
func appendLength(dst []byte, n int) []byte {
	if n < 1<<6 {
		return append(dst, byte(n))
	}
	if n > math.MaxUint16>>2 {
		panic(fmt.Sprintf("psq: length %d is too large", n))
	}
	return binary.BigEndian.AppendUint16(dst, 0x4000|uint16(n))
}
