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

// Secrets is what both ends get from one exchange. The owner wipes it.
type Secrets struct {
	// KPQ is k_pq, from which the first subsession seed is made.
	KPQ [32]byte

	// PSK is psq_psk, which goes into Noise's preshared key.
	PSK [32]byte
}

// Handle returns the name of this session in the logs of both ends. It gives
// nothing away about the secrets.
func (s *Secrets) Handle() [HandleSize]byte {
	h := kdf.DeriveKey("lewes/2 handle", s.KPQ[:])
	return [HandleSize]byte(h[:])
}

// Wipe overwrites the secrets.
func (s *Secrets) Wipe() { *s = Secrets{} }

// Format keeps the secrets out of whatever prints the value.
func (Secrets) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "psq.Secrets(redacted)") }

const macSize = sha256.Size

// schedule derives everything from the shared secret of the KEM: the secrets,
// and the mac by which the initiator shows that it has them.
//
// The first key is made from the TLS form of the shared secret cut to 32 bytes,
// so one byte of the form and 31 of the secret, as the reference does.
func schedule(id kem.ID, ss *[kem.SecretSize]byte, pk, encTLS, sctx []byte) (*Secrets, [macSize]byte) {
	form := kem.AppendSecretTLS(make([]byte, 0, kem.SecretSize+1), id, ss)
	defer wipe.Bytes(form)
	info := kem.AppendPublicKeyTLS(nil, id, pk)
	info = append(info, encTLS...)
	info = append(info, sctx...)

	k0 := expand(form[:sha256.Size], string(info), sha256.Size)
	defer wipe.Bytes(k0)
	s := new(Secrets)
	s.expandInto(&s.KPQ, k0, "PSK")
	s.expandInto(&s.PSK, s.KPQ[:], "PSK-Registration")

	km := expand(k0, "Confirmation", sha256.Size)
	defer wipe.Bytes(km)
	h := hmac.New(sha256.New, km)
	_, _ = h.Write([]byte("MAC-Input")) // a hash.Hash never fails
	return s, [macSize]byte(h.Sum(nil))
}

func (s *Secrets) expandInto(out *[32]byte, key []byte, info string) {
	b := expand(key, info, len(out))
	copy(out[:], b)
	wipe.Bytes(b)
}

// sealer is one direction's AEAD and its nonce, good for one message.
type sealer struct {
	aead  cipher.AEAD
	nonce [chacha20poly1305.NonceSize]byte
}

// Labels of the two directions.
const (
	toResponder = "AEAD-Initiator-Responder"
	toInitiator = "AEAD-Responder-Initiator"
)

// sealer makes the AEAD of a direction. The caller wipes it.
func (s *Secrets) sealer(direction string) *sealer {
	b := expand(s.KPQ[:], direction, chacha20poly1305.KeySize+chacha20poly1305.NonceSize)
	defer wipe.Bytes(b)
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

// append appends tag ‖ length ‖ sealed plaintext. The plaintext is shorter than
// 2^14 bytes.
func (s *sealer) append(dst, plaintext []byte) []byte {
	sealed := s.aead.Seal(make([]byte, 0, len(plaintext)+tagSize), s.nonce[:], plaintext, nil)
	dst = append(dst, sealed[len(plaintext):]...)
	dst = appendLength(dst, len(plaintext))
	return append(dst, sealed[:len(plaintext)]...)
}

// open opens tag ‖ length ‖ sealed plaintext, where the plaintext has to be of
// a certain size and nothing may follow. The plaintext is the caller's.
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

// expand is HKDF-Expand with SHA-256. There is no extract step in PSQ.
func expand(key []byte, info string, size int) []byte {
	b, err := hkdf.Expand(sha256.New, key, info, size)
	if err != nil {
		panic("psq: HKDF refused 32 bytes of key: " + err.Error())
	}
	return b
}
