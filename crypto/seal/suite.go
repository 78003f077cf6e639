package seal

import (
	"fmt"

	"golang.org/x/sys/cpu"
)

// Suite is an AEAD, or in an offer a set of them: the AEAD bits of section 3 of PROTOCOL.md.
type Suite uint8

const (
	ChaCha20Poly1305 Suite = 1 << 0 // RFC 8439; always offered
	AES256GCM        Suite = 1 << 1 // offered where the CPU has instructions for it
)

// Offer returns the suites to offer on this CPU. Without instructions for AES
// and GHASH, AES-256-GCM is several times slower than ChaCha20-Poly1305 and may
// not run in constant time, so it is not offered.
func Offer() Suite {
	if fastAES() {
		return ChaCha20Poly1305 | AES256GCM
	}
	return ChaCha20Poly1305
}

func fastAES() bool {
	return cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ && cpu.X86.HasSSE41 && cpu.X86.HasSSSE3 ||
		cpu.ARM64.HasAES && cpu.ARM64.HasPMULL ||
		cpu.S390X.HasAES && cpu.S390X.HasAESGCM ||
		cpu.PPC64.IsPOWER8
}

// Choose returns the suite for a session between a client's offer and a
// gateway's own set: AES-256-GCM if both have it, else ChaCha20-Poly1305 if both
// have that, else false. It ignores unknown bits.
func Choose(offer, own Suite) (Suite, bool) {
	both := offer & own
	switch {
	case both&AES256GCM != 0:
		return AES256GCM, true
	case both&ChaCha20Poly1305 != 0:
		return ChaCha20Poly1305, true
	default:
		return 0, false
	}
}

// Valid reports whether s is exactly one known suite.
func (s Suite) Valid() bool { return s == ChaCha20Poly1305 || s == AES256GCM }

// String returns the name of one suite, or the names in an offer.
func (s Suite) String() string {
	switch s {
	case ChaCha20Poly1305:
		return "ChaCha20-Poly1305"
	case AES256GCM:
		return "AES-256-GCM"
	case ChaCha20Poly1305 | AES256GCM:
		return "ChaCha20-Poly1305 and AES-256-GCM"
	default:
		return fmt.Sprintf("AEAD bits %#02x", uint8(s))
	}
}
