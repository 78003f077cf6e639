package wallet

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"lewes/crypto/identity"
)

// Registration is what a ticket is spent for. A gateway answers the same ticket for an equal
// Registration by the first result.
type Registration struct {
	Gateway identity.PublicKey
	Account identity.PublicKey // the client's identity towards the gateway
	Mode    string
	Key     [32]byte // the client's WireGuard key or client_id; zero for modes without one
	URI     string   // the gateway's, for errors only
}

func (r Registration) binding() binding {
	return binding{hex32(r.Gateway), hex32(r.Account), r.Mode, hex32(r.Key)}
}

// Offer is a key whose tickets a gateway takes.
type Offer struct {
	KeyID [32]byte
	Bytes uint64 // that it grants for one
}

// Verdict is what an Answer means for the ticket that was sent.
type Verdict uint8

const (
	// Granted: the registration stands.
	Granted Verdict = iota
	// TicketNeeded: it needs a ticket.
	TicketNeeded
	// TicketRefused: the gateway will never take this ticket.
	TicketRefused
	// KeyUnknown: the gateway does not take tickets of this key now.
	KeyUnknown
	// Again: the same request may succeed later.
	Again
	// Failed: another request is needed; the ticket, if any, stays bound to this one.
	Failed
)

// Answer is a gateway's answer to a registration.
type Answer struct {
	Verdict   Verdict
	Error     error // of any Verdict but Granted
	Spent     bool  // TicketRefused: by another registration
	Remaining uint64
	Expires   time.Time // zero: never
	// Paid is what a Wallet adds: what was left after the last payment for the account, or more.
	Paid   uint64
	Offers []Offer // what pays for it; nil: unknown
}

// Ask sends a gateway a registration with a token, nil for none, and returns its answer. An error means that
// there was none: whether a token was spent is unknown.
type Ask func(ctx context.Context, token []byte) (Answer, error)

var (
	// ErrNoTicket means that the wallet has no ticket that the gateway takes.
	ErrNoTicket = errors.New("no ticket")
	// ErrNoGain means that a gateway took a ticket and granted too little for it.
	ErrNoGain = errors.New("the gateway took a ticket and granted less for it than it was bought for")
	// ErrSpentElsewhere means that other registrations had spent a ticket of the wallet.
	ErrSpentElsewhere = errors.New("spent already, but not by this wallet")
)

// maxRefused is how many tickets a gateway may refuse for one registration. All that it sees under one
// identity belong together for it, whether it takes them or not.
const maxRefused = 4

// Pauses between requests that the gateway answers by Again.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 5 * time.Second
)

// Account returns the client's key for an account at a gateway: the one in use, or a fresh one once that
// has ended. The caller wipes it.
func (w *Wallet) Account(ctx context.Context, gateway identity.PublicKey) (*identity.PrivateKey, error) {
	c, err := w.read()
	if err != nil {
		return nil, err
	}
	defer c.wipe()
	if a := c.account(hex32(gateway), w.now()); a != nil {
		return a.private(), nil
	}
	var key *identity.PrivateKey
	err = w.update(ctx, func(c *content) error {
		a := c.account(hex32(gateway), w.now())
		if a == nil {
			a = &account{Gateway: hex32(gateway), Seed: newSecret()}
			c.Accounts = append(c.Accounts, a)
		}
		key = a.private()
		return nil
	})
	if err != nil {
		if key != nil {
			key.Wipe()
		}
		return nil, err
	}
	return key, nil
}

func newSecret() secret {
	s := make(secret, 32)
	_, _ = rand.Read(s) // never fails
	return s
}

// account returns the account to use at a gateway: the one that a ticket is bound to, or any that has
// not ended.
func (c *content) account(gateway hex32, now time.Time) (found *account) {
	for _, a := range c.Accounts {
		if a.Gateway != gateway {
			continue
		}
		if c.binds(a.public()) {
			return a
		}
		if found == nil && !a.ended(now) {
			found = a
		}
	}
	return found
}

// Register registers with ask. It asks without a ticket first, and pays only if the gateway needs one. A
// ticket that is bound to the registration already, because its answer did not arrive, is sent again before that.
func (w *Wallet) Register(ctx context.Context, r Registration, ask Ask) (Answer, error) {
	unknown, held, err := w.resume(ctx, r, ask)
	if err != nil {
		return Answer{}, err
	}
	a, err := w.send(ctx, nil, ask)
	switch {
	case err != nil:
		return a, err
	case a.Verdict == Granted:
		w.Note(ctx, r, &a)
		return a, nil
	case a.Verdict == TicketNeeded && held != nil:
		return a, held
	case a.Verdict == TicketNeeded:
		a, _, err := w.pay(ctx, r, a.Offers, unknown, ask)
		return a, err
	}
	return a, a.Error
}

