package kem

import (
	"errors"
	"fmt"
	"strings"
)

// ID is the number of a key encapsulation mechanism in KKT.
type ID uint8

const (
	XWing    ID = 0   // X25519 and ML-KEM-768 together
	MLKEM768 ID = 1   // the default
	McEliece ID = 2   // reserved, never offered
	X25519   ID = 255 // no post-quantum protection: tests and reference vectors
)

var (
	// ErrUnsupported means that this package does not implement the mechanism.
	ErrUnsupported = errors.New("KEM not supported")

	// ErrUnknownName means that a text is not the name of a mechanism.
	ErrUnknownName = errors.New("unknown KEM")
)

// names is in the order in which messages list them. String returns the first name of a row.
var names = []struct {
	id    ID
	names []string
}{
	{MLKEM768, []string{"ML-KEM-768", "mlkem768"}},
	{XWing, []string{"X-Wing", "xwing"}},
	{X25519, []string{"X25519"}},
	{McEliece, []string{"Classic McEliece", "mceliece"}},
}

// String returns the mechanism's usual name, or "KEM 7" for an unknown number.
func (id ID) String() string {
	for _, row := range names {
		if row.id == id {
			return row.names[0]
		}
	}
	return fmt.Sprintf("KEM %d", uint8(id))
}

// ParseID parses a mechanism's name, in any case: ML-KEM-768, X-Wing, X25519, and each without
// hyphens. The error wraps ErrUnknownName, or ErrUnsupported for Classic McEliece.
func ParseID(name string) (ID, error) {
	for _, row := range names {
		for _, n := range row.names {
			if !strings.EqualFold(n, name) {
				continue
			}
			if !row.id.Supported() {
				return 0, fmt.Errorf("kem: %w: %v; use one of %s", ErrUnsupported, row.id, supportedNames())
			}
			return row.id, nil
		}
	}
	return 0, fmt.Errorf("kem: %w %q; use one of %s", ErrUnknownName, name, supportedNames())
}

func supportedNames() string {
	var list []string
	for _, row := range names {
		if row.id.Supported() {
			list = append(list, row.names[0])
		}
	}
	return strings.Join(list, ", ")
}

// Supported reports whether this package implements the mechanism.
func (id ID) Supported() bool { return schemeOf(id) != nil }

// PublicKeySize returns the length of a public key in bytes, or 0 if the mechanism is unsupported.
func (id ID) PublicKeySize() int {
	if s := schemeOf(id); s != nil {
		return s.publicKeySize
	}
	return 0
}

// CiphertextSize returns the length of a ciphertext in bytes, or 0 if the mechanism is unsupported.
func (id ID) CiphertextSize() int {
	if s := schemeOf(id); s != nil {
		return s.ciphertextSize
	}
	return 0
}
