package registrar

import (
	"context"
	"errors"
	"net/netip"

	"go.uber.org/zap"

	"lewes/crypto/identity"
	"lewes/state/ledger"
)

// Recover puts the attachments of a ledger in order, before SetLedger: the device gets those that are on or
// were being added when the last process ended, and those that were being removed go.
func (r *Registrar) Recover(ctx context.Context, l Ledger) error {
	type attached struct {
		client identity.PublicKey
		ledger.Attachment
	}
	var adding, removing []attached
	var peers []Peer
	err := l.Attachments(func(client identity.PublicKey, a ledger.Attachment) error {
		if a.Mode != ledger.DVPN {
			return nil
		}
		switch a.State {
		case ledger.Removing:
			removing = append(removing, attached{client, a})
			return nil
		case ledger.Adding:
			adding = append(adding, attached{client, a})
		}
		p, err := r.sealer.open(client, &a)
		if err != nil {
			return err
		}
		peers = append(peers, p)
		return nil
	})
	if err != nil || r.config.Device == nil {
		return err
	}
	err = l.Reservations(func(a netip.Addr, held ledger.Reservation) error {
		if !held.Until.IsZero() {
			r.config.Device.Rest(held.Owner, a, held.Until)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := r.config.Device.Reconcile(ctx, peers); err != nil {
		r.config.Logger.Error("cannot set up the peers of the accounts", zap.Error(err))
		return nil // a Register reports it; relay goes on
	}
	for _, a := range adding {
		a.State = ledger.On
		if err := l.SetAttachment(ctx, a.client, a.Attachment, r.config.Now()); err != nil {
			return err
		}
	}
	for _, a := range removing {
		if err := r.config.Device.Remove(ctx, peerOf(a.client, &a.Attachment)); err != nil {
			return err
		}
		if err := l.RemoveAttachment(ctx, a.client, a.Mode, a.WireGuardKey, r.config.Device.RestTime(), r.config.Now()); err != nil {
			return err
		}
	}
	return nil
}

// End ends mode dvpn of an account that has nothing left, or whose client is not admitted any more. It does nothing if
// the account has bandwidth by now: a Register may have paid for it since the caller has looked.
func (r *Registrar) End(ctx context.Context, client identity.PublicKey) error {
	return r.end(ctx, client, r.ended)
}

// ended reports whether nothing is left of an account. With open access that is for the caller to decide.
func (r *Registrar) ended(a *ledger.Account) bool {
	standing := r.config.Standing(a.ID)
	switch {
	case r.config.Access == Open || !standing.Admitted:
		return true
	case r.config.Access == Listed && standing.Limits.Bytes == 0:
		return false
	}
	return r.left(a, r.config.Now()) == 0
}

func (r *Registrar) end(ctx context.Context, client identity.PublicKey, ended func(*ledger.Account) bool) error {
	unlock, err := r.locks.lock(ctx, lockKey{key: client})
	if err != nil {
		return err
	}
	defer unlock()
	l := r.ledger.Load().Ledger
	if l == nil || r.config.Device == nil {
		return nil
	}
	account, _, err := l.Account(client)
	if err != nil {
		return err
	}
	all := ended(&account)
	for _, a := range account.Attachments { // those in removal too, whose device failed
		if a.Mode == ledger.DVPN && (all || a.State == ledger.Removing) {
			if err := r.remove(ctx, l, client, a); err != nil && !errors.Is(err, ledger.ErrNoAttachment) { // its key has moved
				return err
			}
		}
	}
	return nil
}

// remove marks the attachment, then the device loses the peer, then the ledger the attachment.
func (r *Registrar) remove(ctx context.Context, l Ledger, client identity.PublicKey, a ledger.Attachment) error {
	if a.State != ledger.Removing {
		a.State = ledger.Removing
		if err := l.SetAttachment(ctx, client, a, r.config.Now()); err != nil {
			return err
		}
	}
	reached(12)
	if err := r.config.Device.Remove(ctx, peerOf(client, &a)); err != nil {
		return err
	}
	reached(13)
	return l.RemoveAttachment(ctx, client, a.Mode, a.WireGuardKey, r.config.Device.RestTime(), r.config.Now())
}