// TopUp pays for a registration that stands, unless by now its account has more than enough bytes and lasts beyond
// until. It returns ErrNoGain if the account has gained less than half of the ticket's bytes.
func (w *Wallet) TopUp(ctx context.Context, r Registration, enough uint64, until time.Time, ask Ask) (Answer, error) {
	unknown, held, err := w.resume(ctx, r, ask)
	if err != nil {
		return Answer{}, err
	}
	before, err := w.send(ctx, nil, ask)
	if err != nil {
		return before, err
	}
	if before.Verdict != Granted && before.Verdict != TicketNeeded {
		return before, before.Error
	}
	if before.Verdict == Granted && before.Remaining > enough && (before.Expires.IsZero() || before.Expires.After(until)) {
		w.Note(ctx, r, &before)
		return before, nil
	}
	if held != nil {
		return before, held
	}
	after, bytes, err := w.pay(ctx, r, before.Offers, unknown, ask)
	if err == nil && after.Remaining < before.Remaining+bytes/2 { // the rest may be used by now
		err = fmt.Errorf("wallet: %w; no more are spent for this session", ErrNoGain)
	}
	return after, err
}

// send calls ask until the answer is another than Again.
func (w *Wallet) send(ctx context.Context, token []byte, ask Ask) (Answer, error) {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		a, err := ask(ctx, token)
		if err != nil || a.Verdict != Again {
			return a, err
		}
		select {
		case <-ctx.Done():
			return a, errors.Join(a.Error, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// pay spends one ticket, and returns the bytes that it was bought for. Those that the gateway refuses are marked,
// and the next one is tried, except those of keys that are unknown to the gateway.
func (w *Wallet) pay(ctx context.Context, r Registration, offers []Offer, unknown map[hex32]bool, ask Ask) (a Answer, bytes uint64, err error) {
	for refused := 1; ; refused++ {
		x, fresh, err := w.bind(ctx, r, offers, unknown)
		if err != nil {
			return Answer{}, 0, err
		}
		a, err = w.send(ctx, x.Token, ask)
		again := false
		switch {
		case err != nil: // it stays bound
		case a.Verdict == Granted:
			w.settle(ctx, r, x.Token, &a)
		case a.Verdict == TicketRefused || a.Verdict == KeyUnknown && fresh:
			unknown[x.ID] = a.Verdict == KeyUnknown
			err = w.release(ctx, x.Token, a)
			again = err == nil && refused < maxRefused
			err = cmp.Or(err, a.Error)
		case a.Verdict == TicketNeeded: // although it has one
			err = cmp.Or(a.Error, fmt.Errorf("wallet: %w", ErrNoGain))
		default:
			err = a.Error
		}
		clear(x.Token)
		if !again {
			return a, x.Bytes, err
		}
	}
}

// resume sends a ticket that is bound to a registration again, and spends no other. The answer is the first one,
// which may no longer describe the account. A ticket whose key is unknown now stays bound. So does one that cannot be
// taken for another reason, held, without which nothing else is paid.
func (w *Wallet) resume(ctx context.Context, r Registration, ask Ask) (unknown map[hex32]bool, held, err error) {
	unknown = make(map[hex32]bool)
	c, err := w.read()
	if err != nil {
		return nil, nil, err
	}
	defer c.wipe()
	t := c.bound(r, unknown)
	if t == nil {
		return unknown, nil, nil
	}
	a, err := w.send(ctx, t.Token, ask)
	switch {
	case err != nil:
	case a.Verdict == Granted:
		w.settle(ctx, r, t.Token, &a)
	case a.Verdict == TicketRefused:
		err = w.release(ctx, t.Token, a)
	case a.Verdict == KeyUnknown:
		unknown[t.ID] = true
	default:
		held = a.Error
	}
	return unknown, held, err
}

// bound returns the ticket of a known key that is bound to a registration, or nil.
func (c *content) bound(r Registration, unknown map[hex32]bool) *ticket {
	b := r.binding()
	for _, t := range c.Tickets {
		if t.Spend != nil && *t.Spend == b && t.Refused == "" && !unknown[t.ID] {
			return t
		}
	}
	return nil
}

// bind stores that a ticket is spent for a registration, and returns a copy of it. From then on it is
// never sent for another one. Fresh means that it was not bound before.
func (w *Wallet) bind(ctx context.Context, r Registration, offers []Offer, unknown map[hex32]bool) (x ticket, fresh bool, err error) {
	err = w.update(ctx, func(c *content) error {
		t := c.bound(r, unknown)
		if fresh = t == nil; fresh {
			var err error
			if t, err = c.choose(&r, offers, unknown, w.now()); err != nil {
				return fmt.Errorf("wallet: %w", err)
			}
			b := r.binding()
			t.Spend = &b
		}
		x = *t
		x.Token = slices.Clone(t.Token)
		return nil
	})
	if err != nil {
		clear(x.Token)
	}
	return x, fresh, err
}

// choose returns the ticket to spend next at a gateway: the one that expires first, of those the smallest.
func (c *content) choose(r *Registration, offers []Offer, unknown map[hex32]bool, now time.Time) (best *ticket, err error) {
	var expired, refused, spent, unwanted, cheap int
	for _, t := range c.Tickets {
		if t.Gateway != hex32(r.Gateway) || t.Spend != nil {
			continue
		}
		i := slices.IndexFunc(offers, func(o Offer) bool { return o.KeyID == t.ID })
		switch {
		case t.Refused == ErrSpentElsewhere.Error():
			spent++
		case t.Refused != "":
			refused++
		case t.past(now):
			expired++
		case unknown[t.ID] || offers != nil && i < 0:
			unwanted++
		case offers != nil && offers[i].Bytes < t.Bytes:
			cheap++
		case best == nil || cmp.Or(cmp.Compare(t.Until, best.Until), cmp.Compare(t.Bytes, best.Bytes)) < 0:
			best = t
		}
	}
	if best != nil {
		return best, nil
	}
	lines := []string{fmt.Sprintf("for gateway %s", r.Gateway)}
	for _, why := range []struct {
		n    int
		text string
	}{
		{expired, "%d expired by this machine's clock"},
		{unwanted, "%d of keys that the gateway does not take now"},
		{cheap, "%d for which the gateway grants less than they were bought for"},
		{refused, "%d refused by the gateway; lewes tickets show prints why"},
		{spent, "%d spent already, but not by this wallet: it was copied to another machine, or restored from a backup"},
	} {
		if why.n > 0 {
			lines = append(lines, fmt.Sprintf(why.text, why.n))
		}
	}
	if spent > 0 {
		err = ErrSpentElsewhere
	}
	return nil, &noTicketError{strings.Join(lines, "\n"), cmp.Or(r.URI, "URI"), err}
}

// noTicketError is an ErrNoTicket with its reasons.
type noTicketError struct {
	reasons string
	uri     string
	further error
}

func (e *noTicketError) Error() string {
	return fmt.Sprintf("%v %s\nget tickets with: lewes tickets fetch --gateway '%s' --issuer 'URL#PIN' --voucher CODE", ErrNoTicket, e.reasons, e.uri)
}

func (e *noTicketError) Is(target error) bool {
	return target == ErrNoTicket || e.further != nil && target == e.further
}

// settle removes a ticket that the gateway has taken, and notes what the account has now. If that fails, the ticket
// stays bound, and is settled another time.
func (w *Wallet) settle(ctx context.Context, r Registration, token []byte, a *Answer) {
	a.Paid = a.Remaining
	_ = w.update(ctx, func(c *content) error {
		if i := c.find(token); i >= 0 {
			clear(c.Tickets[i].Token)
			c.Tickets = slices.Delete(c.Tickets, i, i+1)
		}
		c.note(r, a, true, w.now())
		return nil
	})
}

// release frees a ticket that the gateway did not take, and marks it unless only its key is unknown there.
func (w *Wallet) release(ctx context.Context, token []byte, a Answer) error {
	reason := ""
	switch {
	case a.Verdict == KeyUnknown:
	case a.Spent:
		reason = ErrSpentElsewhere.Error()
	default:
		reason = cmp.Or(a.Error, errors.New("refused")).Error()
	}
	return w.update(ctx, func(c *content) error {
		if i := c.find(token); i >= 0 {
			c.Tickets[i].Spend, c.Tickets[i].Refused = nil, reason
		}
		return nil
	})
}

func (c *content) find(token []byte) int {
	return slices.IndexFunc(c.Tickets, func(t *ticket) bool { return bytes.Equal(t.Token, token) })
}

// Note stores what a gateway reports about an account, which decides when the account has ended, and sets
// a.Paid. The registration stands even if that cannot be stored, so that is no error.
func (w *Wallet) Note(ctx context.Context, r Registration, a *Answer) {
	a.Paid = a.Remaining
	_ = w.update(ctx, func(c *content) error {
		c.note(r, a, false, w.now())
		return nil
	})
}

// note notes the answer in the account, and sets a.Paid. Paying means that it answers a payment.
func (c *content) note(r Registration, a *Answer, paying bool, now time.Time) {
	for _, x := range c.Accounts {
		if x.Gateway == hex32(r.Gateway) && x.public() == hex32(r.Account) {
			x.Seen, x.Remaining, x.Expires = now.Unix(), a.Remaining, 0
			if !a.Expires.IsZero() {
				x.Expires = a.Expires.Unix()
			}
			if paying {
				x.Paid = 0
			}
			x.Paid = max(x.Paid, a.Paid)
			a.Paid = x.Paid
		}
	}
}
