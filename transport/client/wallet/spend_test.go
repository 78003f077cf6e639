package wallet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// gateway is a gateway's ledger.
type gateway struct {
	mu      sync.Mutex
	spent   map[string]Registration
	granted map[Registration]uint64
	asked   []string // tokens, "" for none
	lose    int      // answers to lose
	offers  []Offer
	refuse  map[string]Answer
	busy    int // requests to answer by Again
	take    bool
}

func newGateway() *gateway {
	return &gateway{spent: make(map[string]Registration), granted: make(map[Registration]uint64), refuse: make(map[string]Answer)}
}

var errLost = errors.New("answer lost")

// ask returns the Ask of a registration.
func (g *gateway) ask(r Registration) Ask {
	return func(_ context.Context, token []byte) (Answer, error) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.asked = append(g.asked, string(token))
		if g.busy > 0 {
			g.busy--
			return Answer{Verdict: Again, Error: errors.New("busy")}, nil
		}
		a := g.answer(r, string(token))
		if token != nil && g.lose > 0 {
			g.lose--
			return Answer{}, errLost
		}
		return a, nil
	}
}

func (g *gateway) answer(r Registration, token string) Answer {
	if a, ok := g.refuse[token]; ok {
		return a
	}
	by, spent := g.spent[token]
	switch {
	case token == "" && g.granted[r] == 0:
		return Answer{Verdict: TicketNeeded, Error: errors.New("ticket needed"), Offers: g.offers}
	case token != "" && spent && by != r:
		return Answer{Verdict: TicketRefused, Error: errors.New("already spent"), Spent: true}
	case token != "" && !spent:
		g.spent[token] = r
		if !g.take {
			g.granted[r] += 1000
		}
	}
	return Answer{Remaining: g.granted[r], Expires: testNow.Add(time.Hour), Offers: g.offers}
}

func tokens(c *content) (s []string) {
	for _, t := range c.Tickets {
		s = append(s, string(t.Token))
	}
	return s
}

// A registration is asked for before it is paid for, and paid for once.
func TestRegisterPaysWhenNeeded(t *testing.T) {
	w, g := newWallet(t, 2), newGateway()
	for range 3 {
		if a, err := w.Register(t.Context(), testRelay, g.ask(testRelay)); err != nil || a.Remaining != 1000 {
			t.Fatalf("%+v, %v", a, err)
		}
	}
	if want := []string{"", "1", "", ""}; !slices.Equal(g.asked, want) {
		t.Errorf("asked with %q, want %q", g.asked, want)
	}
	if got := tokens(read(t, w)); !slices.Equal(got, []string{"2"}) {
		t.Errorf("the wallet has %q", got)
	}
}

// After a lost answer, the same ticket pays for the same registration, in this process or the next, and another
// registration gets another one.
//
// Shows R9.37.
func TestLostAnswerSpendsOneTicket(t *testing.T) {
	w, g := newWallet(t, 2), newGateway()
	g.lose = 2
	for range 2 {
		if _, err := w.Register(t.Context(), testRelay, g.ask(testRelay)); !errors.Is(err, errLost) {
			t.Fatal(err)
		}
		if c := read(t, w); c.Tickets[0].Spend == nil || *c.Tickets[0].Spend != testRelay.binding() {
			t.Fatalf("bound to %v", c.Tickets[0].Spend)
		}
		again, err := Open(w.Path())
		if err != nil {
			t.Fatal(err)
		}
		again.now, w = w.now, again
	}
	other := testRelay
	other.Mode = "dvpn"
	if _, err := w.Register(t.Context(), other, g.ask(other)); err != nil {
		t.Fatal(err)
	}
	if a, err := w.Register(t.Context(), testRelay, g.ask(testRelay)); err != nil || a.Remaining != 1000 {
		t.Fatalf("%+v, %v", a, err)
	}
	if want := []string{"", "1", "1", "", "2", "1", ""}; !slices.Equal(g.asked, want) {
		t.Errorf("asked with %q, want %q", g.asked, want)
	}
	if got := tokens(read(t, w)); len(got) != 0 { // the last one too
		t.Errorf("the wallet has %q", got)
	}
}

func TestBusyGatewayIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, g := newWallet(t, 1), newGateway()
		g.busy = 3
		if a, err := w.Register(t.Context(), testRelay, g.ask(testRelay)); err != nil || a.Remaining != 1000 || len(g.asked) != 5 {
			t.Errorf("%+v, %v after %q", a, err, g.asked)
		}
		g.busy = 1 << 20
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := w.Register(ctx, testRelay, g.ask(testRelay)); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "busy") {
			t.Errorf("a gateway that stays busy: %v", err)
		}
	})
}

// A wallet on two machines: each ticket is spent once. The machine that comes second goes on to the next ticket, and
// says what is wrong when there is none.
func TestWalletOnTwoMachines(t *testing.T) {
	first, g := newWallet(t, 2), newGateway()
	second := newWallet(t, 2)
	other := testRelay
	other.Account = testKey(10)
	if _, err := first.Register(t.Context(), testRelay, g.ask(testRelay)); err != nil {
		t.Fatal(err)
	}
	if a, err := second.Register(t.Context(), other, g.ask(other)); err != nil || a.Remaining != 1000 {
		t.Fatalf("%+v, %v", a, err)
	}
	if _, ok := g.spent["2"]; !ok {
		t.Error("the second machine did not go on to its second ticket")
	}
	other.Account = testKey(11)
	_, err := second.Register(t.Context(), other, g.ask(other))
	if !errors.Is(err, ErrNoTicket) || !errors.Is(err, ErrSpentElsewhere) || !strings.Contains(err.Error(), "copied to another machine") {
		t.Errorf("%v", err)
	}
}

// The reasons why no ticket fits are in the error.
func TestNoTicketSaysWhy(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*ticket)
		offers []Offer
		words  string
	}{
		"none":            {func(x *ticket) { x.Gateway = hex32{5} }, nil, "lewes tickets fetch --gateway"},
		"expired":         {func(x *ticket) { x.Until = testNow.Unix() }, nil, "1 expired by this machine's clock"},
		"another key":     {func(*ticket) {}, []Offer{{[32]byte{8}, 1000}}, "1 of keys that the gateway does not take now"},
		"nothing offered": {func(*ticket) {}, []Offer{}, "1 of keys that the gateway does not take now"},
		"cheap":           {func(*ticket) {}, []Offer{{[32]byte{7}, 999}}, "1 for which the gateway grants less"},
		"refused":         {func(x *ticket) { x.Refused = "invalid" }, nil, "1 refused by the gateway"},
	} {
		w, g := newWallet(t, 1), newGateway()
		g.offers = c.offers
		change(t, w, func(content *content) { c.change(content.Tickets[0]) })
		_, err := w.Register(t.Context(), testRelay, g.ask(testRelay))
		if !errors.Is(err, ErrNoTicket) || !strings.Contains(err.Error(), c.words) || len(g.asked) != 1 {
			t.Errorf("%s: %v after %q", name, err, g.asked)
		}
	}
}

// Tickets that expire first are spent first, and no second before midnight is different from one behind it.
func TestSpendsTheTicketThatExpiresFirst(t *testing.T) {
	w, g := newWallet(t, 3), newGateway()
	change(t, w, func(c *content) {
		c.Tickets[0].Until += 86400
		c.Tickets[2].Until = testNow.Unix() + 1
	})
	for i, want := range []string{"3", "2", "1"} {
		r := testRelay
		r.Account = testKey(byte(20 + i))
		if _, err := w.Register(t.Context(), r, g.ask(r)); err != nil {
			t.Fatal(err)
		}
		if g.spent[want] != r {
			t.Errorf("registration %d did not get ticket %s: %q", i, want, g.asked)
		}
	}
}

// A gateway that refuses every ticket does not see all of them.
//
// Shows R9.40.
func TestRefusingGatewaySeesFewTickets(t *testing.T) {
	w, g := newWallet(t, 20), newGateway()
	for i := range 20 {
		g.refuse[fmt.Sprint(i+1)] = Answer{Verdict: TicketRefused, Error: errors.New("ticket invalid")}
	}
	if _, err := w.Register(t.Context(), testRelay, g.ask(testRelay)); err == nil || !strings.Contains(err.Error(), "ticket invalid") || len(g.asked) != 1+maxRefused {
		t.Errorf("%v after %q", err, g.asked)
	}
	if got := read(t, w).Tickets[0]; got.Spend != nil || got.Refused != "ticket invalid" {
		t.Errorf("a refused ticket is kept as %+v", got)
	}
}

