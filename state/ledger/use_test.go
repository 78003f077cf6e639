package ledger

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"lewes/crypto/identity"
)

func use(t testing.TB, l *Ledger, now time.Time, used map[identity.PublicKey]uint64) {
	t.Helper()
	if err := l.Use(context.Background(), used, now); err != nil {
		t.Fatal(err)
	}
}

// Use charges the grants that expire first at first, and none that has expired.
func TestUseChargesEarliestFirst(t *testing.T) {
	l := fresh(t)
	for _, n := range []byte{3, 1, 2} { // they expire after n+1 hours
		commit(t, l, spendEntry(client(1), n, 10))
	}
	use(t, l, start, map[identity.PublicKey]uint64{client(1): 1500, client(9): 5})
	a, _, _ := l.Account(client(1))
	if g := a.Grants; g[0].Used != 1000 || g[1].Used != 500 || g[2].Used != 0 {
		t.Errorf("%+v", g)
	}
	if left, end := a.Left(start); left != 1500 || !end.Equal(start.Add(4*time.Hour)) {
		t.Errorf("%d left until %v", left, end)
	}
	use(t, l, start.Add(3*time.Hour), map[identity.PublicKey]uint64{client(1): 5000})
	a, _, _ = l.Account(client(1))
	last := a.Grants[len(a.Grants)-1]
	if left, _ := a.Left(start.Add(3 * time.Hour)); left != 0 || last.Used != 1000 {
		t.Errorf("%d left: %+v", left, a.Grants)
	}
	for _, g := range a.Grants {
		if g.Expires.Equal(start.Add(3*time.Hour)) && g.Used != 500 {
			t.Errorf("an expired grant was charged: %+v", g)
		}
	}
}

// An account has at most 64 grants, and expired and used ones make room. Numbers are not used again.
func TestGrantsAreBounded(t *testing.T) {
	l := fresh(t)
	for n := range byte(MaxGrants) {
		commit(t, l, spendEntry(client(1), n, 10))
	}
	e := spendEntry(client(1), 200, 10)
	if _, err := l.Commit(context.Background(), e); !errors.Is(err, ErrGrants) {
		t.Fatalf("65th grant: %v", err)
	}
	if spent, _, err := l.Spent(*e.Ticket, client(1), e.Request); spent || err != nil {
		t.Errorf("a refused ticket is spent: %v, %v", spent, err)
	}
	use(t, l, start, map[identity.PublicKey]uint64{client(1): 1000})
	r := commit(t, l, e)
	if g := r.Account.Grants; len(g) != MaxGrants || g[len(g)-1].Number != MaxGrants+1 {
		t.Errorf("%d grants, %+v", len(g), g[len(g)-1])
	}
}

// The list of clients gives one grant at a time, and its changes show in it.
func TestListedGrantStands(t *testing.T) {
	l := fresh(t)
	e := Entry{Account: client(1), Now: start, Grant: &Grant{Bytes: 1000, Expires: start.Add(time.Hour), Source: SourceListed}}
	if r := commit(t, l, e); r.Outcome != New {
		t.Errorf("%v", r.Outcome)
	}
	use(t, l, start, map[identity.PublicKey]uint64{client(1): 400})
	e.Grant = &Grant{Bytes: 2000, Expires: start.Add(time.Hour), Source: SourceListed}
	r := commit(t, l, e)
	if left, _ := r.Account.Left(start); r.Outcome != Repeated || left != 1600 || len(r.Account.Grants) != 1 {
		t.Errorf("%v, %d left: %+v", r.Outcome, left, r.Account.Grants)
	}
	e.Now = start.Add(time.Hour)
	e.Grant = &Grant{Bytes: 2000, Expires: start.Add(2 * time.Hour), Source: SourceListed}
	if r := commit(t, l, e); r.Outcome != New {
		t.Errorf("next period: %v", r.Outcome)
	}
}

