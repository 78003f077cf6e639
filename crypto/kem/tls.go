package kem

import (
	"errors"
	"fmt"
)

// PSQ hashes and sends keys, ciphertexts and secrets in their TLS form (section 5 of PROTOCOL.md):
// one byte for the algorithm and, before an ML-KEM value, its length as a QUIC variable-length
// integer. The lengths are fixed and only the shortest encoding is accepted, so each form is a
// fixed prefix and the raw bytes.

// ErrTLSForm means that the bytes do not begin with the TLS form of this mechanism's ciphertext.
var ErrTLSForm = errors.New("not the TLS form of a KEM ciphertext")

// AppendPublicKeyTLS appends the TLS form of a raw public key to dst, nothing for
// an unsupported mechanism.
func AppendPublicKeyTLS(dst []byte, id ID, pk []byte) []byte {
	return appendTLS(dst, id, func(s *scheme) string { return s.tlsPublicKey }, pk)
}

// AppendCiphertextTLS appends the TLS form of a raw ciphertext to dst, nothing for
// an unsupported mechanism.
func AppendCiphertextTLS(dst []byte, id ID, ct []byte) []byte {
	return appendTLS(dst, id, func(s *scheme) string { return s.tlsCiphertext }, ct)
}

// AppendSecretTLS appends the TLS form of a shared secret, 33 bytes, to dst, nothing
// for an unsupported mechanism.
func AppendSecretTLS(dst []byte, id ID, ss *[SecretSize]byte) []byte {
	return appendTLS(dst, id, func(s *scheme) string { return s.tlsSecret }, ss[:])
}

func appendTLS(dst []byte, id ID, prefix func(*scheme) string, raw []byte) []byte {
	s := schemeOf(id)
	if s == nil {
		return dst
	}
	return append(append(dst, prefix(s)...), raw...)
}

// CutCiphertextTLS cuts the TLS form of a ciphertext from the front of b: raw is
// the ciphertext, tls its whole TLS form, rest the remaining bytes. All three
// alias b. The errors are ErrTLSForm and ErrUnsupported.
func CutCiphertextTLS(id ID, b []byte) (raw, tls, rest []byte, err error) {
	s := schemeOf(id)
	if s == nil {
		return nil, nil, nil, fmt.Errorf("kem: %w: %v", ErrUnsupported, id)
	}
	start := len(s.tlsCiphertext)
	end := start + s.ciphertextSize
	if len(b) < end {
		return nil, nil, nil, fmt.Errorf("kem: %w: %d bytes for %v, not %d", ErrTLSForm, len(b), id, end)
	}
	if string(b[:start]) != s.tlsCiphertext {
		return nil, nil, nil, fmt.Errorf("kem: %w: it begins with %x, for %v it is %x", ErrTLSForm, b[:start], id, s.tlsCiphertext)
	}
	return b[start:end:end], b[:end:end], b[end:], nil
}
