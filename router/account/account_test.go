package account

import (
	"net/netip"
	"testing"
	"time"

	"lewes/crypto/identity"
)

var start = time.Unix(1_700_000_000, 0)

func newBook(total, each int, own Limits) *Book {
	return NewBook(func() (gateway, account Bounds) {
		for r := range resources {
			gateway[r], account[r] = total, each
		}
		return gateway, account
	}, func(identity.PublicKey) Limits { return own })
}

func who(n byte) Key { return Listed(identity.PublicKey{n}) }

// takeAll takes as much of a resource as the account gets.
func takeAll(a *Account, r Resource) (n int) {
	for a.Take(r) {
		n++
	}
	return n
}

// TestShares: an account holds at most half of what is left, so the next one always finds room.
//
// Shows R12.7.
func TestShares(t *testing.T) {
	b := newBook(900, 0, Limits{})
	last := 900
	for n := range byte(12) {
		got := takeAll(b.Join(start, who(n)), Flows)
		if n == 0 && got != 300 {
			t.Errorf("one account alone got %d of 900, want a third", got)
		}
		if got == 0 || got > last {
			t.Errorf("account %d got %d, the one before it %d", n, got, last)
		}
		last = got
	}
	if b.InUse(Flows) > 900 {
		t.Errorf("%d of 900 in use", b.InUse(Flows))
	}
}

// TestSmallBounds: rounding neither lets more stand than the bound says nor refuses the first.
func TestSmallBounds(t *testing.T) {
	for total := 1; total < 10; total++ {
		b := newBook(total, 0, Limits{})
		for n := range byte(12) {
			want := int(n) < total
			if got := b.Join(start, who(n)).Take(Sessions); got != want {
				t.Errorf("bound %d: account %d got a session: %v", total, n, got)
			}
		}
		if got := b.InUse(Sessions); got != total {
			t.Errorf("bound %d: %d in use", total, got)
		}
	}
}

// TestOwnLimits: an account keeps its own bounds, and what it returns can be taken again.
func TestOwnLimits(t *testing.T) {
	b := newBook(1000, 50, Limits{Sessions: 2, Flows: 3})
	a := b.Join(start, who(1))
	for r, want := range map[Resource]int{Sessions: 2, Flows: 3, Claims: 50} {
		if got := takeAll(a, r); got != want {
			t.Errorf("resource %d: took %d, want %d", r, got, want)
		}
		if !b.Join(start, who(2)).Take(r) {
			t.Errorf("resource %d: another account is full as well", r)
		}
		if a.Release(r); !a.Take(r) {
			t.Errorf("resource %d: what was returned is not free", r)
		}
	}
	for range 5 {
		a.Force(Sessions)
	}
	if a.Held(Sessions) != 7 || a.Take(Sessions) {
		t.Error("Force must exceed the bound, Take must not")
	}
}

// TestKeys: unlisted clients share the account of their prefix, the clients behind a gateway of the
// directory that of the gateway, and a listed client has its own.
func TestKeys(t *testing.T) {
	at := func(s string, gateway bool) Key { return Source(netip.MustParseAddr(s), gateway) }
	for _, same := range [][2]Key{
		{at("2001:db8:0:100::1", false), at("2001:db8:0:1ff::2", false)},
		{at("192.0.2.1", false), at("::ffff:192.0.2.1", false)},
		{at("2001:db8::1", true), at("2001:db8::1", true)},
	} {
		if same[0] != same[1] {
			t.Errorf("%v and %v are different accounts", same[0], same[1])
		}
	}
	all := []Key{
		at("2001:db8:0:100::1", false), at("2001:db8:0:200::1", false), at("192.0.2.1", false), at("192.0.2.2", false),
		at("192.0.2.1", true), at("2001:db8::1", true), at("2001:db8::2", true), who(1), who(2),
	}
	for i, a := range all {
		for _, b := range all[:i] {
			if a == b {
				t.Errorf("%v is one account of two", a)
			}
		}
	}
}

// TestResting: a client does not renew its budgets by a new session, and an account that has rested
// is forgotten, however often others come and go.
func TestResting(t *testing.T) {
	b := newBook(10, 0, Limits{})
	spend := func(a *Account, now time.Time) bool { return a.Work.Take(now, time.Hour, time.Hour) }
	a := b.Join(start, who(1))
	if !spend(a, start) || spend(a, start) {
		t.Fatal("a budget is taken once")
	}
	a.Leave(start)
	for i := range 25 {
		now := start.Add(time.Duration(i) * time.Second)
		b.Join(now, who(2)).Leave(now)
		if i < 10 {
			again := b.Join(now, who(1))
			if spend(again, now) {
				t.Errorf("after %d s the budget was renewed", i)
			}
			again.Leave(now)
		}
	}
	if n := len(b.accounts); n != 1 {
		t.Errorf("%d accounts remain, want the one that has just left", n)
	}
	now := start.Add(time.Hour)
	b.Join(now, who(3)).Leave(now)
	if len(b.accounts) != 1 || len(b.resting) != 1 {
		t.Errorf("%d accounts and %d resting remain", len(b.accounts), len(b.resting))
	}
}

// TestRate: payload beyond the rate does not pass, and a changed rate applies to open sessions.
func TestRate(t *testing.T) {
	own := Limits{Rate: 1000}
	b := NewBook(func() (gateway, account Bounds) { return }, func(identity.PublicKey) Limits { return own })
	a, now := b.Join(start, who(1)), start
	if !a.Pass(now, 600) || a.Pass(now, 600) {
		t.Error("600 bytes of 1,000 pass once")
	}
	if now = now.Add(time.Second / 2); !a.Pass(now, 600) {
		t.Error("half a second later 500 bytes more may pass")
	}
	own.Rate = 0
	b.Refresh([]identity.PublicKey{{1}})
	if a.Limited() || !a.Pass(now, 1<<20) {
		t.Error("the rate was removed and still applies")
	}
}

// TestLongDatagramsKeepToTheRate: a datagram of more than a second's payload passes when the budget is
// full, and the next one when it is full again.
func TestLongDatagramsKeepToTheRate(t *testing.T) {
	b := NewBook(func() (gateway, account Bounds) { return }, func(identity.PublicKey) Limits { return Limits{Rate: 100} })
	a, passed := b.Join(start, who(1)), 0
	for second := range 100 {
		if a.Pass(start.Add(time.Duration(second)*time.Second), 1000) {
			passed++
		}
	}
	if passed != 10 {
		t.Errorf("%d datagrams of 1,000 bytes passed in 100 s at 100 bytes a second, want 10", passed)
	}
}
