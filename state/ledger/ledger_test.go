package ledger

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"lewes/crypto/identity"
)

var (
	start   = time.Date(2026, 11, 29, 13, 0, 0, 0, time.UTC)
	gateway = identity.PublicKey{1}
)

func open(t testing.TB, path string) *Ledger {
	t.Helper()
	l, err := Open(path, Options{Gateway: gateway, Now: start})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func fresh(t testing.TB) *Ledger { return open(t, filepath.Join(t.TempDir(), "ledger")) }

func client(n byte) identity.PublicKey { return identity.PublicKey{2, n} }

// epochFrom is the begin of an epoch of a week; epoch 10 has just begun at start.
func epochFrom(epoch uint32) time.Time {
	return start.Add((time.Duration(epoch) - 10) * 7 * 24 * time.Hour).Add(-5 * time.Minute)
}

// spendEntry is a registration with a ticket of its own number and epoch.
func spendEntry(account identity.PublicKey, n byte, epoch uint32) Entry {
	return Entry{
		Account: account, Request: [32]byte{3, n}, Now: start,
		Ticket: &Ticket{Issuer: "issuer.example", KeyID: [32]byte{4, byte(epoch)}, From: epochFrom(epoch), Until: epochFrom(epoch + 2).Add(10 * time.Minute), Spent: [32]byte{5, n}},
		Grant:  &Grant{Bytes: 1000, Expires: start.Add(time.Hour * time.Duration(1+n)), Source: SourceTicket},
	}
}

func commit(t testing.TB, l *Ledger, e Entry) Receipt {
	t.Helper()
	r, err := l.Commit(context.Background(), e)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// putResult keeps a result without a registration.
func putResult(l *Ledger, request [32]byte, b []byte, now time.Time) error {
	return l.update(context.Background(), now, func(t *txn) error {
		old, err := t.oldResult(request, b)
		if err == nil {
			t.putResult(request, b, old)
		}
		return err
	})
}

// floorOf returns the floor of an issuer.
func floorOf(l *Ledger, name string) (i issuer) {
	_ = l.view(func(t *txn) error {
		_, err := t.get(bucketIssuers, (&Ticket{Issuer: name}).issuerKey(), i.code)
		return err
	})
	return i
}

func peer(n byte, ip string) *Attachment {
	return &Attachment{Mode: DVPN, WireGuardKey: [32]byte{6, n}, PSK: []byte{7, n}, IPv4: netip.MustParseAddr(ip)}
}

func TestCommitSpendsOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	l := open(t, path)
	e := spendEntry(client(1), 1, 10)
	if r := commit(t, l, e); r.Outcome != New || len(r.Account.Grants) != 1 {
		t.Fatalf("first: %+v", r)
	}
	if r := commit(t, l, e); r.Outcome != Repeated || len(r.Account.Grants) != 1 {
		t.Fatalf("repeated: %+v", r)
	}
	other := e
	other.Account = client(2)
	if _, err := l.Commit(context.Background(), other); !errors.Is(err, ErrSpent) {
		t.Fatalf("another account: %v", err)
	}
	other = e
	other.Request = [32]byte{9}
	if _, err := l.Commit(context.Background(), other); !errors.Is(err, ErrSpent) {
		t.Fatalf("another request: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, path)
	if r := commit(t, l, e); r.Outcome != Repeated || len(r.Account.Grants) != 1 {
		t.Fatalf("after a restart: %+v", r)
	}
	if _, ok, err := l.Account(client(2)); ok || err != nil {
		t.Fatalf("a refused entry made an account: %v, %v", ok, err)
	}
}

// One ticket spent at once by 100 sessions gives one grant.
func TestCommitConcurrently(t *testing.T) {
	l := fresh(t)
	var wg sync.WaitGroup
	outcomes := make([]error, 100)
	for i := range outcomes {
		wg.Go(func() { _, outcomes[i] = l.Commit(context.Background(), spendEntry(client(byte(i)), 1, 10)) })
	}
	wg.Wait()
	n := 0
	for _, err := range outcomes {
		if err == nil {
			n++
		} else if !errors.Is(err, ErrSpent) {
			t.Error(err)
		}
	}
	if n != 1 {
		t.Errorf("%d grants", n)
	}
}
