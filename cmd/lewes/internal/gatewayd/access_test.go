package gatewayd

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"lewes/crypto/identity"
	"lewes/router/access"
)

// openAccess admits every client.
func openAccess() *accessControl {
	a := &accessControl{log: zap.NewNop()}
	a.rule.Store(&accessRule{open: true})
	return a
}

// listedAccess admits the clients of a list.
func listedAccess(list *access.List) *accessControl {
	a := &accessControl{log: zap.NewNop()}
	a.rule.Store(&accessRule{list: list})
	return a
}

// loadList writes a list of clients and loads it.
func loadList(t *testing.T, lines ...string) *access.List {
	t.Helper()
	path := filepath.Join(t.TempDir(), "clients")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := access.Load(path)
	if err != nil || list.Err() != nil {
		t.Fatal(err, list.Err())
	}
	return list
}

// TestExpiredClients: a client is admitted until the end of its last day, its sessions are closed then
// or when an edit of the list brings that day forward, and other clients are left alone.
func TestExpiredClients(t *testing.T) {
	anna, ben := identity.FromSeed(&[32]byte{1}).Public(), identity.FromSeed(&[32]byte{2}).Public()
	a := listedAccess(loadList(t, anna.String()+" expires=2000-01-01", ben.String()+" expires=2000-01-02"))
	synctest.Test(t, func(t *testing.T) { // from midnight of 2000-01-01 on
		closed := make(map[identity.PublicKey]time.Time)
		ctx, stop := context.WithCancel(t.Context())
		go a.closeExpired(ctx, func(removed, _ []identity.PublicKey) int {
			for _, client := range removed {
				closed[client] = time.Now()
			}
			return len(removed)
		})
		time.Sleep(24*time.Hour - 1)
		if !a.standing(anna).Admitted {
			t.Error("refused on its last day")
		}
		time.Sleep(time.Nanosecond)
		if s := a.standing(anna); s.Admitted || !s.Listed || !a.standing(ben).Admitted {
			t.Errorf("after the last day of one of them: %+v, %+v", s, a.standing(ben))
		}
		time.Sleep(expireInterval)
		synctest.Wait()
		if len(closed) != 1 || closed[anna].IsZero() {
			t.Errorf("closed %v", closed)
		}
		stop()
		synctest.Wait()
	})
	core, logged := observer.New(zap.WarnLevel)
	a.log = zap.New(core)
	for _, c := range []struct {
		line   string
		counts bool
		want   int
	}{{"bytes=1GiB/1d", false, 1}, {"bytes=1GiB/1d", true, 0}, {"rate=1GiB", false, 0}} {
		a.warn(&accessRule{list: loadList(t, anna.String()+" "+c.line), counts: c.counts})
		if lines := logged.TakeAll(); len(lines) != c.want {
			t.Errorf("%+v: warnings %v", c, lines)
		}
	}
	before := a.rule.Load()
	after := &accessRule{list: loadList(t, anna.String()+" expires=2030-01-01", ben.String()+" expires=2026-01-01")}
	removed, changed := after.diff(before, time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC))
	if len(removed) != 1 || removed[0] != ben || len(changed) != 2 {
		t.Errorf("removed %v, changed %v", removed, changed)
	}
}

func TestShellQuote(t *testing.T) {
	for text, want := range map[string]string{
		"/var/lib/lewes/clients": "/var/lib/lewes/clients",
		"a b":                    "'a b'",
		"anna's":                 `'anna'\''s'`,
		"":                       "''",
		"$HOME":                  "'$HOME'",
		"~/x":                    "'~/x'",
	} {
		if got := shellQuote(text); got != want {
			t.Errorf("shellQuote(%q) = %s, want %s", text, got, want)
		}
	}
}
