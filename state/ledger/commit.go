package ledger

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"lewes/crypto/identity"
)

// Commit makes an entry durable in one transaction: the ticket is spent, the grant added and the attachment put in state
// Adding, or nothing is changed. A ticket that the same Request spent before is no error: the grant is not added
// again.
//
// An attachment without addresses keeps those of the one with its WireGuard key. One with another key goes into state Removing; both
// may have the same addresses. If another account has the key, its attachment is deleted and its addresses rest; the
// receipt has it.
//
// Refusals are ErrSpent, ErrKeyClosed, ErrGrants, ErrAccounts, ErrAttachments, ErrAddress, ErrInvalid and ErrClock;
// ErrStorage and ErrDamaged are faults. After another error, such as that of ctx, the entry may be in the ledger: repeat it.
func (l *Ledger) Commit(ctx context.Context, e Entry) (Receipt, error) {
	var receipt Receipt
	e.Ticket, e.Grant, e.Attach = copied(e.Ticket), copied(e.Grant), copied(e.Attach) // the change may outlive ctx
	err := l.update(ctx, e.Now, func(t *txn) (err error) {
		receipt, err = t.enter(&e)
		return err
	})
	if err != nil {
		return Receipt{}, err // after an error of ctx, receipt may still be written
	}
	return receipt, nil
}

func copied[T any](v *T) *T {
	if v == nil {
		return nil
	}
	c := *v
	return &c
}

func (e *Entry) check() error {
	switch {
	case e.Account == identity.PublicKey{}:
		return fmt.Errorf("%w: no account", ErrInvalid)
	case e.Ticket != nil && (e.Grant == nil || e.Request == [32]byte{}):
		return fmt.Errorf("%w: ticket without grant or request", ErrInvalid)
	case e.Ticket != nil && (!validTime(e.Ticket.From) || !validTime(e.Ticket.Until)):
		return fmt.Errorf("%w: ticket from %v until %v", ErrInvalid, e.Ticket.From, e.Ticket.Until)
	case e.Grant != nil && (!validTime(e.Grant.Expires) || e.Grant.Source == 0 || int(e.Grant.Source) >= len(sources)):
		return fmt.Errorf("%w: grant until %v from source %v", ErrInvalid, e.Grant.Expires, e.Grant.Source)
	}
	return nil
}

func (t *txn) enter(e *Entry) (r Receipt, err error) {
	if err := e.check(); err != nil {
		return r, err
	}
	a, exists, err := t.account(e.Account)
	if err != nil {
		return r, err
	}
	if !exists && t.bucket(bucketAccounts).Sequence() >= MaxAccounts {
		return r, ErrAccounts
	}
	r.Outcome = New
	var by issuer
	mine := spend{e.Request, e.Account}
	if e.Ticket != nil {
		s, spent, i, err := t.spent(e.Ticket)
		if err != nil {
			return r, err
		}
		if spent && s != mine {
			return r, ErrSpent
		}
		if by = i; spent {
			r.Outcome = Repeated
		}
	}
	if e.Grant != nil && r.Outcome == New {
		stood, err := a.grant(*e.Grant, e.Now)
		if err != nil {
			return r, err
		}
		if stood {
			r.Outcome = Repeated
		}
	}
	write := func() {}
	if e.Attach != nil {
		if write, r.Moved, err = t.attach(&a, *e.Attach); err != nil {
			return r, err
		}
	}
	a.Seen = t.header.clock
	r.Account = a
	var kept []byte
	var old result
	if e.Result != nil {
		if kept = e.Result(a); kept != nil {
			if old, err = t.oldResult(e.Request, kept); err != nil {
				return r, err
			}
		}
	}

	// Nothing refuses from here on.
	if e.Ticket != nil && r.Outcome == New {
		t.spend(e.Ticket, mine, by, e.Now)
	}
	write()
	if r.Outcome == New || e.Attach != nil || e.Ticket == nil {
		t.putAccount(&a, exists)
	}
	if kept != nil {
		t.putResult(e.Request, kept, old)
	}
	return r, nil
}

// grant adds a grant. It reports whether a listed one stood; the list then sets its bytes and end.
func (a *Account) grant(g Grant, now time.Time) (stood bool, err error) {
	if g.Source == SourceListed {
		if i := slices.IndexFunc(a.Grants, func(o Grant) bool { return o.Source == SourceListed && now.Before(o.Expires) }); i >= 0 {
			a.Grants[i].Bytes, a.Grants[i].Expires = max(g.Bytes, a.Grants[i].Used), g.Expires
			slices.SortStableFunc(a.Grants, byExpiry)
			return true, nil
		}
	}
	if len(a.Grants) >= MaxGrants {
		a.Grants = slices.DeleteFunc(a.Grants, func(o Grant) bool { return o.Left(now) == 0 })
	}
	if len(a.Grants) >= MaxGrants {
		return false, ErrGrants
	}
	a.numbers++
	g.Used, g.Number = 0, a.numbers
	a.Grants = append(a.Grants, g)
	slices.SortStableFunc(a.Grants, byExpiry)
	return false, nil
}