// A ticket that was sent before and is refused now makes the wallet spend no other that is not needed.
func TestRefusedAgain(t *testing.T) {
	w, g := newWallet(t, 2), newGateway()
	b := testRelay.binding()
	change(t, w, func(c *content) { c.Tickets[0].Spend = &b })
	g.granted[testRelay] = 500
	g.refuse["1"] = Answer{Verdict: TicketRefused, Error: errors.New("ticket expired")}
	if a, err := w.Register(t.Context(), testRelay, g.ask(testRelay)); err != nil || a.Remaining != 500 || !slices.Equal(g.asked, []string{"1", ""}) {
		t.Errorf("%+v, %v after %q", a, err, g.asked)
	}
	if c := read(t, w); c.Tickets[0].Refused != "ticket expired" || c.Tickets[1].Spend != nil {
		t.Errorf("the wallet has %+v", c.Tickets)
	}
}

// A ticket that was sent before and cannot be taken now, as by an account with all the grants it may have, does not keep
// the account from registering, and is the next one to be spent.
func TestHeldTicket(t *testing.T) {
	w, g := newWallet(t, 2), newGateway()
	b := testRelay.binding()
	change(t, w, func(c *content) { c.Tickets[0].Spend = &b })
	g.granted[testRelay] = 500
	full := errors.New("not allowed")
	g.refuse["1"] = Answer{Verdict: Failed, Error: full}
	if a, err := w.Register(t.Context(), testRelay, g.ask(testRelay)); err != nil || a.Remaining != 500 {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := w.TopUp(t.Context(), testRelay, 600, testNow, g.ask(testRelay)); !errors.Is(err, full) {
		t.Errorf("topped up: %v", err)
	}
	g.granted[testRelay] = 0
	if _, err := w.Register(t.Context(), testRelay, g.ask(testRelay)); !errors.Is(err, full) {
		t.Errorf("registered: %v", err)
	}
	if want := []string{"1", "", "1", "", "1", ""}; !slices.Equal(g.asked, want) || read(t, w).Tickets[0].Spend == nil {
		t.Errorf("asked with %q", g.asked)
	}
}

// A ticket whose key the gateway does not know is kept for later, unless an earlier request with it had no answer.
func TestUnknownKeyIsKept(t *testing.T) {
	w, g := newWallet(t, 2), newGateway()
	change(t, w, func(c *content) { c.Tickets[0].ID = hex32{8} })
	g.refuse["1"] = Answer{Verdict: KeyUnknown, Error: errors.New("unknown issuer key")}
	if a, err := w.Register(t.Context(), testRelay, g.ask(testRelay)); err != nil || a.Remaining != 1000 {
		t.Fatalf("%+v, %v", a, err)
	}
	if c := read(t, w); len(c.Tickets) != 1 || c.Tickets[0].Spend != nil || c.Tickets[0].Refused != "" {
		t.Fatalf("kept: %+v", c.Tickets)
	}
	b := testRelay.binding()
	change(t, w, func(c *content) { c.Tickets[0].Spend = &b })
	g.asked = nil
	if _, err := w.Register(t.Context(), testRelay, g.ask(testRelay)); err != nil || read(t, w).Tickets[0].Spend == nil || !slices.Equal(g.asked, []string{"1", ""}) {
		t.Errorf("a ticket that may be spent was released, or blocks the registration: %v", err)
	}
}

func TestTopUp(t *testing.T) {
	w, g := newWallet(t, 3), newGateway()
	if _, err := w.Register(t.Context(), testRelay, g.ask(testRelay)); err != nil {
		t.Fatal(err)
	}
	topUp := func(enough uint64, want uint64, spent int) {
		t.Helper()
		a, err := w.TopUp(t.Context(), testRelay, enough, testNow, g.ask(testRelay))
		if err != nil || a.Remaining != want || len(g.spent) != spent {
			t.Errorf("%+v, %v with %d tickets spent, want %d bytes and %d tickets", a, err, len(g.spent), want, spent)
		}
	}
	topUp(100, 1000, 1) // there is enough: another process was faster
	g.granted[testRelay] = 100
	topUp(100, 1100, 2)
	g.take = true
	if _, err := w.TopUp(t.Context(), testRelay, 5000, testNow, g.ask(testRelay)); !errors.Is(err, ErrNoGain) {
		t.Errorf("a gateway that takes tickets for nothing: %v", err)
	}
}

// An account is used until it has ended, and while a ticket is bound to it.
//
// Shows R9.40.
func TestAccountIsFreshOnceTheLastHasEnded(t *testing.T) {
	w, g := newWallet(t, 3), newGateway()
	now := testNow
	w.now = func() time.Time { return now }
	account := func() Registration {
		t.Helper()
		key, err := w.Account(t.Context(), testGateway)
		if err != nil {
			t.Fatal(err)
		}
		defer key.Wipe()
		return Registration{Gateway: testGateway, Account: key.Public(), Mode: "relay"}
	}
	first := account()
	if account() != first {
		t.Error("another account before the first was used")
	}
	if _, err := w.Register(t.Context(), first, g.ask(first)); err != nil {
		t.Fatal(err)
	}
	if account() != first {
		t.Error("another account while the first has bandwidth")
	}
	w.Note(t.Context(), first, &Answer{})
	second := account()
	if second == first {
		t.Error("the account is used up and still in use")
	}
	g.lose = 1
	if _, err := w.Register(t.Context(), second, g.ask(second)); !errors.Is(err, errLost) {
		t.Fatal(err)
	}
	w.Note(t.Context(), second, &Answer{})
	if account() != second {
		t.Error("another account while a ticket is bound to the last one")
	}
	if _, err := w.Register(t.Context(), second, g.ask(second)); err != nil {
		t.Fatal(err)
	}
	now = now.Add(2 * time.Hour)
	third := account()
	if third == second {
		t.Error("the account has expired and is still in use")
	}
	now = testNow
	if account() != second {
		t.Error("a clock that was wrong for a while costs an account")
	}
	now = now.Add(keepExpired + 2*time.Hour)
	change(t, w, func(*content) {})
	if n := len(read(t, w).Accounts); n != 1 {
		t.Errorf("%d accounts are kept", n)
	}
}

// quick makes a wallet leave out syncing, for tests with many changes.
func quick(w *Wallet) {
	create := w.disk.create
	w.disk.create = func(path string) (file, error) {
		f, err := create(path)
		return unsynced{f}, err
	}
	w.disk.syncDir = func(string) error { return nil }
}

type unsynced struct{ file }

func (unsynced) Sync() error { return nil }

// Whatever is lost, repeated or run twice: no ticket is spent for two registrations, every registration that was
// paid for was paid for by one ticket at a time, and no ticket is lost.
func TestSpendingIsExact(t *testing.T) {
	if testing.Short() {
		t.Skip("a thousand changes of a file take seconds with the race detector")
	}
	rapid.Check(t, func(rt *rapid.T) {
		const tickets = 4
		w, g := newWallet(t, tickets), newGateway()
		quick(w)
		copyOf, err := Open(w.Path())
		if err != nil {
			rt.Fatal(err)
		}
		copyOf.now, copyOf.disk = w.now, w.disk
		steps := rapid.IntRange(1, 7).Draw(rt, "steps")
		for range steps {
			r := testRelay
			r.Account = testKey(byte(rapid.IntRange(30, 32).Draw(rt, "account")))
			g.lose = rapid.IntRange(0, 1).Draw(rt, "lose")
			by := rapid.SampledFrom([]*Wallet{w, copyOf}).Draw(rt, "process")
			_, err := by.Register(t.Context(), r, g.ask(r))
			if err != nil && !errors.Is(err, errLost) && !errors.Is(err, ErrNoTicket) {
				rt.Fatal(err)
			}
			if len(g.granted) > 3 {
				rt.Fatalf("granted %v", g.granted)
			}
			for r, bytes := range g.granted {
				if bytes > 1000 {
					rt.Fatalf("%d bytes for %v: a retry spent a second ticket", bytes, r.Account)
				}
			}
			c := read(t, w)
			free := 0
			for _, x := range c.Tickets {
				if _, spent := g.spent[string(x.Token)]; !spent {
					free++
				}
			}
			if free+len(g.spent) != tickets {
				rt.Fatalf("%d tickets of %d: %q, spent %v", free+len(g.spent), tickets, tokens(c), g.spent)
			}
		}
	})
}
