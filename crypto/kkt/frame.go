package kkt

import (
	"fmt"

	"lewes/crypto/identity"
)

// frame is a frame cut into its parts, which alias it.
type frame struct {
	context   context
	body      []byte
	session   SessionID
	signed    []byte // all that comes before the signature
	signature []byte // empty in an anonymous request
}

// appendFrame appends a frame, signed unless signer is nil.
func appendFrame(dst []byte, c context, body []byte, session SessionID, signer *identity.PrivateKey) []byte {
	start := len(dst)
	dst = c.append(dst)
	dst = append(dst, body...)
	dst = append(dst, session[:]...)
	if signer == nil {
		return dst
	}
	return append(dst, signer.Sign(dst[start:])...)
}

// parseFrame cuts a frame whose context KKT allows. It verifies nothing.
func parseFrame(b []byte) (frame, error) {
	c, err := parseContext(b)
	if err != nil {
		return frame{}, err
	}
	body, err := c.bodySize()
	if err != nil {
		return frame{}, err
	}
	signed := contextSize + body + sessionSize
	if want := signed + c.signatureSize(); len(b) != want {
		return frame{}, fmt.Errorf("%d bytes, not %d: %w", len(b), want, ErrSize)
	}
	return frame{
		context:   c,
		body:      b[contextSize : contextSize+body : contextSize+body],
		session:   SessionID(b[contextSize+body:]),
		signed:    b[:signed],
		signature: b[signed:],
	}, nil
}

// verify checks the signature over the bytes as they came.
func (f *frame) verify(signer identity.PublicKey) error {
	if !signer.Verify(f.signed, f.signature) {
		return fmt.Errorf("by %v: %w", signer, ErrSignature)
	}
	return nil
}