// attach changes the attachments of an account. It returns the writes to other buckets that this needs, and the attachment that
// another account loses.
func (t *txn) attach(a *Account, n Attachment) (write func(), moved *Attachment, err error) {
	n.State, n.PSK = Adding, slices.Clone(n.PSK)
	if !n.valid() {
		return nil, nil, fmt.Errorf("%w: attachment of mode %v", ErrInvalid, n.Mode)
	}
	same := a.find(n.Mode, n.WireGuardKey)
	for i := range a.Attachments {
		if a.Attachments[i].Mode == n.Mode && i != same {
			a.Attachments[i].State = Removing
		}
	}
	var old Attachment
	var loser *Account
	key := 0
	if same >= 0 {
		old = a.Attachments[same]
		if len(n.addresses()) == 0 {
			n.IPv4, n.IPv6 = old.IPv4, old.IPv6
		}
		a.Attachments[same] = n
	} else {
		if len(a.Attachments) >= MaxAttachments {
			return nil, nil, ErrAttachments
		}
		a.Attachments = append(a.Attachments, n)
		if loser, key, err = t.owner(n.WireGuardKey); err != nil {
			return nil, nil, err
		}
	}
	for _, ip := range n.addresses() {
		r, ok, err := t.reservation(ip)
		free := !ok || r.Owner == a.ID || !r.Until.IsZero() && !t.header.clock.Before(r.Until)
		if err != nil || !free {
			return nil, nil, cmp.Or(err, fmt.Errorf("%w: %v", ErrAddress, ip))
		}
	}
	if loser != nil {
		m := loser.Attachments[key]
		moved = &m
		loser.Attachments = slices.Delete(loser.Attachments, key, key+1)
	}
	return func() {
		if loser != nil {
			t.release(loser, *moved, MinRest)
			t.putAccount(loser, true)
		}
		if n.Mode == DVPN {
			r := reference(a.ID)
			t.put(bucketPeers, n.WireGuardKey[:], r.code)
		}
		t.release(a, old, MinRest)
		t.hold(a.ID, n.addresses())
	}, moved, nil
}

func (t *txn) hold(owner identity.PublicKey, list []netip.Addr) {
	for _, ip := range list {
		r := Reservation{Owner: owner}
		t.put(bucketAddresses, ip.AsSlice(), r.code)
	}
}

// owner returns the account that has a WireGuard key, and the index of its attachment; nil if none has.
func (t *txn) owner(key [32]byte) (*Account, int, error) {
	var id reference
	ok, err := t.get(bucketPeers, key[:], id.code)
	if err != nil || !ok {
		return nil, 0, err
	}
	a, _, err := t.account(identity.PublicKey(id))
	if err != nil {
		return nil, 0, err
	}
	i := a.find(DVPN, key)
	if i < 0 {
		return nil, 0, fmt.Errorf("%w: peer %x is not in its account", ErrDamaged, key[:8])
	}
	return &a, i, nil
}

// SetAttachment replaces the attachment with the same mode and WireGuard key, except for its addresses, or returns ErrNoAttachment.
func (l *Ledger) SetAttachment(ctx context.Context, id identity.PublicKey, n Attachment, now time.Time) error {
	return l.edit(ctx, id, n.Mode, n.WireGuardKey, now, func(t *txn, a *Account, i int) error {
		n.IPv4, n.IPv6, n.PSK = a.Attachments[i].IPv4, a.Attachments[i].IPv6, slices.Clone(n.PSK)
		if !n.valid() {
			return fmt.Errorf("%w: attachment of mode %v, state %v", ErrInvalid, n.Mode, n.State)
		}
		a.Attachments[i] = n
		return nil
	})
}

// RemoveAttachment deletes the attachment with a mode and a WireGuard key (zero except for DVPN), or returns ErrNoAttachment. Its
// addresses rest for a time, at least MinRest.
func (l *Ledger) RemoveAttachment(ctx context.Context, id identity.PublicKey, mode Mode, key [32]byte, rest time.Duration, now time.Time) error {
	return l.edit(ctx, id, mode, key, now, func(t *txn, a *Account, i int) error {
		if mode == DVPN {
			t.delete(bucketPeers, key[:])
		}
		removed := a.Attachments[i]
		a.Attachments = slices.Delete(a.Attachments, i, i+1)
		t.release(a, removed, rest)
		return nil
	})
}

// edit changes one attachment. The function writes nothing if it returns an error.
func (l *Ledger) edit(ctx context.Context, id identity.PublicKey, mode Mode, key [32]byte, now time.Time, f func(*txn, *Account, int) error) error {
	return l.update(ctx, now, func(t *txn) error {
		a, ok, err := t.account(id)
		if err != nil {
			return err
		}
		i := a.find(mode, key)
		if !ok || i < 0 {
			return ErrNoAttachment
		}
		if err := f(t, &a, i); err != nil {
			return err
		}
		t.putAccount(&a, true)
		return nil
	})
}
