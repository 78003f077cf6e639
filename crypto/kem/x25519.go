package kem

import (
	"fmt"

	"github.com/cloudflare/circl/dh/x25519"
)

// X25519 as libcrux uses it for a KEM: the ciphertext is an ephemeral public
// key, the secret is the raw shared point, with nothing hashed over it.
var x25519Scheme = scheme{
	seedSize:       x25519.Size,
	publicKeySize:  x25519.Size,
	ciphertextSize: x25519.Size,
	encapsSize:     x25519.Size,

	tlsPublicKey:  "\x00",
	tlsCiphertext: "\x00",
	tlsSecret:     "\x00",

	newKey: func(seed []byte) ([]byte, decapsulator) {
		k := &x25519Key{x25519.Key(seed)}
		var pk x25519.Key
		x25519.KeyGen(&pk, &k.private)
		return pk[:], k
	},

	encapsulate: func(pk, coins []byte) (ct []byte, ss [SecretSize]byte, err error) {
		ephemeral := &x25519Key{x25519.Key(coins)}
		if ss, err = ephemeral.shared(pk); err != nil {
			return nil, ss, fmt.Errorf("%w: %v", ErrPublicKey, err)
		}
		var e x25519.Key
		x25519.KeyGen(&e, &ephemeral.private)
		return e[:], ss, nil
	},
}

type x25519Key struct{ private x25519.Key }

func (k *x25519Key) decapsulate(ct []byte) (ss [SecretSize]byte, err error) {
	if ss, err = k.shared(ct); err != nil {
		return ss, fmt.Errorf("%w: %v", ErrCiphertext, err)
	}
	return ss, nil
}

func (k *x25519Key) shared(point []byte) (ss [SecretSize]byte, err error) {
	u := x25519.Key(point)
	if !usablePoint(point) || !x25519.Shared((*x25519.Key)(&ss), &k.private, &u) {
		return [SecretSize]byte{}, errWeakPoint
	}
	return ss, nil
}
