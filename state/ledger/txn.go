package ledger

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime/debug"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"lewes/crypto/identity"
	"lewes/crypto/kdf"
	"lewes/state/snapshot"
)

// Buckets. The number of accounts and of results is the sequence of their bucket.
const (
	bucketHeader    = "header"    // "header" → header
	bucketAccounts  = "accounts"  // identity → Account
	bucketPeers     = "peers"     // WireGuard key → reference to its account
	bucketAddresses = "addresses" // 4 or 16 bytes → Reservation
	bucketSpent     = "spent"     // hash of issuer, seconds of Until, key id → bucket of: spent → spend
	bucketIssuers   = "issuers"   // hash of issuer → issuer
	bucketResults   = "results"   // request → result
	bucketExpiry    = "expiry"    // seconds, request → nothing
)

var buckets = []string{bucketHeader, bucketAccounts, bucketPeers, bucketAddresses, bucketSpent, bucketIssuers, bucketResults, bucketExpiry}

// guard runs f and turns a panic, and a fault in the mapped file, into ErrDamaged.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, r)
		}
	}()
	return f()
}

// txn is a transaction. Methods that change the ledger read, and refuse, before they write: other changes share
// the transaction.
type txn struct {
	*bolt.Tx
	header header
	dirty  bool
	fatal  error // of a write
}

func newTxn(tx *bolt.Tx) (*txn, error) {
	t := &txn{Tx: tx}
	for _, name := range buckets {
		if tx.Bucket([]byte(name)) == nil {
			return nil, fmt.Errorf("%w: no bucket %s", ErrForeign, name)
		}
	}
	key := []byte(bucketHeader)
	value := tx.Bucket(key).Get(key)
	if value == nil {
		return nil, fmt.Errorf("%w: no header", ErrForeign)
	}
	err := decodeValue(bucketHeader, key, value, t.header.code)
	if err != nil && string(t.header.magic[:]) == magic && t.header.version > version {
		return nil, fmt.Errorf("%w: version %d, this program has %d", ErrNewer, t.header.version, version)
	}
	return t, err
}

func (t *txn) bucket(name string) *bolt.Bucket { return t.Bucket([]byte(name)) }

// get decodes the value of a key and reports whether there is one.
func (t *txn) get(bucket string, key []byte, code func(*snapshot.Codec)) (bool, error) {
	value := t.bucket(bucket).Get(key)
	if value == nil {
		return false, nil
	}
	return true, decodeValue(bucket, key, value, code)
}

func (t *txn) wrote(err error) {
	if t.dirty = true; err != nil && t.fatal == nil {
		t.fatal = err
	}
}

func (t *txn) put(bucket string, key []byte, code func(*snapshot.Codec)) {
	t.wrote(t.bucket(bucket).Put(key, encodeValue(bucket, key, code)))
}

func (t *txn) delete(bucket string, key []byte) { t.wrote(t.bucket(bucket).Delete(key)) }

// count changes the number of keys that a bucket keeps in its sequence.
func (t *txn) count(bucket string, change int) {
	b := t.bucket(bucket)
	t.wrote(b.SetSequence(b.Sequence() + uint64(change)))
}

func (t *txn) putHeader() {
	key := []byte(bucketHeader)
	t.put(bucketHeader, key, t.header.code)
}

func (t *txn) account(id identity.PublicKey) (a Account, ok bool, err error) {
	ok, err = t.get(bucketAccounts, id[:], a.code)
	a.ID = id
	return a, ok, err
}

func (t *txn) putAccount(a *Account, existed bool) {
	if !existed {
		t.count(bucketAccounts, 1)
	}
	t.put(bucketAccounts, a.ID[:], a.code)
}

// spentName is the name of the bucket of a ticket's key. Those of an issuer are in the order of their end.
func (k *Ticket) spentName() []byte {
	b := append(k.issuerKey(), binary.BigEndian.AppendUint64(nil, uint64(k.Until.Unix()))...)
	return append(b, k.KeyID[:]...)
}

func (k *Ticket) issuerKey() []byte {
	h := kdf.Hash([]byte(k.Issuer))
	return h[:]
}

// spentUntil is the end in a spentName.
func spentUntil(name []byte) time.Time {
	return time.Unix(int64(binary.BigEndian.Uint64(name[kdf.HashSize:])), 0)
}

// spent returns how a ticket was spent, and its issuer.
func (t *txn) spent(k *Ticket) (s spend, ok bool, i issuer, err error) {
	if _, err = t.get(bucketIssuers, k.issuerKey(), i.code); err != nil {
		return s, false, i, err
	}
	if !k.Until.Truncate(time.Second).After(i.floor) {
		return s, false, i, ErrKeyClosed
	}
	if b := t.bucket(bucketSpent).Bucket(k.spentName()); b != nil {
		if value := b.Get(k.Spent[:]); value != nil {
			return s, true, i, decodeValue(bucketSpent, k.Spent[:], value, s.code)
		}
	}
	return s, false, i, nil
}

// spend records a ticket, and drops the lists of spent tickets that have ended. The clock alone ends none: the issuer must have
// signed tickets of an epoch that begins then.
func (t *txn) spend(k *Ticket, s spend, i issuer, now time.Time) {
	all, prefix := t.bucket(bucketSpent), k.issuerKey()
	b, err := all.CreateBucketIfNotExists(k.spentName())
	if t.wrote(err); err != nil {
		return
	}
	t.wrote(b.Put(k.Spent[:], encodeValue(bucketSpent, k.Spent[:], s.code)))

	end := i.newest
	if k.From.After(end) {
		end = k.From
	}
	changed := end != i.newest
	i.newest = end
	if end = end.Add(evidenceSlack); now.Before(end) {
		end = now
	}
	var closed [][]byte
	c := all.Cursor()
	for name, _ := c.Seek(prefix); bytes.HasPrefix(name, prefix) && !spentUntil(name).After(end); name, _ = c.Next() {
		if !bytes.Equal(name, k.spentName()) {
			closed = append(closed, bytes.Clone(name))
		}
	}
	for _, name := range closed {
		if until := spentUntil(name); until.After(i.floor) {
			i.floor = until
		}
		t.wrote(all.DeleteBucket(name))
	}
	if changed || closed != nil {
		t.put(bucketIssuers, prefix, i.code)
	}
}

// evidenceSlack covers the tolerance of clocks at both ends of an epoch.
const evidenceSlack = time.Hour

func (t *txn) reservation(ip netip.Addr) (r Reservation, ok bool, err error) {
	ok, err = t.get(bucketAddresses, ip.AsSlice(), r.code)
	return r, ok, err
}

// release lets the addresses of an attachment that an account had rest, but for those that another one of it has.
func (t *txn) release(owner *Account, had Attachment, rest time.Duration) {
	for _, ip := range had.addresses() {
		if slices.ContainsFunc(owner.Attachments, func(a Attachment) bool { return slices.Contains(a.addresses(), ip) }) {
			continue
		}
		r := Reservation{owner.ID, t.header.clock.Add(max(rest, MinRest))}
		t.put(bucketAddresses, ip.AsSlice(), r.code)
	}
}
