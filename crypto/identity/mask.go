package identity

import (
	"errors"
	"regexp"
	"strings"
)

// ErrPrivateKey means that a private key was given where an identity is expected.
var ErrPrivateKey = errors.New("this is a private key, which must stay secret; give the identity, which lewes keygen --show FILE prints")

const (
	// keyWord is the length from which a word may contain most of a private key.
	keyWord = 24
	masked  = "…"
)

var (
	// word is a run of the characters of base58, base64 and hexadecimal digits.
	word = regexp.MustCompile(`[0-9A-Za-z+=_-]+(/[0-9A-Za-z+=_-]+)*`)

	// privateKey is a private key in PEM, or its Base64 alone: in PKCS#8, with the tail of Ed25519's header.
	privateKey = regexp.MustCompile(`(?s)-----BEGIN[A-Z ]* PRIVATE KEY.*?(-----END[A-Z ]*-----|$)|([0-9A-Za-z+][0-9A-Za-z+/]*)?K2VwBCIEI[0-9A-Za-z+/=]*`)
)

// Mask returns a text for an error about an identity, in which every word that may be a private key is
// replaced by an ellipsis. Valid identities, and words of fewer than 24 characters, stay.
func Mask(text string) string {
	return word.ReplaceAllStringFunc(Redact(text), func(w string) string {
		if len(w) < keyWord {
			return w
		}
		if _, err := ParsePublicKey(w); err == nil {
			return w
		}
		return masked
	})
}

// Redact returns any text without the private keys in PEM that it contains.
func Redact(text string) string {
	if !isPrivateKey(text) {
		return text
	}
	return privateKey.ReplaceAllString(text, masked)
}

// isPrivateKey reports whether a text has a private key in PEM in it. It is fast.
func isPrivateKey(text string) bool {
	return strings.Contains(text, "PRIVATE KEY") || strings.Contains(text, "K2VwBCIEI")
}
