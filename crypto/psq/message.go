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

// Errors of messages, for errors.Is. They come wrapped with what was wrong.
// Those of the KEM, kem.ErrTLSForm, kem.ErrCiphertext, kem.ErrPublicKey,
// kem.ErrUnsupported and kem.ErrWiped, come through as they are.
var (
	// ErrSize says that a message, or the length that stands in it, is not the
	// one that there is.
	ErrSize = errors.New("PSQ message of the wrong length")

	// ErrMAC says that the initiator did not have the secret that we have: it
	// used another KEM key or another transcript, or the message was damaged.
	ErrMAC = errors.New("PSQ mac is wrong")

	// ErrOpen says that the sealed part does not authenticate.
	ErrOpen = errors.New("PSQ message does not open")

	// ErrSignature says that the client named in the credential did not sign
	// the message.
	ErrSignature = errors.New("PSQ credential's signature does not verify")

	// ErrTime says that a time cannot stand in a credential: it is before 1970
	// or after the year 9999, or has more than 999 milliseconds.
	ErrTime = errors.New("PSQ credential's time cannot be")

	// ErrHandle says that a gateway's answer names another session.
	ErrHandle = errors.New("PSQ answer with another handle")
)

const tagSize = chacha20poly1305.Overhead

// A credential, the plaintext of the initiator's message.
const (
	secondsAt      = 0
	millisAt       = secondsAt + 8
	ttlAt          = millisAt + 4
	signatureAt    = ttlAt + 16
	identityAt     = signatureAt + 64
	credentialSize = identityAt + 32
)

// ttl is what the reference writes for how long a credential is good; its low
// 64 bits. Nobody looks at it.
const ttl = 3_600_000

// maxSeconds is the end of the year 9999.
const maxSeconds = 253_402_300_799

// appendCredential appends the plaintext of an initiator's message.
func appendCredential(dst []byte, now time.Time, signature []byte, client identity.PublicKey) ([]byte, error) {
	seconds := now.Unix()
	if seconds < 0 || seconds > maxSeconds {
		return nil, fmt.Errorf("our clock says %v: %w", now.UTC().Format(time.RFC3339), ErrTime)
	}
	dst = binary.BigEndian.AppendUint64(dst, uint64(seconds))
	dst = binary.BigEndian.AppendUint32(dst, uint32(now.Nanosecond()/int(time.Millisecond)))
	dst = binary.BigEndian.AppendUint64(dst, 0)
	dst = binary.BigEndian.AppendUint64(dst, ttl)
	dst = append(dst, signature...)
	return append(dst, client[:]...), nil
}

// credential is what an initiator's message holds.
type credential struct {
	time      time.Time
	signature []byte
	client    identity.PublicKey
}

// parseCredential reads a plaintext of the right size; the signature aliases it.
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

// sealedSize is the size of tag ‖ length ‖ sealed plaintext of size bytes.
func sealedSize(size int) int { return tagSize + lengthSize(size) + size }

// InitiatorMsgSize returns the size in bytes of an initiator's message, 0 for a
// KEM that is not supported.
func InitiatorMsgSize(id kem.ID) int {
	if !id.Supported() {
		return 0
	}
	return len(kem.AppendCiphertextTLS(nil, id, nil)) + id.CiphertextSize() + macSize + sealedSize(credentialSize)
}

// ResponderMsgSize is the size in bytes of a responder's message.
const ResponderMsgSize = tagSize + 1 + HandleSize

// initiatorMsg is an initiator's message cut into its parts, which alias it.
type initiatorMsg struct {
	ciphertext []byte // of the KEM, raw
	encTLS     []byte // the same in its TLS form
	signed     []byte // enc' ‖ mac
	mac        []byte
	sealed     []byte // tag ‖ length ‖ sealed credential
}

// parseInitiatorMsg checks every size there is before anything is computed.
func parseInitiatorMsg(id kem.ID, msg []byte) (m initiatorMsg, err error) {
	var rest []byte
	if m.ciphertext, m.encTLS, rest, err = kem.CutCiphertextTLS(id, msg); err != nil {
		return initiatorMsg{}, err
	}
	if want := macSize + sealedSize(credentialSize); len(rest) != want {
		return initiatorMsg{}, fmt.Errorf("%d bytes behind the KEM's, not %d: %w", len(rest), want, ErrSize)
	}
	m.signed = msg[:len(m.encTLS)+macSize]
	m.mac, m.sealed = rest[:macSize], rest[macSize:]
	return m, checkSealed(m.sealed, credentialSize)
}

// checkSealed checks that b is tag ‖ length ‖ size sealed bytes, the length in
// its only form.
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

// appendLength appends a length below 2^14 as QUIC writes numbers (RFC 9000,
// section 16), in its shortest form.
func appendLength(dst []byte, n int) []byte {
	if n < 1<<6 {
		return append(dst, byte(n))
	}
	if n > math.MaxUint16>>2 {
		panic(fmt.Sprintf("psq: a part of %d bytes", n))
	}
	return binary.BigEndian.AppendUint16(dst, 0x4000|uint16(n))
}

func lengthSize(n int) int {
	if n < 1<<6 {
		return 1
	}
	return 2
}