// A list of spent tickets is dropped two epochs later. From then on no clock accepts its tickets.
func TestFloorHoldsAgainstClock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	l := open(t, path)
	commit(t, l, spendEntry(client(1), 1, 10))
	commit(t, l, spendEntry(client(1), 2, 11))
	late := func(n byte, epoch uint32) Entry { // spent half an hour into an epoch
		e := spendEntry(client(1), n, epoch)
		e.Now = epochFrom(epoch).Add(30 * time.Minute)
		e.Grant.Expires = e.Now.Add(time.Hour)
		return e
	}
	// A clock that jumps forward by a year passes no floor: no issuer has signed for that time.
	e := late(3, 11)
	e.Now = start.Add(365 * 24 * time.Hour)
	e.Grant.Expires = e.Now.Add(time.Hour)
	commit(t, l, e)
	if floor := floorOf(l, "issuer.example").floor; !floor.IsZero() {
		t.Fatalf("floor %v after a jump", floor)
	}
	if r := commit(t, l, spendEntry(client(1), 1, 10)); r.Outcome != Repeated {
		t.Fatalf("after a jump and back: %v", r.Outcome)
	}
	commit(t, l, late(4, 12))
	_ = l.Close()
	l = open(t, path)
	if _, err := l.Commit(context.Background(), spendEntry(client(1), 1, 10)); !errors.Is(err, ErrKeyClosed) { // at a clock before
		t.Errorf("spent ticket below the floor: %v", err)
	}
	if _, err := l.Commit(context.Background(), spendEntry(client(1), 9, 10)); !errors.Is(err, ErrKeyClosed) {
		t.Errorf("fresh ticket below the floor: %v", err)
	}
	if r := commit(t, l, spendEntry(client(1), 2, 11)); r.Outcome != Repeated {
		t.Errorf("epoch before: %v", r.Outcome)
	}
	other := spendEntry(client(1), 20, 10)
	other.Ticket.Issuer = "other.example"
	other.Request = [32]byte{99}
	if r := commit(t, l, other); r.Outcome != New {
		t.Errorf("another issuer: %v", r.Outcome)
	}
	_ = l.Close()
	if r, err := Check(path); err != nil || r.Keys != 3 || r.Spent != 4 {
		t.Errorf("%d keys, %d tickets, %v", r.Keys, r.Spent, err)
	}
}

// The ledger's clock never goes back, and follows a jump forward after a day.
func TestClock(t *testing.T) {
	tx := txn{header: header{clock: start}}
	step := func(wall time.Time, elapsed time.Duration, want time.Time) {
		t.Helper()
		if tx.advance(wall, elapsed); !tx.header.clock.Equal(want) {
			t.Fatalf("clock %v, want %v", tx.header.clock, want)
		}
	}
	step(start.Add(time.Second), time.Second, start.Add(time.Second))
	step(start.Add(30*time.Minute), 0, start.Add(30*time.Minute))                                          // a small correction
	step(start.Add(-time.Hour), time.Second, start.Add(30*time.Minute+time.Second))                        // back
	step(start.AddDate(10, 0, 0), time.Second, start.Add(30*time.Minute+2*time.Second))                    // far forward
	step(start.Add(31*time.Minute), time.Second, start.Add(31*time.Minute))                                // and back to the truth
	step(start.AddDate(0, 1, 0), 0, start.Add(31*time.Minute))                                             // a machine that was off for a month
	step(start.AddDate(0, 1, 0).Add(time.Hour), time.Hour, start.Add(91*time.Minute))                      // is not believed at once
	step(start.AddDate(0, 1, 0).Add(25*time.Hour), 24*time.Hour, start.AddDate(0, 1, 0).Add(25*time.Hour)) // but after a day
}

