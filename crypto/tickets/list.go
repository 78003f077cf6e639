package tickets

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"lewes/crypto/identity"
)

const (
	// DefaultEpoch is the length of an issuer's epoch unless it chooses another one.
	DefaultEpoch = 7 * 24 * time.Hour

	// MinEpoch and MaxEpoch bound the length of an epoch, in whole seconds.
	MinEpoch = time.Hour
	MaxEpoch = 366 * 24 * time.Hour

	// MaxBytes and MaxSeconds bound what a ticket grants: 64 of them fit in an account.
	MaxBytes   = 1 << 56
	MaxSeconds = 3660 * 24 * 60 * 60

	// ClockTolerance is how far clocks of client, issuer and gateway may differ: keys are good this
	// much earlier and longer than their epochs.
	ClockTolerance = 300 * time.Second

	// MaxKeys is how many keys a list has at most: each has a truncated id of its own.
	MaxKeys = 256

	// MaxDirectorySize bounds the text of a directory in bytes.
	MaxDirectorySize = 512 << 10

	// RequestMediaType, ResponseMediaType, DirectoryMediaType and DirectoryPath are those of RFC 9578.
	RequestMediaType   = "application/private-token-request"
	ResponseMediaType  = "application/private-token-response"
	DirectoryMediaType = "application/private-token-issuer-directory"
	DirectoryPath      = "/.well-known/private-token-issuer-directory"

	listHead = "lewes ticket keys 1\n"
)

var (
	// ErrDirectory means that a directory is malformed or incomplete.
	ErrDirectory = errors.New("malformed issuer directory")

	// ErrPin means that a list of keys does not carry the signature of the issuer's pin.
	ErrPin = errors.New("the list of keys is not signed by the issuer's pin")

	// ErrSecondKey means that an issuer has two keys for one denomination and epoch, with which it
	// could tag clients.
	ErrSecondKey = errors.New("a second key for one denomination and epoch")
)

// Denomination is what a ticket grants: bytes, and how long after it is spent they can be used.
type Denomination struct {
	Bytes   uint64
	Seconds uint32
}

// Valid reports whether both numbers are within their bounds.
func (d Denomination) Valid() bool {
	return d.Bytes > 0 && d.Bytes <= MaxBytes && d.Seconds > 0 && d.Seconds <= MaxSeconds
}

// Key is an issuer's key for a denomination and an epoch.
type Key struct {
	Denomination
	Epoch  uint32
	Public *PublicKey
}

// Directory is what an issuer publishes: its keys, signed by its pin.
type Directory struct {
	Issuer     string        // host, with a port unless it is the scheme's, as in a challenge
	Epoch      time.Duration // length of an epoch
	Keys       []Key         // at most MaxKeys, each with its own truncated id
	RequestURI string        // of token requests, absolute or relative to the directory's
}

// EpochAt returns the number of the epoch of a length that t lies in. Epochs are counted from 1970.
func EpochAt(t time.Time, length time.Duration) uint32 {
	return uint32(max(t.Unix(), 0) / int64(length/time.Second))
}

// EpochStart returns when an epoch begins.
func EpochStart(epoch uint32, length time.Duration) time.Time {
	return time.Unix(int64(epoch)*int64(length/time.Second), 0)
}

// Validity returns from when to when tickets of an epoch are good: in their epoch and the next, and
// ClockTolerance around these.
func Validity(epoch uint32, length time.Duration) (from, until time.Time) {
	start := EpochStart(epoch, length)
	return start.Add(-ClockTolerance), start.Add(2*length + ClockTolerance)
}

// Current returns the keys of the epoch that now lies in, for which a client asks for tickets.
func (d *Directory) Current(now time.Time) (keys []Key) {
	epoch := EpochAt(now, d.Epoch)
	for _, k := range d.Keys {
		if k.Epoch == epoch {
			keys = append(keys, k)
		}
	}
	return keys
}

// Extends returns ErrSecondKey if d has another key than an earlier directory of the same issuer for
// one denomination and epoch, or another length of an epoch.
func (d *Directory) Extends(earlier *Directory) error {
	if d.Epoch != earlier.Epoch {
		return fmt.Errorf("tickets: epochs of %v instead of %v: %w", d.Epoch, earlier.Epoch, ErrDirectory)
	}
	return checkKeys(append(earlier.Keys[:len(earlier.Keys):len(earlier.Keys)], d.Keys...))
}

// checkKeys returns ErrSecondKey if a pair of denomination and epoch has two keys.
func checkKeys(keys []Key) error {
	type pair struct {
		Denomination
		epoch uint32
	}
	ids := make(map[pair]KeyID, len(keys))
	for _, k := range keys {
		id, ok := ids[pair{k.Denomination, k.Epoch}]
		if ok && id != k.Public.id {
			return fmt.Errorf("tickets: epoch %d, %d bytes, %d seconds: %w", k.Epoch, k.Bytes, k.Seconds, ErrSecondKey)
		}
		ids[pair{k.Denomination, k.Epoch}] = k.Public.id
	}
	return nil
}

// directoryForm is RFC 9578's JSON object, section 4, and the signed list, which other readers skip.
type directoryForm struct {
	RequestURI string    `json:"issuer-request-uri"`
	Keys       []keyForm `json:"token-keys"`
	List       string    `json:"lewes-key-list"`
	Signature  []byte    `json:"lewes-key-list-signature"`
}

type keyForm struct {
	Type      int    `json:"token-type"`
	Key       string `json:"token-key"` // base64url with padding
	NotBefore int64  `json:"not-before,omitempty"`
}

