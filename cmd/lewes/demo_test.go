package main

import (
	"bytes"
	"context"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lewes/state/wire"
	"lewes/transport"
)

// TestDemo is README.md's first command: it works, it is quick, it says what it
// promises, and it leaves nothing behind.
func TestDemo(t *testing.T) {
	dir := t.TempDir()
	env := environment(dir, "TMPDIR="+dir, "TMP="+dir)
	begun := time.Now()
	story := mustLewes(t, env, "demo")
	if took := time.Since(begun); took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
	has(t, story, "entry saw    the client, 127.0.0.1:", "exit saw     the entry, 127.0.0.1:", "the exit, and nothing behind it",
		"ok   each of 1000 datagrams came back", "ok   the session got new keys in the middle",
		"1000 of 1000 datagrams came back", "0 lost", "round trip: median", "ML-KEM-768 for the handshake")
	hasNot(t, story, "NO ")
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}

	var r demoReport
	parseJSON(t, mustLewes(t, env, "demo", "--json", "--datagrams", "300"), &r)
	if !r.OK || r.Sent != 300 || r.Back != 300 || r.Keys != 1 || r.KEM == "" || r.AEAD == "" || r.RTT.P50 <= 0 || r.RTT.P99 < r.RTT.P50 {
		t.Errorf("JSON says %+v", r)
	}
	// The picture is of this run: each address is one that was in use.
	p := r.Parties
	if p.EntrySaw != "the client, "+p.Client || p.ExitSaw != "the entry, "+p.EntryOut || p.ExitTo != "the target, "+p.Target || p.TargetSaw != "the exit, "+p.ExitOut {
		t.Errorf("who saw whom: %+v", p)
	}
	seen := make(map[string]bool)
	for _, a := range []string{p.Client, p.Entry, p.EntryOut, p.Exit, p.ExitOut, p.Target} {
		if _, err := netip.ParseAddrPort(a); err != nil || seen[a] {
			t.Errorf("%q is no address of one party: %v", a, err)
		}
		seen[a] = true
	}
}

// TestDemoEndsWhole: no goroutine outlives it, nor when it is interrupted.
func TestDemoEndsWhole(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	if _, err := runDemo(t.Context(), 50, &demoStory{quiet: true}); err != nil {
		t.Fatal(err)
	}
	for _, after := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		_, err := runDemo(ctx, 100_000, &demoStory{quiet: true})
		cancel()
		if err == nil {
			t.Errorf("it was done with 100,000 datagrams within %v", after)
		}
	}
}

// TestDemoJudgement: what is claimed is looked at. Each row spoils what one witness
// saw, as a fault in a gateway would.
func TestDemoJudgement(t *testing.T) {
	for _, row := range []struct {
		name  string
		spoil func(*demo, *demoReport)
		claim string
	}{
		{"nothing", func(*demo, *demoReport) {}, ""},
		{"a datagram did not come back", func(_ *demo, r *demoReport) { r.check(false, "each of", "1 is missing") }, "each of"},
		{"no new keys", func(_ *demo, r *demoReport) { r.Keys = 0 }, "the session got new keys"},
		{"the client had two addresses", func(d *demo, _ *demoReport) { d.sender.locals = append(d.sender.locals, netip.AddrPort{}) }, "the entry saw the client's address"},
		{"the client sent elsewhere", func(d *demo, _ *demoReport) { d.sender.dialled = append(d.sender.dialled, d.exit.Addrs()[0]) }, "the entry saw the client's address"},
		{"the entry sent to the target", func(d *demo, _ *demoReport) { d.entry.out.dialled = append(d.entry.out.dialled, d.target.addr) }, "the entry sent to the exit only"},
		{"the entry could read the target", func(d *demo, _ *demoReport) { d.entry.out.leaks++ }, "that the entry passed on"},
		{"the exit got more than the entry sent", func(d *demo, _ *demoReport) { d.entry.out.sent-- }, "the exit did not see the client's address"},
		{"the exit sent elsewhere", func(d *demo, _ *demoReport) { d.exit.out.dialled = append(d.exit.out.dialled, d.entry.Addrs()[0]) }, "the exit sent to the target only"},
		{"the exit knew the client's other identity", func(d *demo, _ *demoReport) { d.exit.seen = append(d.exit.seen, d.keys[0].Public()) }, "by different identities"},
		{"the target saw the client", func(d *demo, _ *demoReport) { d.target.from = append(d.target.from, d.sender.locals[0]) }, "the target saw the exit's address only"},
		{"the client sent in clear", func(d *demo, _ *demoReport) { d.sender.leaks++ }, "between client and entry"},
	} {
		t.Run(row.name, func(t *testing.T) {
			d, err := startDemo()
			if err != nil {
				t.Fatal(err)
			}
			defer d.close()
			r := &demoReport{Sent: 4}
			if err := d.connect(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if err := d.exchange(t.Context(), r, 4); err != nil {
				t.Fatal(err)
			}
			if !d.settle(t.Context()) {
				t.Fatal("packets are missing")
			}
			guarded := []*sync.Mutex{&d.sender.mu, &d.entry.mu, &d.entry.out.mu, &d.exit.mu, &d.exit.out.mu, &d.target.mu}
			for _, mu := range guarded {
				mu.Lock()
			}
			row.spoil(d, r)
			for _, mu := range guarded {
				mu.Unlock()
			}
			quick, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			d.judge(quick, r)
			err = r.failure()
			if row.claim == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), "not so: ") || !strings.Contains(err.Error(), row.claim) {
				t.Errorf("got %v, want a word on %q", err, row.claim)
			}
			var out bytes.Buffer
			(&demoStory{w: &out}).tell(r)
			has(t, out.String(), "  NO   ")
		})
	}
}

// TestWitnessReads: a secret in a packet is noticed, in either direction and in the
// middle of a train.
func TestWitnessReads(t *testing.T) {
	target := wire.AddrTarget(netip.MustParseAddrPort("127.0.0.1:4242"))
	w := &witness{secrets: [][]byte{target.Append(nil)}}
	hidden := append([]byte("xxxx"), target.Append(nil)...)
	train := append(append(make([]byte, len(hidden)), hidden...), make([]byte, 3)...)
	w.note(&w.sent, packets(hidden, 0))
	w.note(&w.received, packets(train, len(hidden)))
	w.note(&w.received, packets(make([]byte, 100), 0))
	if s := w.sight(); s.leaks != 2 || s.sent != 1 || s.received != 4 {
		t.Errorf("saw %+v", s)
	}
}

// TestDemoCountsLosses: a datagram that does not come back fails the demo.
func TestDemoCountsLosses(t *testing.T) {
	d, err := startDemo()
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	r := &demoReport{Sent: 4}
	if err := d.connect(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	_ = d.target.conn.Close() // nothing echoes any more
	err = d.exchange(t.Context(), r, 4)
	if err == nil {
		err = r.failure()
	}
	if err == nil || r.Back != 0 {
		t.Errorf("%d came back, %v", r.Back, err)
	}
}

func packets(data []byte, segment int) []transport.Packet {
	return []transport.Packet{{Data: data, Segment: segment}}
}
