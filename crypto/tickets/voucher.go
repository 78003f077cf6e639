package tickets

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	// VoucherSize is the length of a voucher in bytes.
	VoucherSize = 16

	voucherCheckSize = 4
	voucherGroup     = 4 // characters between hyphens
)

// ErrVoucher means that a text is no voucher: it is incomplete or has a typing error.
var ErrVoucher = errors.New("not a voucher")

var voucherText = base32.StdEncoding.WithPadding(base32.NoPadding)

// Voucher is the right to a number of tickets of one issuer, for its bearer. It is never printed;
// Text returns it.
type Voucher [VoucherSize]byte

// NewVoucher makes a voucher of 16 bytes of rand.
func NewVoucher(rand io.Reader) (v Voucher, err error) {
	if _, err = io.ReadFull(rand, v[:]); err != nil {
		return v, fmt.Errorf("tickets: no randomness for a voucher: %w", err)
	}
	return v, nil
}

// ParseVoucher parses what Text returns, in any case, with or without hyphens and spaces. The error,
// ErrVoucher, does not contain the text.
func ParseVoucher(s string) (Voucher, error) {
	b, err := voucherText.DecodeString(strings.ToUpper(strings.NewReplacer("-", "", " ", "").Replace(s)))
	if err != nil || len(b) != VoucherSize+voucherCheckSize {
		return Voucher{}, fmt.Errorf("tickets: %w", ErrVoucher)
	}
	v := Voucher(b)
	if subtle.ConstantTimeCompare(v.check(), b[VoucherSize:]) == 0 {
		return Voucher{}, fmt.Errorf("tickets: %w", ErrVoucher)
	}
	return v, nil
}

// Text returns the voucher and a check of it as 8 groups of 4 letters and digits.
func (v Voucher) Text() string {
	s := strings.ToLower(voucherText.EncodeToString(append(v[:], v.check()...)))
	var b strings.Builder
	for i := 0; i < len(s); i += voucherGroup {
		if i > 0 {
			b.WriteByte('-')
		}
		b.WriteString(s[i : i+voucherGroup])
	}
	return b.String()
}

func (v Voucher) check() []byte {
	sum := sha256.Sum256(append([]byte("lewes/2 voucher check"), v[:]...))
	return sum[:voucherCheckSize]
}

// Hash returns what an issuer stores of the voucher.
func (v Voucher) Hash() [sha256.Size]byte {
	return sha256.Sum256(append([]byte("lewes/2 voucher"), v[:]...))
}

// Format writes a fixed text for every verb.
func (Voucher) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, "tickets.Voucher(redacted)") }