// Callers whose times are out of order do not make the ledger's clock run ahead.
func TestClockWithTimesOutOfOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	l := open(t, path)
	for n := range 20 {
		if err := putResult(l, [32]byte{byte(n)}, nil, start.Add(time.Duration(n%2)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	_ = l.Close()
	if r, err := Check(path); err != nil || !r.Clock.Equal(start.Add(time.Second)) {
		t.Errorf("clock %v, %v", r.Clock, err)
	}
}

// Expired content is deleted, and not when only one of the clocks has passed it.
func TestSweep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	l := open(t, path)
	ctx := context.Background()
	e := spendEntry(client(1), 1, 10)
	e.Result = func(a Account) []byte { return []byte{byte(len(a.Grants))} }
	commit(t, l, e)
	commit(t, l, attachEntry(client(2), peer(1, "10.0.0.2")))
	if err := l.RemoveAttachment(ctx, client(2), DVPN, [32]byte{6, 1}, 0, start); err != nil {
		t.Fatal(err)
	}
	b, ok, err := l.Result(e.Request)
	if !ok || err != nil || b[0] != 1 {
		t.Fatalf("result %v, %v, %v", b, ok, err)
	}
	now := start
	day := func(want Report) {
		t.Helper()
		now = now.Add(24*time.Hour + time.Minute)
		use(t, l, now, nil)
		use(t, l, now, map[identity.PublicKey]uint64{client(9): 1}) // a second round of the sweep
		_ = l.Close()
		got, err := Check(path)
		if err != nil || got.Err() != nil {
			t.Fatal(err, got.Err())
		}
		if got.Accounts != want.Accounts || got.Grants != want.Grants || got.Results != want.Results || got.Addresses != want.Addresses {
			t.Fatalf("after %v: %+v", now.Sub(start), got)
		}
		l = open(t, path)
	}
	// A clock that is wrong by years deletes nothing.
	for _, wrong := range []time.Time{start.AddDate(-10, 0, 0), start.AddDate(10, 0, 0)} {
		_ = l.Close()
		if l, err = Open(path, Options{Gateway: gateway, Now: wrong}); err != nil {
			t.Fatal(err)
		}
		use(t, l, wrong, map[identity.PublicKey]uint64{client(9): 1})
		if err := putResult(l, [32]byte{1}, nil, wrong); err != nil {
			t.Fatal(err)
		}
	}
	_ = l.Close()
	if got, err := Check(path); err != nil || got.Accounts != 2 || got.Grants != 1 || got.Results != 2 || got.Addresses != 1 {
		t.Fatalf("%v, %+v", err, got)
	}
	l = open(t, path)
	day(Report{Accounts: 2, Grants: 0, Results: 0, Addresses: 0})
	for range 6 {
		now = now.Add(24 * time.Hour)
		use(t, l, now, nil)
	}
	day(Report{})
}

// Results are kept by request, and replaced.
func TestResults(t *testing.T) {
	l := fresh(t)
	for _, b := range []string{"first", "second"} {
		if err := putResult(l, [32]byte{1}, []byte(b), start); err != nil {
			t.Fatal(err)
		}
		if got, ok, err := l.Result([32]byte{1}); string(got) != b || !ok || err != nil {
			t.Fatalf("%q, %v, %v", got, ok, err)
		}
	}
	if err := putResult(l, [32]byte{1}, make([]byte, MaxResult+1), start); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	if _, ok, err := l.Result([32]byte{2}); ok || err != nil {
		t.Error(ok, err)
	}
}

// Invalid entries are refused without a trace.
func TestInvalidEntries(t *testing.T) {
	l := fresh(t)
	for name, change := range map[string]func(*Entry){
		"no account":         func(e *Entry) { e.Account = identity.PublicKey{} },
		"no request":         func(e *Entry) { e.Request = [32]byte{} },
		"no grant":           func(e *Entry) { e.Grant = nil },
		"no source":          func(e *Entry) { e.Grant.Source = 0 },
		"grant for ever":     func(e *Entry) { e.Grant.Expires = start.AddDate(200, 0, 0) },
		"ticket for ever":    func(e *Entry) { e.Ticket.Until = time.Time{} },
		"no mode":            func(e *Entry) { e.Attach = &Attachment{} },
		"relay with address": func(e *Entry) { e.Attach = &Attachment{Mode: Relay, IPv4: netip.MustParseAddr("10.0.0.2")} },
		"dvpn without key":   func(e *Entry) { e.Attach = &Attachment{Mode: DVPN} },
		"mapped address": func(e *Entry) {
			e.Attach = peer(1, "10.0.0.2")
			e.Attach.IPv6 = netip.MustParseAddr("::ffff:10.0.0.2")
		},
	} {
		e := spendEntry(client(1), 1, 10)
		change(&e)
		if _, err := l.Commit(context.Background(), e); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	e := spendEntry(client(1), 1, 10)
	e.Now = time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC)
	if _, err := l.Commit(context.Background(), e); !errors.Is(err, ErrClock) {
		t.Errorf("clock: %v", err)
	}
	if _, ok, _ := l.Account(client(1)); ok {
		t.Error("an account was made")
	}
}
