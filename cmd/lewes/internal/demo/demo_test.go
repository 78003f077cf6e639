package demo

import (
	"bytes"
	"context"
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lewes/state/wire"
	"lewes/transport"
)

// TestRunLeavesNoGoroutine also when the demo is interrupted.
func TestRunLeavesNoGoroutine(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	if _, err := Run(t.Context(), 50, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, after := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		_, err := Run(ctx, 100_000, io.Discard)
		cancel()
		if err == nil {
			t.Errorf("it was done with 100,000 datagrams within %v", after)
		}
	}
}

// TestJudgeDetectsFaults falsifies what one witness observed, as a faulty gateway would.
func TestJudgeDetectsFaults(t *testing.T) {
	for _, row := range []struct {
		name    string
		falsify func(*demo, *Report)
		claim   string
	}{
		{"nothing", func(*demo, *Report) {}, ""},
		{"a datagram did not come back", func(_ *demo, r *Report) { r.check(false, "all of", "1 is missing") }, "all of"},
		{"no new keys", func(_ *demo, r *Report) { r.Keys = 0 }, "the session rekeyed"},
		{"the client had two addresses", func(d *demo, _ *Report) { d.sender.locals = append(d.sender.locals, netip.AddrPort{}) }, "the entry saw the client's address"},
		{"the client sent elsewhere", func(d *demo, _ *Report) { d.sender.dialled = append(d.sender.dialled, d.exit.Addrs()[0]) }, "the entry saw the client's address"},
		{"the entry sent to the target", func(d *demo, _ *Report) { d.entry.out.dialled = append(d.entry.out.dialled, d.target.addr) }, "the entry sent to the exit only"},
		{"the entry could read the target", func(d *demo, _ *Report) { d.entry.out.leaks++ }, "forwarded by the entry"},
		{"the exit got more than the entry sent", func(d *demo, _ *Report) { d.entry.out.sent -= 1 << 20 }, "the exit did not see the client's address"},
		{"the exit sent elsewhere", func(d *demo, _ *Report) { d.exit.out.dialled = append(d.exit.out.dialled, d.entry.Addrs()[0]) }, "the exit sent to the target only"},
		{"the exit knew the client's other identity", func(d *demo, _ *Report) { d.exit.seen = append(d.exit.seen, d.entry.client) }, "by different identities"},
		{"the target saw the client", func(d *demo, _ *Report) { d.target.from = append(d.target.from, d.sender.locals[0]) }, "the target saw the exit's address only"},
		{"the client sent in clear", func(d *demo, _ *Report) { d.sender.leaks++ }, "between client and entry"},
	} {
		t.Run(row.name, func(t *testing.T) {
			d, err := start()
			if err != nil {
				t.Fatal(err)
			}
			defer d.close()
			r := &Report{Sent: 4}
			if err := d.connect(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if err := d.exchange(t.Context(), r, 4); err != nil {
				t.Fatal(err)
			}
			if !d.drain(t.Context()) {
				t.Fatal("packets are missing")
			}
			guarded := []*sync.Mutex{&d.sender.mu, &d.entry.mu, &d.entry.out.mu, &d.exit.mu, &d.exit.out.mu, &d.target.mu}
			for _, mu := range guarded {
				mu.Lock()
			}
			row.falsify(d, r)
			for _, mu := range guarded {
				mu.Unlock()
			}
			if row.claim == "" {
				d.judge(t.Context(), r)
				if err := r.failure(); err != nil {
					t.Error(err)
				}
				return
			}
			quick, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			d.judge(quick, r)
			if err = r.failure(); err == nil || !strings.Contains(err.Error(), "claim does not hold: ") || !strings.Contains(err.Error(), row.claim) {
				t.Errorf("got %v, want a word on %q", err, row.claim)
			}
			var out bytes.Buffer
			r.print(&out)
			if !strings.Contains(out.String(), "  NO   ") {
				t.Errorf("the output does not show the failed claim: %s", &out)
			}
		})
	}
}

// TestWitnessFindsSecrets in either direction and in the middle of a GSO train.
func TestWitnessFindsSecrets(t *testing.T) {
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

func TestLossFailsTheDemo(t *testing.T) {
	d, err := start()
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	r := &Report{Sent: 4}
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
