package registrar

import (
	"crypto/cipher"
	"crypto/rand"
	"errors"

	"golang.org/x/crypto/chacha20poly1305"

	"lewes/crypto/identity"
	"lewes/state/ledger"
)

// sealer seals the preshared keys in the ledger, each for its account and WireGuard key.
type sealer struct{ aead cipher.AEAD }

// newSealer copies the key.
func newSealer(key *[32]byte) sealer {
	aead, err := chacha20poly1305.NewX(key[:])
	if err != nil {
		panic("registrar: " + err.Error()) // the size is constant
	}
	return sealer{aead}
}

func (s sealer) seal(client identity.PublicKey, key, psk *[32]byte) []byte {
	nonce := make([]byte, s.aead.NonceSize(), s.aead.NonceSize()+len(psk)+s.aead.Overhead())
	_, _ = rand.Read(nonce) // never fails
	return s.aead.Seal(nonce, nonce, psk[:], append(client[:], key[:]...))
}

var errSealed = errors.New("registrar: cannot open a sealed preshared key")

// open returns the peer of an attachment with its preshared key.
func (s sealer) open(client identity.PublicKey, a *ledger.Attachment) (p Peer, err error) {
	p = peerOf(client, a)
	n := s.aead.NonceSize()
	if len(a.PSK) < n {
		return p, errSealed
	}
	psk, err := s.aead.Open(p.PSK[:0], a.PSK[:n], a.PSK[n:], append(client[:], a.WireGuardKey[:]...))
	if err != nil || len(psk) != len(p.PSK) {
		return p, errSealed
	}
	return p, nil
}
