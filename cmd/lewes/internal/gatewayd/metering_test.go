package gatewayd

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/zap"

	"lewes/cmd/lewes/internal/config"
	"lewes/crypto/identity"
	"lewes/router/access"
	"lewes/router/meter"
	"lewes/state/ledger"
)

// listedRegistration returns the registration of a gateway whose list of clients has a line, with its ledger and
// a book. limit replaces the line.
func listedRegistration(t *testing.T, client identity.PublicKey, limits string) (r *registration, book *meter.Book, limit func(string)) {
	t.Helper()
	c := config.Default()
	c.StateDir, c.Registration.Access = t.TempDir(), config.RegistrationListed
	write := func(limits string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(c.StateDir, "clients"), []byte(client.String()+" "+limits+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(limits)
	control, err := newAccessControl(c, true, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if r, err = newRegistration(c, identity.FromSeed(&[32]byte{1}), control, nil, zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	if err := r.open(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	book = meter.NewBook(meter.Config{Shards: 1, Now: time.Now, Renew: r.renew})
	r.count(book)
	return r, book, func(limits string) {
		t.Helper()
		write(limits)
		list, err := access.Load(filepath.Join(c.StateDir, "clients"))
		if err != nil || list.Err() != nil {
			t.Fatal(err, list.Err())
		}
		rule := &accessRule{list: list}
		_, changed := rule.diff(control.rule.Swap(rule), time.Now())
		r.relimit(changed)
	}
}

// TestListedBandwidth: a client of the list has its bandwidth until it is used up, what it has used is in the
// ledger, another limit applies at once, and another period begins with all of it.
func TestListedBandwidth(t *testing.T) {
	anna := identity.FromSeed(&[32]byte{2}).Public()
	r, book, limit := listedRegistration(t, anna, "bytes=1000/30d")
	grants, found, err := r.Renew(t.Context(), anna)
	if err != nil || !found {
		t.Fatal(found, err)
	}
	s := book.Join(0, anna, meter.FromLedger(grants), r.unlimited(anna))
	expect := func(what string, bytes uint64, unlimited bool) {
		t.Helper()
		if got, _ := book.Balance(anna); got.Bytes != bytes && !unlimited || got.Unlimited != unlimited {
			t.Errorf("%s: %+v, want %d bytes, unlimited %v", what, got, bytes, unlimited)
		}
	}
	s.Charge(600)
	expect("after 600 bytes", 400, false)
	limit("bytes=2000/30d")
	expect("with a higher limit", 1400, false)
	limit("bytes=700/30d")
	expect("with a lower limit", 100, false)
	limit("")
	expect("without a limit", 0, true)
	limit("bytes=1000/30d")
	expect("with the first limit again", 400, false)
	if err := book.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a, ok, err := r.ledger.Account(anna); err != nil || !ok || len(a.Grants) != 1 || a.Grants[0].Used != 600 || a.Grants[0].Source != ledger.SourceListed {
		t.Errorf("the ledger has %+v (%v)", a, err)
	}
	if s.Charge(401) != meter.UsedUp || s.Charge(400) != meter.Charged {
		t.Error("400 bytes are not what is left")
	}
	r.renew([]identity.PublicKey{anna})
	expect("before the period has ended", 0, false)
}

// TestBookReadsTheLedger: a peer without a session is charged to its account in the ledger.
func TestBookReadsTheLedger(t *testing.T) {
	anna, ben := identity.FromSeed(&[32]byte{2}).Public(), identity.FromSeed(&[32]byte{3}).Public()
	r, _, _ := listedRegistration(t, anna, "bytes=1000/30d")
	if _, _, err := r.Renew(t.Context(), anna); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		used uint64
		ends bool
	}{{400, false}, {0, false}, {600, true}} {
		if ended, err := r.Charge(t.Context(), map[identity.PublicKey]uint64{anna: c.used}); err != nil || len(ended) == 1 != c.ends {
			t.Errorf("%d more bytes: ended %v (%v)", c.used, ended, err)
		}
	}
	if ended, err := r.Charge(t.Context(), map[identity.PublicKey]uint64{ben: 0}); err != nil || len(ended) == 0 || ended[0] != ben || r.unlimited(ben) {
		t.Errorf("a client that is not in the list: ended %v (%v)", ended, err)
	}
}

// TestEndReadsTheLedger: an account that was paid for, without a session that knows of it, is charged for its peer.
func TestEndReadsTheLedger(t *testing.T) {
	anna := identity.FromSeed(&[32]byte{2}).Public()
	r, book, _ := listedRegistration(t, anna, "bytes=1000/30d")
	charge := func(bytes uint64, ends bool) {
		t.Helper()
		if ended, err := r.Charge(t.Context(), map[identity.PublicKey]uint64{anna: bytes}); err != nil || len(ended) == 1 != ends {
			t.Errorf("ended %v (%v)", ended, err)
		}
	}
	charge(0, true)
	if _, _, err := r.Renew(t.Context(), anna); err != nil {
		t.Fatal(err)
	}
	if err := r.End(t.Context(), anna); err != nil {
		t.Fatal(err)
	}
	charge(400, false)
	if got, _ := book.Balance(anna); got.Bytes != 600 {
		t.Errorf("%d bytes are left, want 600", got.Bytes)
	}
}

// TestPeerEndsWithItsPlaceInTheList: the WireGuard peer of a client without a limit ends when the client is no longer
// admitted.
func TestPeerEndsWithItsPlaceInTheList(t *testing.T) {
	anna := identity.FromSeed(&[32]byte{2}).Public()
	r, _, limit := listedRegistration(t, anna, "")
	for limits, ends := range map[string]bool{"": false, "expires=2020-01-01": true} {
		limit(limits)
		if ended, err := r.Charge(t.Context(), map[identity.PublicKey]uint64{anna: 5}); err != nil || len(ended) > 0 != ends {
			t.Errorf("%q: ended %v (%v)", limits, ended, err)
		}
	}
}
