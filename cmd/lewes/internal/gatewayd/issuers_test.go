package gatewayd

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"lewes/cmd/lewes/internal/config"
	"lewes/crypto/identity"
	"lewes/crypto/tickets"
	"lewes/router/registrar"
)

// fakeIssuer publishes a directory, or fails.
type fakeIssuer struct {
	*httptest.Server
	pin    *identity.PrivateKey
	text   atomic.Pointer[[]byte] // nil: it fails
	asked  atomic.Int32
	source config.Issuer
}

func newFakeIssuer(t *testing.T) *fakeIssuer {
	f := &fakeIssuer{pin: identity.FromSeed(&[32]byte{9})}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.asked.Add(1)
		switch text := f.text.Load(); {
		case r.URL.Path != tickets.DirectoryPath:
			http.NotFound(w, r)
		case text == nil:
			http.Error(w, "down", http.StatusInternalServerError)
		default:
			_, _ = w.Write(*text)
		}
	}))
	t.Cleanup(f.Close)
	if err := f.source.UnmarshalText([]byte(f.URL + "#" + f.pin.Public().String())); err != nil {
		t.Fatal(err)
	}
	return f
}

// publish publishes a key for an epoch under a name, by default the issuer's own.
func (f *fakeIssuer) publish(t *testing.T, name string, epoch uint32, key *tickets.PrivateKey) {
	t.Helper()
	if name == "" {
		name = strings.TrimPrefix(f.URL, "http://")
	}
	d := &tickets.Directory{Issuer: name, Epoch: tickets.DefaultEpoch, Keys: []tickets.Key{{Denomination: tickets.Denomination{Bytes: 1, Seconds: 1}, Epoch: epoch, Public: key.Public()}}}
	text, err := d.Sign(f.pin)
	if err != nil {
		t.Fatal(err)
	}
	f.text.Store(&text)
}

func ticketKey(t *testing.T) *tickets.PrivateKey {
	t.Helper()
	k, err := tickets.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestIssuerKeys covers an issuer that is down for a while, also across a restart of the gateway.
func TestIssuerKeys(t *testing.T) {
	f, state, now := newFakeIssuer(t), t.TempDir(), time.Now()
	epoch := tickets.EpochAt(now, tickets.DefaultEpoch)
	gateway := identity.FromSeed(&[32]byte{1}).Public()
	core, log := observer.New(zap.InfoLevel)
	start := func() *issuers {
		i := newIssuers(gateway, state, zap.New(core))
		i.replace([]config.Issuer{f.source})
		return i
	}
	i := start()
	expect := func(i *issuers, when string, offers int, failing bool) {
		t.Helper()
		if n := len(i.verifier.Offers(now)); n != offers {
			t.Errorf("%s: %d offers, want %d", when, n, offers)
		}
		want := registrar.IssuerStats{Keys: uint64(offers)}
		if failing {
			want.Failing = 1
		}
		if got := i.stats(now); got != want {
			t.Errorf("%s: %+v, want %+v", when, got, want)
		}
		if got := slices.Equal(i.failing(), []string{f.URL}); got != failing {
			t.Errorf("%s: failing are %q", when, i.failing())
		}
	}
	refresh := func(after time.Duration, fetched int32) {
		t.Helper()
		before := f.asked.Load()
		i.refresh(t.Context(), now.Add(after))
		if n := f.asked.Load() - before; n != fetched {
			t.Errorf("after %v it was asked %d times, want %d", after, n, fetched)
		}
	}

	refresh(0, 1)
	expect(i, "down at first", 0, true)
	f.publish(t, "", epoch, ticketKey(t))
	refresh(issuerRetry-1, 0)
	refresh(issuerRetry, 1)
	expect(i, "up", 1, false)
	f.text.Store(nil)
	refresh(issuerRetry+issuerInterval-1, 0)
	refresh(issuerRetry+issuerInterval, 1)
	expect(i, "down again", 1, true)

	i = start()
	expect(i, "restarted while it is down", 1, false)
	refresh(0, 1)
	expect(i, "still down", 1, true)
	i.replace(nil)
	expect(i, "removed", 0, false)
	if n := log.FilterMessage("cannot get the keys of an issuer; its known ones stay in use").Len(); n != 3 {
		t.Errorf("%d warnings", n)
	}
}

// TestIssuerOfTwoKeys covers an issuer that replaces a key, under which it could recognize clients, one that
// has another name, and one with another pin.
func TestIssuerOfTwoKeys(t *testing.T) {
	f, now := newFakeIssuer(t), time.Now()
	epoch := tickets.EpochAt(now, tickets.DefaultEpoch)
	core, log := observer.New(zap.WarnLevel)
	i := newIssuers(identity.FromSeed(&[32]byte{1}).Public(), "", zap.New(core))
	i.replace([]config.Issuer{f.source})
	first, second := ticketKey(t), ticketKey(t)
	f.publish(t, "", epoch, first)
	i.refresh(t.Context(), now)

	refused := func(what string, want error) {
		t.Helper()
		now = now.Add(2 * issuerInterval)
		i.refresh(t.Context(), now)
		offers := i.verifier.Offers(tickets.EpochStart(epoch, tickets.DefaultEpoch))
		if len(offers) != 1 || offers[0].Key != first.Public().ID() || len(i.failing()) != 1 {
			t.Errorf("%s: offers %v, failing %q", what, offers, i.failing())
		}
		entries := log.TakeAll()
		if len(entries) != 1 {
			t.Fatalf("%s: %d lines in the log", what, len(entries))
		}
		for _, field := range entries[0].Context {
			if err, ok := field.Interface.(error); ok && want != nil && !errors.Is(err, want) {
				t.Errorf("%s: %v", what, err)
			}
		}
		f.publish(t, "", epoch, first)
		now = now.Add(2 * issuerInterval)
		i.refresh(t.Context(), now)
		if len(i.failing()) != 0 {
			t.Errorf("%s: it does not recover", what)
		}
	}
	f.publish(t, "", epoch, second)
	refused("a second key", tickets.ErrSecondKey)
	f.publish(t, "other.example", epoch, first)
	refused("another name", nil)
	pin := f.pin
	f.pin = identity.FromSeed(&[32]byte{8})
	f.publish(t, "", epoch, first)
	f.pin = pin
	refused("another pin", tickets.ErrPin)
}

// TestIssuerFile covers a gateway that cannot reach its issuer.
func TestIssuerFile(t *testing.T) {
	f, now := newFakeIssuer(t), time.Now()
	path := filepath.Join(t.TempDir(), "issuer.json")
	i := newIssuers(identity.FromSeed(&[32]byte{1}).Public(), "", zap.NewNop())
	i.replace([]config.Issuer{{File: path, Pin: f.pin.Public()}})
	i.refresh(t.Context(), now)
	if got := i.failing(); !slices.Equal(got, []string{path}) {
		t.Errorf("failing are %q", got)
	}
	f.publish(t, "issuer.example", tickets.EpochAt(now, tickets.DefaultEpoch), ticketKey(t))
	if err := os.WriteFile(path, *f.text.Load(), 0o600); err != nil {
		t.Fatal(err)
	}
	i.refresh(t.Context(), now.Add(issuerRetry))
	if n := len(i.verifier.Offers(now)); n != 1 || len(i.failing()) != 0 || f.asked.Load() != 0 {
		t.Errorf("%d offers, failing %q, %d requests", n, i.failing(), f.asked.Load())
	}
}
