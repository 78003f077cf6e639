package gatewayd

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"lewes/crypto/identity"
	"lewes/router/unlisted"
)

// queued takes what note has queued.
func (r *refusals) queued() (found []refusal) {
	for len(r.queue) > 0 {
		found = append(found, <-r.queue)
	}
	return found
}

// refusedAt returns an entry of the router's for a time.
func refusedAt(at time.Time) unlisted.Entry {
	return unlisted.Entry{Identity: identity.PublicKey{1}, Source: netip.MustParsePrefix("198.51.100.0/24"), First: at, Last: at, Count: 1}
}

// Ten clients are logged in a minute, the others counted, and a log that nothing reads blocks no shard.
func TestRefusals(t *testing.T) {
	r := newRefusals()
	now := time.Unix(1_000_000, 0)
	for range 1000 {
		r.note(refusedAt(now))
	}
	if got := r.queued(); len(got) != refusalLines {
		t.Errorf("%d lines in a minute", len(got))
	}
	now = now.Add(refusalInterval)
	r.note(refusedAt(now))
	if got := r.queued(); len(got) != 1 || got[0].skipped != 1000-refusalLines {
		t.Errorf("after the minute: %v", got)
	}
	for range 3 * refusalLines {
		now = now.Add(refusalInterval)
		r.note(refusedAt(now))
	}
	if got := r.queued(); len(got) != refusalLines || r.skipped != 2*refusalLines {
		t.Errorf("%d queued, %d skipped", len(got), r.skipped)
	}
}

func TestRefusalLine(t *testing.T) {
	r := newRefusals()
	e := refusedAt(time.Unix(1, 0))
	r.note(e)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	core, logged := observer.New(zap.WarnLevel)
	r.serve(ctx, zap.New(core), func(id identity.PublicKey) string {
		cancel()
		return ClientsCommand("add", "/srv/a list", id.String())
	})
	lines := logged.All()
	if len(lines) != 1 || !strings.Contains(lines[0].Message, "only if you know this identity") {
		t.Fatalf("%v", lines)
	}
	fields := lines[0].ContextMap()
	if fields["source"] != "198.51.100.0/24" || fields["add_with"] != "lewes clients add --file '/srv/a list' "+e.Identity.String() {
		t.Errorf("%v", fields)
	}
}
