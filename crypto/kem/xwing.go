package kem

import (
	"fmt"

	"github.com/cloudflare/circl/kem/mlkem/mlkem768"
	"github.com/cloudflare/circl/kem/xwing"
)

// X-Wing of draft-connolly-cfrg-xwing-kem: ML-KEM-768, then X25519, in keys
// and ciphertexts. The randomness of an encapsulation is m ‖ the ephemeral
// scalar.
var xwingScheme = scheme{
	seedSize:       xwing.SeedSize,
	publicKeySize:  xwing.PublicKeySize,
	ciphertextSize: xwing.CiphertextSize,
	encapsSize:     xwing.EncapsulationSeedSize,

	tlsPublicKey:  "\x05\x44\xa0",
	tlsCiphertext: "\x05\x44\x40",
	tlsSecret:     "\x05",

	newKey: func(seed []byte) ([]byte, decapsulator) {
		private, public := xwing.DeriveKeyPair(seed)
		pk := make([]byte, xwing.PublicKeySize)
		public.Pack(pk)
		return pk, &xwingKey{private}
	},

	encapsulate: func(pk, coins []byte) (ct []byte, ss [SecretSize]byte, err error) {
		if !usablePoint(pk[mlkem768.PublicKeySize:]) {
			return nil, ss, fmt.Errorf("%w: its X25519 part is weak", ErrPublicKey)
		}
		var public xwing.PublicKey
		if err := public.Unpack(pk); err != nil {
			return nil, ss, fmt.Errorf("%w: its ML-KEM part is not reduced", ErrPublicKey)
		}
		ct = make([]byte, xwing.CiphertextSize)
		public.EncapsulateTo(ct, ss[:], coins)
		return ct, ss, nil
	},
}

type xwingKey struct{ private *xwing.PrivateKey }

func (k *xwingKey) decapsulate(ct []byte) (ss [SecretSize]byte, err error) {
	if !usablePoint(ct[mlkem768.CiphertextSize:]) {
		return ss, fmt.Errorf("%w: its X25519 part is weak", ErrCiphertext)
	}
	k.private.DecapsulateTo(ss[:], ct)
	return ss, nil
}