// Sign returns the text of the directory, in JSON, with its list of keys signed by the pin. The keys
// are listed in their order, which clients of RFC 9578 take for the order of preference.
func (d *Directory) Sign(pin *identity.PrivateKey) ([]byte, error) {
	list := d.list()
	form := directoryForm{RequestURI: d.RequestURI, List: list, Signature: pin.Sign([]byte(list))}
	for _, k := range d.Keys {
		form.Keys = append(form.Keys, keyForm{
			Type:      Type,
			Key:       base64.URLEncoding.EncodeToString(k.Public.encoded[:]),
			NotBefore: EpochStart(k.Epoch, d.Epoch).Unix(),
		})
	}
	if err := d.check(); err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(form, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("tickets: directory to JSON: %w", err)
	}
	return append(text, '\n'), nil
}

// list returns the text that the pin signs: one line for each key, with its id.
func (d *Directory) list() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%sissuer %s\nepoch %d\n", listHead, d.Issuer, d.Epoch/time.Second)
	for _, k := range d.Keys {
		fmt.Fprintf(&b, "key %d %d %d %v\n", k.Bytes, k.Seconds, k.Epoch, k.Public.id)
	}
	return b.String()
}

// check returns an error where the content of a directory breaks a rule of its own.
func (d *Directory) check() error {
	truncated := make(map[byte]bool)
	for _, k := range d.Keys {
		if truncated[k.Public.id.Truncated()] {
			return fmt.Errorf("tickets: two keys with the truncated id %02x: %w", k.Public.id.Truncated(), ErrDirectory)
		}
		truncated[k.Public.id.Truncated()] = true
		if !k.Denomination.Valid() {
			return fmt.Errorf("tickets: a key for %d bytes and %d seconds: %w", k.Bytes, k.Seconds, ErrDirectory)
		}
	}
	if d.Epoch < MinEpoch || d.Epoch > MaxEpoch || d.Epoch%time.Second != 0 {
		return fmt.Errorf("tickets: epochs of %v, not %v to %v: %w", d.Epoch, MinEpoch, MaxEpoch, ErrDirectory)
	}
	if !validHost(d.Issuer) {
		return fmt.Errorf("tickets: issuer %q is not a host: %w", d.Issuer, ErrDirectory)
	}
	return checkKeys(d.Keys)
}

// validHost reports whether s can be an issuer's name: 1 to 253 printable characters.
func validHost(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || c >= 'A' && c <= 'Z' {
			return false
		}
	}
	return s != "" && len(s) <= 253
}

// ParseDirectory parses the text of a directory and verifies its list of keys with the pin. Errors are
// ErrDirectory, ErrPin and ErrSecondKey.
func ParseDirectory(text []byte, pin identity.PublicKey) (*Directory, error) {
	var form directoryForm
	if len(text) > MaxDirectorySize {
		return nil, fmt.Errorf("tickets: directory of more than %d bytes: %w", MaxDirectorySize, ErrDirectory)
	}
	if err := json.Unmarshal(text, &form); err != nil {
		return nil, fmt.Errorf("tickets: %w: %v", ErrDirectory, err)
	}
	if form.List == "" {
		return nil, fmt.Errorf("tickets: no lewes-key-list: %w", ErrDirectory)
	}
	if !strings.HasPrefix(form.List, listHead) || !pin.Verify([]byte(form.List), form.Signature) {
		return nil, fmt.Errorf("tickets: %w", ErrPin)
	}
	keys := make(map[KeyID]*PublicKey)
	for _, k := range form.Keys[:min(len(form.Keys), 2*MaxKeys)] {
		encoded, err := base64.URLEncoding.DecodeString(k.Key)
		if k.Type != Type || err != nil {
			continue // of another type
		}
		if public, err := ParsePublicKey(encoded); err == nil {
			keys[public.id] = public
		}
	}
	d, err := parseList(form.List, keys)
	if err != nil {
		return nil, err
	}
	d.RequestURI = form.RequestURI
	return d, nil
}

// parseList parses a list whose signature was verified: what list returns, and nothing else.
func parseList(list string, public map[KeyID]*PublicKey) (*Directory, error) {
	d := &Directory{}
	for n, line := range strings.Split(strings.TrimSuffix(list[len(listHead):], "\n"), "\n") {
		word, rest, _ := strings.Cut(line, " ")
		switch {
		case n == 0 && word == "issuer":
			d.Issuer = rest
		case n == 1 && word == "epoch":
			seconds, _ := strconv.ParseUint(rest, 10, 32) // a bad number fails the comparison below
			d.Epoch = time.Duration(seconds) * time.Second
		case n >= 2 && word == "key" && n < 2+MaxKeys:
			k, err := parseKey(rest, public)
			if err != nil {
				return nil, err
			}
			d.Keys = append(d.Keys, k)
		default:
			return nil, fmt.Errorf("tickets: line %d of the list of keys: %w", n+2, ErrDirectory)
		}
	}
	if d.list() != list {
		return nil, fmt.Errorf("tickets: list of keys: %w", ErrDirectory)
	}
	return d, d.check()
}

func parseKey(s string, public map[KeyID]*PublicKey) (k Key, err error) {
	var id []byte
	if _, err = fmt.Sscanf(s, "%d %d %d %x", &k.Bytes, &k.Seconds, &k.Epoch, &id); err != nil || len(id) != len(KeyID{}) {
		return k, fmt.Errorf("tickets: list of keys: %q: %w", s, ErrDirectory)
	}
	if k.Public = public[KeyID(id)]; k.Public == nil {
		return k, fmt.Errorf("tickets: the directory lacks the key %x of its list: %w", id, ErrDirectory)
	}
	return k, nil
}
