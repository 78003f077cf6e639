package wire

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxDetail is the size in bytes of the longest Detail. Section 2 says so for
// FlowClosed; it is the same for Reject and Close.
const MaxDetail = 120

// Detail is the UTF-8 text for people that ends a Reject, FlowClosed or Close.
// It comes from the other end, or from whoever forged a Reject: print it
// through String only.
type Detail []byte

// String returns the text with everything that is not printable, terminal
// escapes and direction overrides among them, replaced by U+FFFD.
func (d Detail) String() string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return utf8.RuneError
	}, string(d))
}

// append adds d to dst: what is not UTF-8 becomes U+FFFD, and a text of more
// than MaxDetail bytes ends before the character that would pass the bound.
func (d Detail) append(dst []byte) []byte {
	end := len(dst) + MaxDetail
	for len(d) > 0 {
		r, n := utf8.DecodeRune(d)
		if len(dst)+utf8.RuneLen(r) > end {
			break
		}
		dst = utf8.AppendRune(dst, r)
		d = d[n:]
	}
	return dst
}

func parseDetail(b []byte) (Detail, error) {
	if len(b) > MaxDetail {
		return nil, ErrDetailLong
	}
	if !utf8.Valid(b) {
		return nil, ErrDetailText
	}
	return b, nil
}
