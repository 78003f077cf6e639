package kem

import (
	"fmt"

	"github.com/cloudflare/circl/kem/mlkem/mlkem768"
)

// ML-KEM-768 of FIPS 203. A seed is d ‖ z; the randomness of an encapsulation
// is m.
var mlkem768Scheme = scheme{
	seedSize:       mlkem768.KeySeedSize,
	publicKeySize:  mlkem768.PublicKeySize,
	ciphertextSize: mlkem768.CiphertextSize,
	encapsSize:     mlkem768.EncapsulationSeedSize,

	tlsPublicKey:  "\x03\x44\xa0",
	tlsCiphertext: "\x03\x44\x40",
	tlsSecret:     "\x03",

	newKey: func(seed []byte) ([]byte, decapsulator) {
		public, private := mlkem768.NewKeyFromSeed(seed)
		pk := make([]byte, mlkem768.PublicKeySize)
		public.Pack(pk)
		return pk, &mlkem768Key{private}
	},

	encapsulate: func(pk, coins []byte) (ct []byte, ss [SecretSize]byte, err error) {
		var public mlkem768.PublicKey
		if err := public.Unpack(pk); err != nil {
			return nil, ss, fmt.Errorf("%w: not reduced", ErrPublicKey)
		}
		ct = make([]byte, mlkem768.CiphertextSize)
		public.EncapsulateTo(ct, ss[:], coins)
		return ct, ss, nil
	},
}

type mlkem768Key struct{ private *mlkem768.PrivateKey }

// decapsulate never fails: to a ciphertext that was tampered with belongs a
// secret that nobody else knows (implicit rejection).
func (k *mlkem768Key) decapsulate(ct []byte) (ss [SecretSize]byte, err error) {
	k.private.DecapsulateTo(ss[:], ct)
	return ss, nil
}
