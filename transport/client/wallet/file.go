package wallet

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/tickets"
)

// maxFileSize bounds a wallet. A ticket takes about 900 bytes.
const maxFileSize = 32 << 20

// header begins the file. The hexadecimal SHA-256 of everything behind the first line follows it.
const header = "lewes wallet 1 "

var (
	// ErrDamaged means that a file is not a wallet, or not as this package wrote it.
	ErrDamaged = errors.New("damaged")
	// ErrNewer means that a later version of this program wrote the wallet.
	ErrNewer = errors.New("written by a newer version of lewes")
)

// content is a wallet. Its zero value is an empty one.
type content struct {
	Tickets  []*ticket  `json:"tickets,omitempty"`
	Fetches  []*fetch   `json:"fetches,omitempty"`
	Accounts []*account `json:"accounts,omitempty"`
	Keys     []seenKey  `json:"keys,omitempty"`
}

// ticket is a token that a gateway takes for bandwidth.
type ticket struct {
	key
	Gateway hex32  `json:"gateway"`
	Issuer  string `json:"issuer"` // URL#PIN
	Token   secret `json:"token"`
	// Spend is the registration that the ticket is bound to, before the gateway sees it; nil: none.
	Spend *binding `json:"spend,omitempty"`
	// Refused is the reason why no gateway takes the ticket; "" for a good one.
	Refused string `json:"refused,omitempty"`
}

// binding is a Registration.
type binding struct {
	Gateway hex32  `json:"gateway"`
	Account hex32  `json:"account"`
	Mode    string `json:"mode"`
	Key     hex32  `json:"key,omitzero"`
}

// key is an issuer's key: what its tickets are worth and how long.
type key struct {
	ID      hex32  `json:"key_id"`
	Epoch   uint32 `json:"epoch"`
	Bytes   uint64 `json:"bytes"`
	Seconds uint64 `json:"seconds"`
	Until   int64  `json:"until"` // unix seconds; the gateway refuses its tickets from then on
}

func (k key) past(now time.Time) bool { return now.Unix() >= k.Until }

// seenKey is a key that an issuer has published. Another one for the same denomination and epoch
// would mark those who got it.
type seenKey struct {
	key
	Pin    hex32 `json:"pin"`
	Length int64 `json:"length"` // of an epoch, in seconds
}

// fetch is an exchange of a voucher for tickets that has begun.
type fetch struct {
	key
	Gateway hex32  `json:"gateway"`
	Issuer  string `json:"issuer"` // URL#PIN
	Voucher secret `json:"voucher"`
	SPKI    []byte `json:"spki"`
	// Seeds are the secrets of the tickets that are still to come. Each determines a request.
	Seeds []secret `json:"seeds"`
}

// account is an identity of this client at one gateway.
type account struct {
	Gateway hex32  `json:"gateway"`
	Seed    secret `json:"seed"`
	// The gateway's last result about it, in unix seconds; Seen is 0 before the first.
	Seen      int64  `json:"seen,omitempty"`
	Remaining uint64 `json:"remaining,omitempty"` // bytes
	Expires   int64  `json:"expires,omitempty"`   // 0: never
	Paid      uint64 `json:"paid,omitempty"`      // bytes that were left after the last payment
}

// ended reports whether the account has nothing left.
func (a *account) ended(now time.Time) bool {
	return a.Seen != 0 && (a.Remaining == 0 || a.Expires != 0 && now.Unix() >= a.Expires)
}

// private returns the account's key, which the caller wipes.
func (a *account) private() *identity.PrivateKey {
	seed := [identity.SeedSize]byte(a.Seed)
	return identity.FromSeed(&seed)
}

func (a *account) public() hex32 {
	k := a.private()
	defer k.Wipe()
	return hex32(k.Public())
}

// secret is never printed, except into the wallet's file.
type secret []byte

func (secret) String() string   { return "[secret]" }
func (secret) GoString() string { return "[secret]" }

func (s secret) MarshalText() ([]byte, error) {
	return base64.RawURLEncoding.AppendEncode(nil, s), nil
}

func (s *secret) UnmarshalText(text []byte) (err error) {
	*s, err = base64.RawURLEncoding.Strict().AppendDecode(nil, text)
	return err
}

// hex32 is a public key or a SHA-256 in hexadecimal. The file's checksum stands for the check of
// identity.PublicKey, which takes longer than all the rest of a change.
type hex32 [32]byte

func (h hex32) String() string               { return hex.EncodeToString(h[:]) }
func (h hex32) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h[:]), nil }

func (h *hex32) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil || len(b) != len(h) {
		return fmt.Errorf("%q is not 32 bytes in hexadecimal", text)
	}
	*h = hex32(b)
	return nil
}

// encode returns the file of a wallet.
func (c *content) encode() ([]byte, error) {
	body, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	defer clear(body)
	return withHeader(body), nil
}

func withHeader(body []byte) []byte {
	return append(fmt.Appendf(nil, "%s%x\n", header, sha256.Sum256(body)), body...)
}

// decode parses the file of a wallet. Its errors wrap ErrDamaged or ErrNewer.
func decode(file []byte) (*content, error) {
	first, body, found := bytes.Cut(file, []byte("\n"))
	sum, known := bytes.CutPrefix(first, []byte(header))
	switch {
	case len(file) > maxFileSize:
		return nil, fmt.Errorf("%w: larger than %d bytes", ErrDamaged, maxFileSize)
	case found && !known && bytes.HasPrefix(first, []byte("lewes wallet ")):
		return nil, ErrNewer
	case !found || !known:
		return nil, fmt.Errorf("%w: not a wallet", ErrDamaged)
	}
	if want := sha256.Sum256(body); string(sum) != hex.EncodeToString(want[:]) {
		return nil, fmt.Errorf("%w: checksum does not match", ErrDamaged)
	}
	c := new(content)
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(c); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("%w: data behind the content", ErrDamaged)
	}
	return c, c.valid()
}

// valid checks what the rest of the package relies on.
func (c *content) valid() error {
	for _, t := range c.Tickets {
		if t == nil || len(t.Token) == 0 {
			return fmt.Errorf("%w: a ticket without its token", ErrDamaged)
		}
	}
	for _, f := range c.Fetches {
		if f == nil || len(f.Voucher) != tickets.VoucherSize || slices.ContainsFunc(f.Seeds, func(s secret) bool { return len(s) != tickets.SeedSize }) {
			return fmt.Errorf("%w: a fetch without its voucher or seeds", ErrDamaged)
		}
	}
	for _, a := range c.Accounts {
		if a == nil || len(a.Seed) != identity.SeedSize {
			return fmt.Errorf("%w: an account without its seed", ErrDamaged)
		}
	}
	return nil
}

// wipe erases the secrets.
func (c *content) wipe() {
	for _, t := range c.Tickets {
		clear(t.Token)
	}
	for _, f := range c.Fetches {
		clear(f.Voucher)
		for _, s := range f.Seeds {
			clear(s)
		}
	}
	for _, a := range c.Accounts {
		clear(a.Seed)
	}
}
