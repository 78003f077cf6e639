package psq

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"io"

	"golang.org/x/crypto/chacha20poly1305"

	"lewes/crypto/kdf"
	"lewes/crypto/kem"
	"lewes/crypto/wipe"
)

// HandleSize is the length in bytes of a session's handle.
const HandleSize = 16

// Secrets are the results of one exchange, equal at both ends. The owner wipes them.
type Secrets struct {
	// KPQ is k_pq, the source of the first subsession seed.
	KPQ [32]byte

	// PSK is psq_psk, an input of Noise's preshared key.
	PSK [32]byte
}

// Handle returns the identifier of this session in the logs of both ends. It
// reveals nothing about the secrets.
func (s *Secrets) Handle() [HandleSize]byte {
	h := kdf.DeriveKey("lewes/2 handle", s.KPQ[:])
	return [HandleSize]byte(h[:])
}

// Wipe overwrites the secrets.
func (s *Secrets) Wipe() { *s = Secrets{} }

// Format writes a fixed text for every verb, so that secrets are never printed.
func (Secrets) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "psq.Secrets(redacted)") }

const macSize = sha256.Size

// schedule derives the secrets from the KEM's shared secret, and the mac with
// which the initiator proves that it has them.
//
// The first key is derived from the first 32 bytes of the TLS form of the shared
// secret, one byte of the form and 31 of the secret, as in the reference.
func schedule(id kem.ID, ss *[kem.SecretSize]byte, pk, encTLS, sctx []byte) (*Secrets, [macSize]byte) {
	form := kem.AppendSecretTLS(make([]byte, 0, kem.SecretSize+1), id, ss)
	defer clear(form)
	info := kem.AppendPublicKeyTLS(nil, id, pk)
	info = append(info, encTLS...)
	info = append(info, sctx...)

	k0 := expand(form[:sha256.Size], string(info), sha256.Size)
	defer clear(k0)
	s := new(Secrets)
	s.expandInto(&s.KPQ, k0, "PSK")
	s.expandInto(&s.PSK, s.KPQ[:], "PSK-Registration")

	km := expand(k0, "Confirmation", sha256.Size)
	defer clear(km)
	h := hmac.New(sha256.New, km)
	_, _ = h.Write([]byte("MAC-Input")) // a hash.Hash never fails
	return s, [macSize]byte(h.Sum(nil))
}

func (s *Secrets) expandInto(out *[32]byte, key []byte, info string) {
	b := expand(key, info, len(out))
	copy(out[:], b)
	clear(b)
}

// sealer is one direction's AEAD and nonce, for a single message.
type sealer struct {
	aead  cipher.AEAD
	nonce [chacha20poly1305.NonceSize]byte
}

// Labels of the two directions.
const (
	toResponder = "AEAD-Initiator-Responder"
	toInitiator = "AEAD-Responder-Initiator"
)

// sealer returns the sealer of a direction. The caller wipes it.
func (s *Secrets) sealer(direction string) *sealer {
	b := expand(s.KPQ[:], direction, chacha20poly1305.KeySize+chacha20poly1305.NonceSize)
	defer clear(b)
	aead, err := chacha20poly1305.New(b[:chacha20poly1305.KeySize])
	if err != nil {
		panic("psq: ChaCha20-Poly1305 refused a key of 32 bytes: " + err.Error())
	}
	return &sealer{aead, [chacha20poly1305.NonceSize]byte(b[chacha20poly1305.KeySize:])}
}

func (s *sealer) wipe() {
	wipe.Deep(s.aead)
	clear(s.nonce[:])
}

// append appends tag ‖ length ‖ sealed plaintext. The plaintext must be shorter than 2^14 bytes.
func (s *sealer) append(dst, plaintext []byte) []byte {
	sealed := s.aead.Seal(make([]byte, 0, len(plaintext)+tagSize), s.nonce[:], plaintext, nil)
	dst = append(dst, sealed[len(plaintext):]...)
	dst = appendLength(dst, len(plaintext))
	return append(dst, sealed[:len(plaintext)]...)
}

// open opens tag ‖ length ‖ sealed plaintext. The plaintext must have exactly
// size bytes; the caller owns it.
func (s *sealer) open(b []byte, size int) ([]byte, error) {
	if err := checkSealed(b, size); err != nil {
		return nil, err
	}
	sealed := make([]byte, 0, size+tagSize)
	sealed = append(sealed, b[len(b)-size:]...)
	sealed = append(sealed, b[:tagSize]...)
	plaintext, err := s.aead.Open(sealed[:0], s.nonce[:], sealed, nil)
	if err != nil {
		return nil, ErrOpen
	}
	return plaintext, nil
}

// expand is HKDF-Expand with SHA-256. PSQ has no extract step.
func expand(key []byte, info string, size int) []byte {
	b, err := hkdf.Expand(sha256.New, key, info, size)
	if err != nil {
		panic("psq: HKDF refused 32 bytes of key: " + err.Error())
	}
	return b
}
