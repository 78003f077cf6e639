package ledger

import (
	"net/netip"

	"lewes/crypto/identity"
)

// Account returns an account, and whether there is one.
func (l *Ledger) Account(id identity.PublicKey) (a Account, ok bool, err error) {
	err = l.view(func(t *txn) error {
		a, ok, err = t.account(id)
		return err
	})
	return a, ok && err == nil, err
}

// Accounts calls f with each account, until it returns an error. f must not change the ledger.
func (l *Ledger) Accounts(f func(Account) error) error {
	return l.view(func(t *txn) error {
		return t.bucket(bucketAccounts).ForEach(func(key, value []byte) error {
			a := Account{ID: identity.PublicKey(key)}
			if err := decodeValue(bucketAccounts, key, value, a.code); err != nil {
				return err
			}
			return f(a)
		})
	})
}

// Attachments calls f with each attachment, until it returns an error. f must not change the ledger.
func (l *Ledger) Attachments(f func(identity.PublicKey, Attachment) error) error {
	return l.Accounts(func(a Account) error {
		for _, t := range a.Attachments {
			if err := f(a.ID, t); err != nil {
				return err
			}
		}
		return nil
	})
}

// Reservations calls f with each address that an attachment holds or that rests, until it returns an error. f must
// not change the ledger.
func (l *Ledger) Reservations(f func(netip.Addr, Reservation) error) error {
	return l.view(func(t *txn) error {
		return t.bucket(bucketAddresses).ForEach(func(key, value []byte) error {
			var r Reservation
			if err := decodeValue(bucketAddresses, key, value, r.code); err != nil {
				return err
			}
			if !r.Until.IsZero() && !t.header.clock.Before(r.Until) {
				return nil
			}
			ip, _ := netip.AddrFromSlice(key)
			return f(ip, r)
		})
	})
}

// Spent reports whether a ticket is spent, and whether the same request of the same account spent it; Commit would then
// return Repeated. The error is ErrKeyClosed below the floor. It is a look ahead: only Commit decides.
func (l *Ledger) Spent(ticket Ticket, account identity.PublicKey, request [32]byte) (spent, same bool, err error) {
	err = l.view(func(t *txn) error {
		var s spend
		s, spent, _, err = t.spent(&ticket)
		same = spent && s == spend{request, account}
		return err
	})
	return spent, same, err
}
