package tickets

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"

	"github.com/cloudflare/circl/blindsign/blindrsa"
)

const (
	keyBits  = 2048
	exponent = 65537

	// PublicKeySize is the length of an encoded public key in bytes.
	PublicKeySize = 342
)

// The SubjectPublicKeyInfo of RFC 9578, section 6.5, for 2048 bits and exponent 65537: RSASSA-PSS
// with SHA-384, MGF1 with SHA-384 and a salt of 48 bytes. Only the modulus varies.
var (
	keyPrefix, _ = hex.DecodeString("30820152303d06092a864886f70d01010a3030a00d300b0609608648016503040202" +
		"a11a301806092a864886f70d010108300b0609608648016503040202a2030201300382010f003082010a0282010100")
	keySuffix, _ = hex.DecodeString("0203010001")
)

// ErrKey means that bytes are not an RSA key of 2048 bits with exponent 65537, in the one encoding
// that this package accepts.
var ErrKey = errors.New("not an RSA-2048 key for blind signatures")

// KeyID is the token_key_id of RFC 9578: the SHA-256 of an encoded public key.
type KeyID [sha256.Size]byte

// Truncated returns the last byte, by which a Request selects its key.
func (id KeyID) Truncated() byte { return id[len(id)-1] }

// String returns the id in hexadecimal.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// PublicKey verifies tokens. It is immutable and safe for concurrent use.
type PublicKey struct {
	rsa     rsa.PublicKey
	encoded [PublicKeySize]byte
	id      KeyID
}

func newPublicKey(k *rsa.PublicKey) (*PublicKey, error) {
	if k.N.BitLen() != keyBits || k.N.Bit(0) == 0 || k.E != exponent {
		return nil, fmt.Errorf("tickets: public key: %w", ErrKey)
	}
	p := &PublicKey{rsa: *k}
	copy(p.encoded[:], keyPrefix)
	k.N.FillBytes(p.encoded[len(keyPrefix) : PublicKeySize-len(keySuffix)])
	copy(p.encoded[PublicKeySize-len(keySuffix):], keySuffix)
	p.id = sha256.Sum256(p.encoded[:])
	return p, nil
}

// ParsePublicKey parses the SubjectPublicKeyInfo of RFC 9578, section 6.5. It copies b.
func ParsePublicKey(b []byte) (*PublicKey, error) {
	modulus, ok := bytes.CutPrefix(b, keyPrefix)
	modulus, ok2 := bytes.CutSuffix(modulus, keySuffix)
	if len(b) != PublicKeySize || !ok || !ok2 {
		return nil, fmt.Errorf("tickets: public key: %w", ErrKey)
	}
	return newPublicKey(&rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: exponent})
}

// ID returns the key's token_key_id.
func (k *PublicKey) ID() KeyID { return k.id }

// Encoded returns a copy of the key's SubjectPublicKeyInfo.
func (k *PublicKey) Encoded() []byte { return bytes.Clone(k.encoded[:]) }

// PrivateKey signs requests. It is safe for concurrent use, and never printed.
type PrivateKey struct {
	// signer is a function because functions are opaque to reflection, and so to fmt.
	signer func() *rsa.PrivateKey
	public *PublicKey
}

// GenerateKey makes a new key, which takes about a tenth of a second.
func GenerateKey() (*PrivateKey, error) {
	k, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, fmt.Errorf("tickets: key generation: %w", err)
	}
	return newPrivateKey(k)
}

// ParsePrivateKey parses a key in PKCS#8 DER, as Encoded returns it. It copies b.
func ParsePrivateKey(b []byte) (*PrivateKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(b)
	if err != nil { // the error may quote the key
		return nil, fmt.Errorf("tickets: private key: %w", ErrKey)
	}
	k, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("tickets: private key: %w", ErrKey)
	}
	return newPrivateKey(k)
}

func newPrivateKey(k *rsa.PrivateKey) (*PrivateKey, error) {
	public, err := newPublicKey(&k.PublicKey)
	if err != nil {
		return nil, err
	}
	return &PrivateKey{signer: func() *rsa.PrivateKey { return k }, public: public}, nil
}

// Public returns the public key.
func (k *PrivateKey) Public() *PublicKey { return k.public }

// Encoded returns the key in PKCS#8 DER. The caller clears it.
func (k *PrivateKey) Encoded() ([]byte, error) {
	b, err := x509.MarshalPKCS8PrivateKey(k.signer())
	if err != nil {
		return nil, fmt.Errorf("tickets: private key to PKCS#8: %w", err)
	}
	return b, nil
}

// Check returns ErrMessage for a request that is for another key, or not a number below the modulus.
func (k *PublicKey) Check(r Request) error {
	if r.Truncated != k.id.Truncated() || new(big.Int).SetBytes(r.Blinded[:]).Cmp(k.rsa.N) >= 0 {
		return fmt.Errorf("tickets: token request: %w", ErrMessage)
	}
	return nil
}

// Sign answers a request (RFC 9578, section 6.2). The same request gets the same answer. The errors are
// those of Check.
func (k *PrivateKey) Sign(r Request) (Response, error) {
	if err := k.public.Check(r); err != nil {
		return Response{}, err
	}
	signature, err := blindrsa.NewSigner(k.signer()).BlindSign(r.Blinded[:])
	if err != nil {
		return Response{}, fmt.Errorf("tickets: signature: %w", err)
	}
	return Response(signature), nil
}
