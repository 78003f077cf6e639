package psq

import (
	"crypto/hmac"
	"crypto/subtle"
	"fmt"
	"io"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/kem"
)

// Initiate returns the client's message to the gateway with KEM public key pk, InitiatorMsgSize
// bytes, and the resulting secrets. sctx is the transcript; now goes into the credential with
// millisecond precision. rand serves one encapsulation.
//
// The errors are ErrTime for a clock outside the range of a credential, and those
// of kem.Encapsulate.
func Initiate(id kem.ID, pk, sctx []byte, client *identity.PrivateKey, now time.Time, rand io.Reader) ([]byte, *Secrets, error) {
	ct, ss, err := kem.Encapsulate(id, pk, rand)
	if err != nil {
		return nil, nil, fmt.Errorf("psq: initiating: %w", err)
	}
	defer clear(ss[:])
	msg, s, err := initiate(id, pk, ct, &ss, sctx, client, now)
	if err != nil {
		return nil, nil, fmt.Errorf("psq: initiating: %w", err)
	}
	return msg, s, nil
}

// initiate is Initiate after the encapsulation.
func initiate(id kem.ID, pk, ct []byte, ss *[kem.SecretSize]byte, sctx []byte, client *identity.PrivateKey, now time.Time) ([]byte, *Secrets, error) {
	msg := kem.AppendCiphertextTLS(make([]byte, 0, InitiatorMsgSize(id)), id, ct)
	s, mac := schedule(id, ss, pk, msg, sctx)
	msg = append(msg, mac[:]...)

	plaintext, err := appendCredential(make([]byte, 0, credentialSize), now, client.Sign(msg), client.Public())
	if err != nil {
		s.Wipe()
		return nil, nil, err
	}
	seal := s.sealer(toResponder)
	defer seal.wipe()
	return seal.append(msg, plaintext), s, nil
}

// Opened is the content of a client's message.
type Opened struct {
	// Client signed the message, which may be a replay: only the rest of the
	// handshake proves that the client is present.
	Client identity.PublicKey

	// Time is the creation time by the client's clock. The caller checks it.
	Time time.Time

	// Secrets are to be wiped by the caller.
	Secrets *Secrets
}

// Respond opens a client's message for the key pair and the transcript sctx. It checks all sizes
// first, then makes one decapsulation and, if mac and seal are valid, one signature verification.
// It does not check the time, and keeps no reference to msg.
//
// The errors are ErrSize, ErrMAC, ErrOpen, ErrTime, ErrSignature, and those of
// kem: ErrTLSForm, ErrCiphertext, ErrWiped.
func Respond(kp *kem.KeyPair, sctx, msg []byte) (*Opened, error) {
	m, err := parseInitiatorMsg(kp.ID(), msg)
	if err != nil {
		return nil, fmt.Errorf("psq: responding: %w", err)
	}
	ss, err := kp.Decapsulate(m.ciphertext)
	if err != nil {
		return nil, fmt.Errorf("psq: responding: %w", err)
	}
	defer clear(ss[:])
	opened, err := m.open(kp.ID(), kp.Public(), &ss, sctx)
	if err != nil {
		return nil, fmt.Errorf("psq: responding: %w", err)
	}
	return opened, nil
}

// open is Respond after the decapsulation.
func (m *initiatorMsg) open(id kem.ID, pk []byte, ss *[kem.SecretSize]byte, sctx []byte) (*Opened, error) {
	s, mac := schedule(id, ss, pk, m.encTLS, sctx)
	opened, err := m.check(s, &mac)
	if err != nil {
		s.Wipe()
		return nil, err
	}
	return opened, nil
}

func (m *initiatorMsg) check(s *Secrets, mac *[macSize]byte) (*Opened, error) {
	if !hmac.Equal(mac[:], m.mac) {
		return nil, ErrMAC
	}
	seal := s.sealer(toResponder)
	defer seal.wipe()
	plaintext, err := seal.open(m.sealed, credentialSize)
	if err != nil {
		return nil, err
	}
	defer clear(plaintext)
	c, err := parseCredential(plaintext)
	if err != nil {
		return nil, err
	}
	if !c.client.Verify(m.signed, c.signature) {
		return nil, fmt.Errorf("by %v: %w", c.client, ErrSignature)
	}
	return &Opened{Client: c.client, Time: c.time, Secrets: s}, nil
}

// AppendResponderMsg appends the gateway's answer, ResponderMsgSize bytes, to
// dst. It is deterministic.
func (s *Secrets) AppendResponderMsg(dst []byte) []byte {
	handle := s.Handle()
	return s.appendAnswer(dst, handle[:])
}

func (s *Secrets) appendAnswer(dst, handle []byte) []byte {
	seal := s.sealer(toInitiator)
	defer seal.wipe()
	return seal.append(dst, handle)
}

// OpenResponderMsg checks that msg is the gateway's answer to the message of
// these secrets. The errors are ErrSize, ErrOpen and ErrHandle.
func (s *Secrets) OpenResponderMsg(msg []byte) error {
	got, err := s.openAnswer(msg, HandleSize)
	if err != nil {
		return fmt.Errorf("psq: the gateway's answer: %w", err)
	}
	want := s.Handle()
	if subtle.ConstantTimeCompare(got, want[:]) != 1 {
		return fmt.Errorf("psq: the gateway's answer: %x, not %x: %w", got, want, ErrHandle)
	}
	return nil
}

func (s *Secrets) openAnswer(msg []byte, size int) ([]byte, error) {
	seal := s.sealer(toInitiator)
	defer seal.wipe()
	return seal.open(msg, size)
}
