package identity

import (
	"crypto/ed25519"
	"errors"
	"fmt"

	"filippo.io/edwards25519"
	"github.com/mr-tron/base58"
)

// PublicKeySize is the length of a public key in bytes.
const PublicKeySize = 32

// maxTextSize is the longest base58 text of 32 bytes.
const maxTextSize = 44

var (
	// ErrWeakKey means that the 32 bytes are not a usable Ed25519 public key: not
	// a point of the curve, of low order, or not encoded as in RFC 8032.
	ErrWeakKey = errors.New("not a usable Ed25519 public key (no point of the curve, of low order, or not canonical)")

	// ErrKeyText means that a text is not the base58 form of 32 bytes.
	ErrKeyText = errors.New("not a public key in base58")
)

// PublicKey is an Ed25519 public key in the encoding of RFC 8032. Converting
// bytes to a PublicKey checks nothing.
type PublicKey [PublicKeySize]byte

// ParsePublicKey parses the base58 text of a key, and rejects keys that X25519 would reject. Its errors do
// not contain a text that may be a private key (Mask).
func ParsePublicKey(s string) (PublicKey, error) {
	shown := func() string {
		if len(s) < keyWord {
			return s
		}
		return masked
	}
	if isPrivateKey(s) {
		return PublicKey{}, fmt.Errorf("identity: %w", ErrPrivateKey)
	}
	if len(s) > maxTextSize {
		return PublicKey{}, fmt.Errorf("identity: %q is %d characters long: %w; give the 43 or 44 characters that the peer's key has", shown(), len(s), ErrKeyText)
	}
	b, err := base58.Decode(s)
	if err != nil {
		return PublicKey{}, fmt.Errorf("identity: %q: %w: %v", shown(), ErrKeyText, err)
	}
	if len(b) != PublicKeySize {
		clear(b)
		return PublicKey{}, fmt.Errorf("identity: %q is %d bytes, not %d: %w; check that it is complete", shown(), len(b), PublicKeySize, ErrKeyText)
	}
	k := PublicKey(b)
	if _, err := k.point(); err != nil {
		return PublicKey{}, fmt.Errorf("identity: %q: %w; check it for a typing error", shown(), err)
	}
	return k, nil
}

// String returns the key in base58, 32 to 44 characters.
func (k PublicKey) String() string { return base58.Encode(k[:]) }

// MarshalText returns the key in base58.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText is ParsePublicKey.
func (k *PublicKey) UnmarshalText(text []byte) error {
	parsed, err := ParsePublicKey(string(text))
	if err != nil {
		return err
	}
	*k = parsed
	return nil
}

// Verify reports whether sig is this key's signature over msg. It is false for a
// weak key, for which signatures can be made without a private key.
func (k PublicKey) Verify(msg, sig []byte) bool {
	return !k.weak() && len(sig) == ed25519.SignatureSize && ed25519.Verify(k[:], msg, sig)
}

// X25519 returns the key in Montgomery form, the owner's static public key in
// Noise. The error is ErrWeakKey.
func (k PublicKey) X25519() ([32]byte, error) {
	p, err := k.point()
	if err != nil {
		return [32]byte{}, fmt.Errorf("identity: X25519 form of %v: %w", k, err)
	}
	return [32]byte(p.BytesMontgomery()), nil
}

func (k PublicKey) point() (*edwards25519.Point, error) {
	if k.weak() {
		return nil, ErrWeakKey
	}
	p, err := new(edwards25519.Point).SetBytes(k[:])
	if err != nil {
		return nil, ErrWeakKey
	}
	return p, nil
}

// lowOrderY are the y coordinates of the eight points whose order divides the
// cofactor; both points with such a y are weak.
var lowOrderY = [...][PublicKeySize]byte{
	{0x00}, // order 4
	{0x01}, // order 1
	{ // order 2: y = -1
		0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f,
	},
	{ // order 8
		0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
		0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
	},
	{ // order 8, the negative of the one above
		0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
		0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
	},
}

// weak reports whether k has a low-order or a non-canonical y. It does not check
// that k is on the curve. The other non-canonical encoding, x = 0 with its sign
// set, has y = 1 or -1 and is of low order.
func (k PublicKey) weak() bool {
	k[31] &= 0x7f // the sign of x
	for _, y := range lowOrderY {
		if k == y {
			return true
		}
	}
	return !canonical(&k)
}

// canonical reports whether y, little-endian, is below p = 2^255 - 19.
func canonical(y *PublicKey) bool {
	if y[31] != 0x7f || y[0] < 0xed {
		return true
	}
	for _, b := range y[1:31] {
		if b != 0xff {
			return true
		}
	}
	return false
}
