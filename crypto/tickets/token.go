package tickets

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha3"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cloudflare/circl/blindsign/blindrsa"

	"lewes/crypto/identity"
)

const (
	// Type is the token type of publicly verifiable tokens (RFC 9578, section 8.2.2).
	Type = 2

	// SignatureSize is the length of a signature, blind or not, in bytes.
	SignatureSize = keyBits / 8

	// RequestSize, ResponseSize and TokenSize are the lengths of the messages in bytes.
	RequestSize  = 2 + 1 + SignatureSize
	ResponseSize = SignatureSize
	TokenSize    = inputSize + SignatureSize

	// SeedSize is the length of the seed of a ticket in bytes.
	SeedSize = 32

	inputSize = 2 + 32 + sha256.Size + len(KeyID{})
)

var (
	// ErrMessage means that a message has a wrong length, type or content.
	ErrMessage = errors.New("malformed message")

	// ErrSignature means that a signature does not fit what it is for.
	ErrSignature = errors.New("wrong signature")
)

// Request is the TokenRequest of RFC 9578, section 6.1.
type Request struct {
	Truncated byte // of the KeyID
	Blinded   [SignatureSize]byte
}

// ParseRequest parses exactly one TokenRequest. The error is ErrMessage.
func ParseRequest(b []byte) (r Request, err error) {
	if len(b) != RequestSize || binary.BigEndian.Uint16(b) != Type {
		return r, fmt.Errorf("tickets: token request: %w", ErrMessage)
	}
	return Request{b[2], [SignatureSize]byte(b[3:])}, nil
}

// Append appends the encoded request to b.
func (r *Request) Append(b []byte) []byte {
	b = append(binary.BigEndian.AppendUint16(b, Type), r.Truncated)
	return append(b, r.Blinded[:]...)
}

// Response is the TokenResponse of RFC 9578, section 6.2: a blind signature.
type Response [ResponseSize]byte

// ParseResponse parses exactly one TokenResponse. The error is ErrMessage.
func ParseResponse(b []byte) (Response, error) {
	if len(b) != ResponseSize {
		return Response{}, fmt.Errorf("tickets: token response: %w", ErrMessage)
	}
	return Response(b), nil
}

// Token is a ticket as it is spent (RFC 9577, section 2.2.1). Whoever knows it can spend it.
type Token struct {
	Nonce     [32]byte
	Challenge [sha256.Size]byte // hash of the challenge
	Key       KeyID
	Signature [SignatureSize]byte
}

// ParseToken parses exactly one Token. The error is ErrMessage.
func ParseToken(b []byte) (t Token, err error) {
	if len(b) != TokenSize || binary.BigEndian.Uint16(b) != Type {
		return t, fmt.Errorf("tickets: token: %w", ErrMessage)
	}
	return Token{
		Nonce:     [32]byte(b[2:]),
		Challenge: [sha256.Size]byte(b[34:]),
		Key:       KeyID(b[66:]),
		Signature: [SignatureSize]byte(b[98:]),
	}, nil
}

// Append appends the encoded token to b.
func (t *Token) Append(b []byte) []byte {
	return append(t.appendInput(b), t.Signature[:]...)
}

// appendInput appends what the issuer signed.
func (t *Token) appendInput(b []byte) []byte {
	b = append(binary.BigEndian.AppendUint16(b, Type), t.Nonce[:]...)
	b = append(b, t.Challenge[:]...)
	return append(b, t.Key[:]...)
}

// Spent returns the SHA-256 of the token without its signature, by which a gateway recognizes a spent
// ticket. The signature takes no part, so no second form of it makes a second ticket.
func (t *Token) Spent() [sha256.Size]byte {
	var input [inputSize]byte
	return sha256.Sum256(t.appendInput(input[:0]))
}

