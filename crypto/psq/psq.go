package psq

import (
	"crypto/hmac"
	"crypto/subtle"
	"fmt"
	"io"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/crypto/wipe"
)

// Initiate makes the client's message to the gateway whose KEM public key is
// pk, InitiatorMsgSize bytes, and the secrets that it stands for. sctx is the
// transcript, and now goes into the credential with a millisecond's precision.
// Randomness is drawn for one encapsulation.
//
// The errors are ErrTime for a clock outside of what a credential can say, and
// those of kem.Encapsulate.
func Initiate(id kem.ID, pk, sctx []byte, client *identity.PrivateKey, now time.Time, rand io.Reader) ([]byte, *Secrets, error) {
	ct, ss, err := kem.Encapsulate(id, pk, rand)
	if err != nil {
		return nil, nil, fmt.Errorf("psq: initiating: %w", err)
	}
	defer wipe.Bytes(ss[:])
	msg, s, err := initiate(id, pk, ct, &ss, sctx, client, now)
	if err != nil {
		return nil, nil, fmt.Errorf("psq: initiating: %w", err)
	}
	return msg, s, nil
}

// initiate is Initiate behind the encapsulation.
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

// Opened is what a gateway learns from a client's message.
type Opened struct {
	// Client signed the message. Nothing is done in its name before Noise has
	// shown that it is here now.
	Client identity.PublicKey

	// Time is when the client says it made the message, by its own clock.
	// Whether that is near enough is for the caller to judge.
	Time time.Time

	// Secrets belong to the caller, who wipes them.
	Secrets *Secrets
}

// Respond opens a client's message that was made for the key pair and the
// transcript sctx. It checks all sizes first, then spends one decapsulation,
// and one signature verification on a message whose mac and seal hold. It does
// not judge the time. It keeps nothing of msg, which may be any bytes at all.
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
	defer wipe.Bytes(ss[:])
	opened, err := m.open(kp.ID(), kp.Public(), &ss, sctx)
	if err != nil {
		return nil, fmt.Errorf("psq: responding: %w", err)
	}
	return opened, nil
}

// open is Respond behind the decapsulation.
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
	defer wipe.Bytes(plaintext)
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
// dst. It is the same each time it is made.
func (s *Secrets) AppendResponderMsg(dst []byte) []byte {
	handle := s.Handle()
	return s.appendAnswer(dst, handle[:])
}

func (s *Secrets) appendAnswer(dst, handle []byte) []byte {
	seal := s.sealer(toInitiator)
	defer seal.wipe()
	return seal.append(dst, handle)
}

// OpenResponderMsg checks that msg is the gateway's answer to the message that
// made these secrets. The errors are ErrSize, ErrOpen and ErrHandle.
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
