package wallet

import (
	"cmp"
	"slices"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/tickets"
)

// State is the state of a ticket.
type State string

// The states of a ticket.
const (
	Ready    State = "ready"
	Spending State = "spending" // bound to a registration that was not answered yet
	Expired  State = "expired"  // by this machine's clock
	Refused  State = "refused"  // by the gateway
)

// Tickets is a number of tickets that are alike.
type Tickets struct {
	Gateway identity.PublicKey `json:"gateway"`
	Issuer  string             `json:"issuer"` // its name
	Bytes   uint64             `json:"bytes"`  // that each grants
	Seconds uint64             `json:"seconds"`
	Epoch   uint32             `json:"epoch"`
	KeyID   hex32              `json:"key_id"` // the same for all customers, or the issuer marks them
	Until   time.Time          `json:"spend_until"`
	State   State              `json:"state"`
	Reason  string             `json:"reason,omitempty"` // of Refused
	Count   int                `json:"count"`
}

// Fetching is an unfinished Fetch.
type Fetching struct {
	Gateway identity.PublicKey `json:"gateway"`
	Issuer  string             `json:"issuer"`
	Missing int                `json:"missing"` // tickets
}

// Account is an identity of this client at a gateway.
type Account struct {
	Gateway   identity.PublicKey `json:"gateway"`
	Identity  identity.PublicKey `json:"identity"`
	Ended     bool               `json:"ended"`
	Reported  time.Time          `json:"reported,omitzero"` // when the gateway reported what follows; zero: never
	Remaining uint64             `json:"remaining_bytes"`
	Expires   time.Time          `json:"expires,omitzero"` // zero: never
}

// Contents is what a wallet has, without its secrets.
type Contents struct {
	Tickets  []Tickets  `json:"tickets"`
	Fetches  []Fetching `json:"unfinished_fetches"`
	Accounts []Account  `json:"accounts"`
}

// Contents returns what the wallet has. Tickets are ordered by gateway and by when they expire.
func (w *Wallet) Contents() (Contents, error) {
	c, err := w.read()
	if err != nil {
		return Contents{}, err
	}
	defer c.wipe()
	now := w.now()
	all := Contents{[]Tickets{}, []Fetching{}, []Account{}}
	for _, t := range c.Tickets {
		x := Tickets{identity.PublicKey(t.Gateway), issuerName(t.Issuer), t.Bytes, t.Seconds, t.Epoch, t.ID, unixTime(t.Until), t.state(now), t.Refused, 1}
		alike := func(y Tickets) bool { y.Count = 1; return y == x }
		if i := slices.IndexFunc(all.Tickets, alike); i >= 0 {
			all.Tickets[i].Count++
		} else {
			all.Tickets = append(all.Tickets, x)
		}
	}
	slices.SortStableFunc(all.Tickets, func(a, b Tickets) int {
		return cmp.Or(slices.Compare(a.Gateway[:], b.Gateway[:]), a.Until.Compare(b.Until), cmp.Compare(a.Bytes, b.Bytes))
	})
	for _, f := range c.Fetches {
		all.Fetches = append(all.Fetches, Fetching{identity.PublicKey(f.Gateway), issuerName(f.Issuer), len(f.Seeds)})
	}
	for _, a := range c.Accounts {
		x := Account{Gateway: identity.PublicKey(a.Gateway), Identity: identity.PublicKey(a.public()), Ended: a.ended(now), Remaining: a.Remaining}
		if a.Seen != 0 {
			x.Reported = unixTime(a.Seen)
		}
		if a.Expires != 0 {
			x.Expires = unixTime(a.Expires)
		}
		all.Accounts = append(all.Accounts, x)
	}
	return all, nil
}

func unixTime(seconds int64) time.Time { return time.Unix(seconds, 0).UTC() }

func issuerName(s string) string {
	i, err := tickets.ParseIssuer(s)
	if err != nil {
		return ""
	}
	return i.Name()
}

func (t *ticket) state(now time.Time) State {
	switch {
	case t.Refused != "":
		return Refused
	case t.past(now):
		return Expired
	case t.Spend != nil:
		return Spending
	}
	return Ready
}
