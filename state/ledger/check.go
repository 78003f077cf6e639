package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"lewes/crypto/identity"
	"lewes/state/snapshot"
)

// maxProblems bounds the problems that a Report lists.
const maxProblems = 20

// Report is the content of a ledger, counted, and its problems.
type Report struct {
	File         string             `json:"file"`
	Size         int64              `json:"size"` // bytes
	Version      uint32             `json:"version"`
	Gateway      identity.PublicKey `json:"gateway"`
	Clock        time.Time          `json:"clock"` // ledger time of the last change
	Transactions uint64             `json:"transactions"`
	Accounts     int                `json:"accounts"`
	Grants       int                `json:"grants"`
	Attachments  int                `json:"attachments"`
	Addresses    int                `json:"addresses"` // held or resting
	Keys         int                `json:"keys"`      // with a list of spent tickets
	Spent        int                `json:"spent"`     // tickets
	Results      int                `json:"results"`
	Problems     []string           `json:"problems,omitempty"` // the first 20
	More         int                `json:"more,omitempty"`     // further problems
}

func (r *Report) problem(format string, args ...any) {
	if len(r.Problems) == maxProblems {
		r.More++
		return
	}
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// Check reads a whole ledger that no process has open, and changes nothing. The error is for a file that cannot be read as
// a ledger; Problems are those of its content.
func Check(path string) (r Report, err error) {
	db, err := openReadOnly(path)
	if err == nil {
		defer db.close()
		r, err = check(path, db)
	}
	return r, sentence(path, classify(err))
}

func openReadOnly(path string) (database, error) {
	return openFile(path, &bolt.Options{Timeout: lockWait, ReadOnly: true, PreLoadFreelist: true, FreelistType: bolt.FreelistMapType})
}

func check(path string, db database) (r Report, err error) {
	r.File = path
	err = guard(func() error {
		return db.View(func(tx *bolt.Tx) error {
			t, err := newTxn(tx)
			if err != nil {
				return err
			}
			r.Size, r.Version, r.Gateway, r.Clock, r.Transactions = tx.Size(), t.header.version, t.header.gateway, t.header.clock, uint64(tx.ID())
			for _, part := range []func(*txn, *Report) error{checkAccounts, checkPeers, checkAddresses, checkSpent, checkResults} {
				if err := part(t, &r); err != nil {
					return err
				}
			}
			return nil
		})
	})
	return r, err
}

// each decodes every value of a bucket, and counts.
func (r *Report) each(t *txn, bucket string, code func(*snapshot.Codec), reset func(), f func(key []byte)) (n int, err error) {
	err = t.bucket(bucket).ForEach(func(key, value []byte) error {
		n++
		reset()
		if err := decodeValue(bucket, key, value, code); err != nil {
			r.problem("%v", err)
		} else {
			f(key)
		}
		return nil
	})
	return n, err
}

func (r *Report) counted(t *txn, bucket string, n int) {
	if kept := t.bucket(bucket).Sequence(); kept != uint64(n) {
		r.problem("%d %s, the ledger counts %d", n, bucket, kept)
	}
}

func checkAccounts(t *txn, r *Report) (err error) {
	var a Account
	r.Accounts, err = r.each(t, bucketAccounts, func(c *snapshot.Codec) { a.code(c) }, func() { a = Account{} }, func(key []byte) {
		r.Grants += len(a.Grants)
		r.Attachments += len(a.Attachments)
		for _, at := range a.Attachments {
			if at.Mode != DVPN {
				continue
			}
			var owner reference
			if ok, err := t.get(bucketPeers, at.WireGuardKey[:], owner.code); err == nil && (!ok || !bytes.Equal(owner[:], key)) {
				r.problem("account %v has a peer that the ledger does not list for it", identity.PublicKey(key))
			}
			for _, ip := range at.addresses() {
				if held, ok, err := t.reservation(ip); err == nil && (!ok || !bytes.Equal(held.Owner[:], key) || !held.Until.IsZero()) {
					r.problem("account %v has the address %v, which the ledger does not reserve for it", identity.PublicKey(key), ip)
				}
			}
		}
	})
	r.counted(t, bucketAccounts, r.Accounts)
	return err
}

func checkPeers(t *txn, r *Report) error {
	var owner reference
	_, err := r.each(t, bucketPeers, owner.code, func() {}, func(key []byte) {
		if a, _, err := t.account(identity.PublicKey(owner)); err == nil && a.find(DVPN, [32]byte(key)) < 0 {
			r.problem("peer of account %v, which does not have it", a.ID)
		}
	})
	return err
}

func checkAddresses(t *txn, r *Report) (err error) {
	var held Reservation
	r.Addresses, err = r.each(t, bucketAddresses, held.code, func() {}, func(key []byte) {
		ip, _ := netip.AddrFromSlice(key)
		a, _, err := t.account(held.Owner)
		has := slices.ContainsFunc(a.Attachments, func(at Attachment) bool { return slices.Contains(at.addresses(), ip) })
		if err == nil && held.Until.IsZero() && !has {
			r.problem("address %v is held by account %v, which does not have it", ip, held.Owner)
		}
	})
	return err
}

func checkSpent(t *txn, r *Report) error {
	return t.bucket(bucketSpent).ForEachBucket(func(name []byte) error {
		r.Keys++
		return t.bucket(bucketSpent).Bucket(name).ForEach(func(key, value []byte) error {
			r.Spent++
			var s spend
			if err := decodeValue(bucketSpent, key, value, s.code); err != nil {
				r.problem("%v", err)
			}
			return nil
		})
	})
}

func checkResults(t *txn, r *Report) (err error) {
	var kept result
	r.Results, err = r.each(t, bucketResults, kept.code, func() {}, func(key []byte) {
		if t.bucket(bucketExpiry).Get(expiryKey(kept.expires, key)) == nil {
			r.problem("result %x has no expiry", key)
		}
	})
	if err == nil {
		r.counted(t, bucketResults, r.Results)
		_, err = r.each(t, bucketIssuers, new(issuer).code, func() {}, func([]byte) {})
	}
	return err
}

// Err returns an error with the problems of a report, or nil.
func (r Report) Err() error {
	if len(r.Problems) == 0 {
		return nil
	}
	errs := make([]error, 0, len(r.Problems)+1)
	for _, p := range r.Problems {
		errs = append(errs, errors.New(p))
	}
	if r.More > 0 {
		errs = append(errs, fmt.Errorf("and %d more", r.More))
	}
	return sentence(r.File, fmt.Errorf("%w: %d problems\n%w", ErrDamaged, len(r.Problems)+r.More, errors.Join(errs...)))
}
