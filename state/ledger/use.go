package ledger

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"time"

	"lewes/crypto/identity"
)

// sweepSize bounds the deletions from each bucket, and the accounts visited, in one transaction.
const sweepSize = 256

// Use charges used bytes to the grants of accounts, those that expire first at first. Unknown accounts are skipped, and
// so are bytes beyond the grants that were good at now: the traffic is over. An account that is ErrDamaged
// does not keep the others from being charged. After an error of ctx, all may be charged.
//
// Use also deletes expired content, a bounded part each time, so that it is called each second even with
// nothing to charge; it then writes once a minute at most.
func (l *Ledger) Use(ctx context.Context, used map[identity.PublicKey]uint64, now time.Time) error {
	used = maps.Clone(used)
	return l.update(ctx, now, func(t *txn) (damaged error) {
		for id, n := range used {
			a, ok, err := t.account(id)
			if err != nil {
				damaged = err
				continue
			}
			if !ok {
				continue
			}
			changed := charge(a.Grants, n, now)
			if t.header.clock.Sub(a.Seen) > AccountLife/7 {
				a.Seen, changed = t.header.clock, true
			}
			if changed {
				t.putAccount(&a, true)
			}
		}
		l.sweep(t, now)
		return damaged
	})
}

// charge reports whether it changed a grant.
func charge(grants []Grant, n uint64, now time.Time) (changed bool) {
	for i := range grants {
		take := min(n, grants[i].Left(now))
		grants[i].Used += take
		n -= take
		changed = changed || take > 0
	}
	return changed
}

// sweep deletes results and rests that have ended, and expired grants and accounts without content. A grant ends by both
// clocks. It passes over damaged values, which are reported where they are used, and by Check.
func (l *Ledger) sweep(t *txn, now time.Time) {
	clock := t.header.clock
	var keys [][]byte
	c := t.bucket(bucketExpiry).Cursor()
	for key, _ := c.First(); key != nil && len(keys) < sweepSize && !expiryTime(key).After(clock); key, _ = c.Next() {
		keys = append(keys, bytes.Clone(key))
	}
	for _, key := range keys {
		t.dropResult(key)
	}
	if !t.dirty && clock.Sub(l.marked) < time.Minute {
		return
	}
	t.visit(bucketAddresses, &l.address, func(key, value []byte) {
		var r Reservation
		if decodeValue(bucketAddresses, key, value, r.code) == nil && !r.Until.IsZero() && !clock.Before(r.Until) {
			t.delete(bucketAddresses, key)
		}
	})
	if clock.Before(now) {
		now = clock
	}
	t.visit(bucketAccounts, &l.account, func(key, value []byte) {
		a := Account{ID: identity.PublicKey(key)}
		if decodeValue(bucketAccounts, key, value, a.code) != nil {
			return
		}
		live := slices.DeleteFunc(slices.Clone(a.Grants), func(g Grant) bool { return !now.Before(g.Expires) })
		peer := slices.ContainsFunc(a.Attachments, func(t Attachment) bool { return t.Mode == DVPN })
		switch {
		case len(live) == 0 && !peer && !now.Before(a.Seen.Add(AccountLife)):
			t.count(bucketAccounts, -1)
			t.delete(bucketAccounts, key)
		case len(live) < len(a.Grants):
			a.Grants = live
			t.putAccount(&a, true)
		}
	})
}

// visit calls f with the next sweepSize keys of a bucket, from cursor on, in copies.
func (t *txn) visit(bucket string, cursor *[]byte, f func(key, value []byte)) {
	var pairs [][2][]byte
	c := t.bucket(bucket).Cursor()
	key, value := c.Seek(*cursor)
	for ; key != nil && len(pairs) < sweepSize; key, value = c.Next() {
		pairs = append(pairs, [2][]byte{bytes.Clone(key), bytes.Clone(value)})
	}
	*cursor = bytes.Clone(key) // nil after the last
	for _, p := range pairs {
		f(p[0], p[1])
	}
}

// expiryKey begins with the time, so that the bucket is in its order.
func expiryKey(expires time.Time, request []byte) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(expires.Unix())), request...)
}

func expiryTime(key []byte) time.Time { return time.Unix(int64(binary.BigEndian.Uint64(key)), 0) }

func (t *txn) dropResult(key []byte) {
	t.delete(bucketExpiry, key)
	t.delete(bucketResults, key[8:])
	t.count(bucketResults, -1)
}

// Result returns the kept result of a request, and whether there is one.
func (l *Ledger) Result(request [32]byte) (b []byte, ok bool, err error) {
	err = l.view(func(t *txn) error {
		var r result
		ok, err = t.get(bucketResults, request[:], r.code)
		b = r.bytes
		return err
	})
	return b, ok && err == nil, err
}

// oldResult returns the result that putResult replaces, or the reason against b.
func (t *txn) oldResult(request [32]byte, b []byte) (old result, err error) {
	if len(b) > MaxResult {
		return old, fmt.Errorf("%w: result of %d bytes, limit %d", ErrInvalid, len(b), MaxResult)
	}
	_, err = t.get(bucketResults, request[:], old.code)
	return old, err
}

// putResult keeps a result for ResultLife, in the place of an earlier one of the request.
func (t *txn) putResult(request [32]byte, b []byte, old result) {
	if !old.expires.IsZero() {
		t.dropResult(expiryKey(old.expires, request[:]))
	} else if t.bucket(bucketResults).Sequence() >= MaxResults {
		if first, _ := t.bucket(bucketExpiry).Cursor().First(); first != nil {
			t.dropResult(bytes.Clone(first))
		}
	}
	r := result{t.header.clock.Add(ResultLife).Truncate(time.Second), b}
	t.put(bucketResults, request[:], r.code)
	t.wrote(t.bucket(bucketExpiry).Put(expiryKey(r.expires, request[:]), nil))
	t.count(bucketResults, 1)
}
