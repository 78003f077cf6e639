package kem

import (
	"errors"
	"fmt"

	"github.com/cloudflare/circl/dh/x25519"
	"github.com/cloudflare/circl/kem/mlkem/mlkem768"
	"github.com/cloudflare/circl/kem/xwing"
)

// scheme is one mechanism: its sizes in bytes, and its operations on keys whose
// sizes have been checked.
type scheme struct {
	seedSize       int // secret from which a key pair is derived
	publicKeySize  int
	ciphertextSize int
	encapsSize     int // randomness for one encapsulation

	tlsPublicKey  string // prefixes of the raw bytes in the TLS form
	tlsCiphertext string
	tlsSecret     string

	newKey      func(seed []byte) (pk []byte, private decapsulator)
	encapsulate func(pk, coins []byte) (ct []byte, ss [SecretSize]byte, err error)
}

// decapsulator is a private key. wipe.Deep erases everything it points to.
type decapsulator interface {
	decapsulate(ct []byte) (ss [SecretSize]byte, err error)
}

// schemeOf returns nil for an unsupported mechanism.
func schemeOf(id ID) *scheme {
	switch id {
	case MLKEM768:
		return &mlkem768Scheme
	case XWing:
		return &xwingScheme
	case X25519:
		return &x25519Scheme
	default:
		return nil
	}
}

// ML-KEM-768 of FIPS 203. A seed is d ‖ z; the randomness of an encapsulation is m.
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

// decapsulate never fails: a modified ciphertext gives a secret unknown to the
// peer (implicit rejection).
func (k *mlkem768Key) decapsulate(ct []byte) (ss [SecretSize]byte, err error) {
	k.private.DecapsulateTo(ss[:], ct)
	return ss, nil
}

// X-Wing of draft-connolly-cfrg-xwing-kem: ML-KEM-768, then X25519, in keys and
// ciphertexts. The randomness of an encapsulation is m ‖ the ephemeral scalar.
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

// X25519 as a KEM in the way of libcrux: the ciphertext is an ephemeral public
// key, the secret is the raw shared point, not hashed.
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

var errWeakPoint = errors.New("of low order, or not canonical")

// lowOrderU are the u below p whose order divides the cofactor, on the curve
// or on its twist: every scalar multiple of them is zero.
var lowOrderU = [...][32]byte{
	{0x00},
	{0x01},
	{
		0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
		0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
	},
	{
		0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
		0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
	},
	{ // p - 1
		0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
	},
}

// usablePoint reports whether the 32 bytes are an X25519 public key below p = 2^255 - 19 and not of
// low order. X25519 itself accepts both; honest peers send neither, and refusing them here is
// cheaper than checking the secret, which X-Wing does not expose. The bytes are public, so the time
// may depend on them.
func usablePoint(b []byte) bool {
	u := [32]byte(b)
	for _, low := range lowOrderU {
		if u == low {
			return false
		}
	}
	if u[31] != 0x7f {
		return u[31] < 0x7f
	}
	for _, x := range u[1:31] {
		if x != 0xff {
			return true
		}
	}
	return u[0] < 0xed
}
