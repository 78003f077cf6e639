package tickets

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"lewes/crypto/identity"
)

var (
	// ErrGateway means that a ticket is for another gateway.
	ErrGateway = errors.New("a ticket for another gateway")

	// ErrUnknownKey means that no issuer of the gateway has the key of a ticket.
	ErrUnknownKey = errors.New("unknown issuer key")

	// ErrExpired means that a ticket's epoch and the next are over.
	ErrExpired = errors.New("expired ticket")

	// ErrEarly means that a ticket's epoch has not begun: the gateway's clock is slow, or the issuer's fast.
	ErrEarly = errors.New("a ticket of an epoch to come")
)

// Verifier checks tickets for one gateway. It is safe for concurrent use.
type Verifier struct {
	gateway identity.PublicKey
	keys    atomic.Pointer[acceptedKeys]
}

// acceptedKeys is immutable. Issuers may list the key of another, which must not keep the tickets of that out.
type acceptedKeys map[KeyID][]*acceptedKey

// acceptedKey is a key with everything that a token is compared with.
type acceptedKey struct {
	Key
	issuer      string
	challenge   [sha256.Size]byte
	from, until time.Time
}

// Ticket is a token that passed all checks but the last: Verify.
type Ticket struct {
	Denomination
	Key    KeyID
	Epoch  uint32
	Issuer string
	From   time.Time // before it no ticket of this key is accepted
	Until  time.Time // from then on no ticket of this key is accepted
	Spent  [sha256.Size]byte

	token  Token
	public *PublicKey
}

// Offer is a kind of ticket that a gateway accepts.
type Offer struct {
	Denomination
	Issuer string
	Key    KeyID
}

// NewVerifier returns a verifier that accepts no ticket until SetIssuers.
func NewVerifier(gateway identity.PublicKey) *Verifier {
	v := &Verifier{gateway: gateway}
	v.keys.Store(new(acceptedKeys))
	return v
}

// SetIssuers replaces the issuers. Directories of one issuer must agree: ErrSecondKey.
func (v *Verifier) SetIssuers(directories []*Directory) error {
	keys := make(acceptedKeys)
	byIssuer := make(map[string]*Directory)
	for _, d := range directories {
		all := *d
		if other := byIssuer[d.Issuer]; other != nil {
			if err := d.Extends(other); err != nil {
				return fmt.Errorf("issuer %s: %w", d.Issuer, err)
			}
			all.Keys = slices.Concat(other.Keys, d.Keys)
		}
		byIssuer[d.Issuer] = &all
		challenge := sha256.Sum256(Challenge(d.Issuer, v.gateway))
		for _, k := range d.Keys {
			id := k.Public.id
			if other := keys.of(id, challenge); other != nil {
				if other.Denomination != k.Denomination || other.Epoch != k.Epoch {
					return fmt.Errorf("tickets: issuer %s has one key for two purposes: %w", d.Issuer, ErrDirectory)
				}
				continue
			}
			from, until := Validity(k.Epoch, d.Epoch)
			keys[id] = append(keys[id], &acceptedKey{k, d.Issuer, challenge, from, until})
		}
	}
	v.keys.Store(&keys)
	return nil
}

// of returns the key for tickets of a challenge, or nil.
func (a acceptedKeys) of(id KeyID, challenge [sha256.Size]byte) *acceptedKey {
	for _, k := range a[id] {
		if k.challenge == challenge {
			return k
		}
	}
	return nil
}

// all calls yield with each key.
func (a acceptedKeys) all(yield func(*acceptedKey) bool) {
	for _, list := range a {
		for _, k := range list {
			if !yield(k) {
				return
			}
		}
	}
}

// Keys returns how many keys tickets are accepted of at now.
func (v *Verifier) Keys(now time.Time) (n int) {
	for k := range v.keys.Load().all {
		if !now.Before(k.from) && now.Before(k.until) {
			n++
		}
	}
	return n
}

// Check makes all checks of a credential that cost little: its form, that its key is known and not
// expired at now, and that it is for this gateway. Errors are ErrMessage, ErrUnknownKey, ErrExpired,
// ErrEarly and ErrGateway. Without an error the caller looks Ticket.Spent up and then calls
// Ticket.Verify.
func (v *Verifier) Check(credential []byte, now time.Time) (*Ticket, error) {
	token, err := ParseToken(credential)
	if err != nil {
		return nil, err
	}
	keys := *v.keys.Load()
	k := keys.of(token.Key, token.Challenge)
	switch {
	case len(keys[token.Key]) == 0:
		return nil, fmt.Errorf("tickets: %w", ErrUnknownKey)
	case k == nil:
		return nil, fmt.Errorf("tickets: %w", ErrGateway)
	case now.Before(k.from):
		return nil, fmt.Errorf("tickets: %w", ErrEarly)
	case !now.Before(k.until):
		return nil, fmt.Errorf("tickets: %w", ErrExpired)
	}
	return &Ticket{k.Denomination, token.Key, k.Epoch, k.issuer, k.from, k.until, token.Spent(), token, k.Public}, nil
}

// Verify checks the issuer's signature, which takes tens of microseconds of a processor. The error is ErrSignature.
func (t *Ticket) Verify() error { return t.token.Verify(t.public) }

// Offers returns what a client may ask an issuer for at now, by issuer and size: the current key of
// each denomination.
func (v *Verifier) Offers(now time.Time) (offers []Offer) {
	type pair struct {
		issuer string
		Denomination
	}
	latest := make(map[pair]*acceptedKey)
	for k := range v.keys.Load().all {
		p := pair{k.issuer, k.Denomination}
		if begun := !now.Before(k.from.Add(ClockTolerance)); begun && now.Before(k.until) && (latest[p] == nil || k.Epoch > latest[p].Epoch) {
			latest[p] = k
		}
	}
	for p, k := range latest {
		offers = append(offers, Offer{p.Denomination, p.issuer, k.Public.id})
	}
	slices.SortFunc(offers, func(a, b Offer) int {
		return cmp.Or(cmp.Compare(a.Issuer, b.Issuer), cmp.Compare(a.Bytes, b.Bytes), cmp.Compare(a.Seconds, b.Seconds))
	})
	return offers
}