// Verify checks the signature with key, which must be the token's. The error is ErrSignature.
func (t *Token) Verify(key *PublicKey) error {
	var input [inputSize]byte
	digest := sha512.Sum384(t.appendInput(input[:0]))
	if t.Key != key.id || rsa.VerifyPSS(&key.rsa, crypto.SHA384, digest[:], t.Signature[:], &rsa.PSSOptions{SaltLength: sha512.Size384}) != nil {
		return fmt.Errorf("tickets: token: %w", ErrSignature)
	}
	return nil
}

// Challenge returns the TokenChallenge (RFC 9577, section 2.1) of tickets from an issuer, named by its
// host, for a gateway. It is the same for all clients: its redemption context is empty.
func Challenge(issuer string, gateway identity.PublicKey) []byte {
	origin := gateway.String()
	b := binary.BigEndian.AppendUint16(nil, Type)
	b = binary.BigEndian.AppendUint16(b, uint16(len(issuer)))
	b = append(b, issuer...)
	b = append(b, 0) // redemption_context
	b = binary.BigEndian.AppendUint16(b, uint16(len(origin)))
	return append(b, origin...)
}

// Blind returns the request for a ticket for a challenge. Nonce, salt and blinding factor follow from
// the seed: 32 random bytes of this ticket alone, which stay secret and which the client stores before
// it sends the request. The same seed gives the same request, so that a lost answer costs nothing.
func Blind(seed *[SeedSize]byte, key *PublicKey, challenge []byte) (Request, error) {
	stream := newSeedStream(seed, key, challenge)
	_, blinded, _, err := blind(stream, stream, key, challenge)
	if err != nil {
		return Request{}, err
	}
	return Request{key.id.Truncated(), [SignatureSize]byte(blinded)}, nil
}

// Finalize returns the ticket from the issuer's response to the request that Blind made of the same
// seed, key and challenge. A response that is no signature of key gives ErrSignature.
func Finalize(seed *[SeedSize]byte, key *PublicKey, challenge []byte, response Response) (Token, error) {
	stream := newSeedStream(seed, key, challenge)
	return finalize(stream, stream, key, challenge, response)
}

// newSeedStream returns the randomness of a ticket. A seed used twice, for another key or challenge,
// links nothing.
func newSeedStream(seed *[SeedSize]byte, key *PublicKey, challenge []byte) io.Reader {
	h := sha3.NewSHAKE256()
	for _, part := range [][]byte{[]byte("lewes/2 ticket"), seed[:], key.id[:], challenge} {
		_, _ = h.Write(part) // a hash never fails
	}
	return h
}

// blind reads the token's nonce from one source, and the salt and the blinding factor from another.
func blind(nonce, random io.Reader, key *PublicKey, challenge []byte) (t Token, blinded []byte, state blindrsa.State, err error) {
	t = Token{Challenge: sha256.Sum256(challenge), Key: key.id}
	if _, err = io.ReadFull(nonce, t.Nonce[:]); err != nil {
		return t, nil, state, fmt.Errorf("tickets: nonce: %w", err)
	}
	client, err := newBlindClient(key)
	if err != nil {
		return t, nil, state, err
	}
	if blinded, state, err = client.Blind(random, t.appendInput(nil)); err != nil {
		return t, nil, state, fmt.Errorf("tickets: blinding: %w", err)
	}
	return t, blinded, state, nil
}

func finalize(nonce, random io.Reader, key *PublicKey, challenge []byte, response Response) (Token, error) {
	t, _, state, err := blind(nonce, random, key, challenge)
	if err != nil {
		return Token{}, err
	}
	client, err := newBlindClient(key)
	if err != nil {
		return Token{}, err
	}
	signature, err := client.Finalize(state, response[:])
	if err != nil {
		return Token{}, fmt.Errorf("tickets: token response: %w", ErrSignature)
	}
	t.Signature = [SignatureSize]byte(signature)
	return t, t.Verify(key)
}

func newBlindClient(key *PublicKey) (blindrsa.Client, error) {
	c, err := blindrsa.NewClient(blindrsa.SHA384PSSDeterministic, &key.rsa)
	if err != nil {
		return c, fmt.Errorf("tickets: blind signatures: %w", err)
	}
	return c, nil
}
