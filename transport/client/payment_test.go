package client_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lewes/state"
	"lewes/state/wire"
	"lewes/transport/client"
	"lewes/transport/client/wallet"
)

// ticketBytes is what a ticket of a test grants.
const ticketBytes = 1000

// till is the account of a gateway that takes tickets.
type till struct {
	asked   []string // credentials, "" for none
	by      []client.PublicKey
	spent   map[string]client.PublicKey
	left    map[client.PublicKey]uint64
	expires uint64
	silent  bool // spends, and gives no answer
	nothing bool // takes tickets for nothing
	listed  bool // takes none
}

// sells makes a gateway take tickets.
func (g *gateway) sells() *till {
	b := &till{spent: make(map[string]client.PublicKey), left: make(map[client.PublicKey]uint64)}
	g.registers(true)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.answer = nil
	g.register = func(s *state.Session, m *wire.Register) *wire.RegisterResult {
		who, token := s.Peer(), string(m.Credential)
		b.asked, b.by = append(b.asked, token), append(b.by, who)
		r := &wire.RegisterResult{ExpiresAt: b.expires}
		by, known := b.spent[token]
		switch {
		case token == "" && b.left[who] == 0 && b.listed:
			r.Code = wire.CodeBandwidthUsedUp
		case token == "" && b.left[who] == 0:
			r.Code = wire.CodeTicketNeeded
			r.Tickets = []wire.TicketOffer{{Type: wire.TicketBlindRSA2048, Issuer: "issuer.example", TokenKeyID: [32]byte{7}, Bytes: ticketBytes, Seconds: 3600}}
		case known && by != who:
			r.Code = wire.CodeAlreadySpent
		case token != "" && !known:
			b.spent[token] = who
			if !b.nothing {
				b.left[who] += ticketBytes
			}
		}
		if r.Remaining = b.left[who]; b.silent && token != "" {
			return nil
		}
		return r
	}
	return b
}

// reports sends what the account of a gateway's only session has left.
func (g *gateway) reports(b *till, left uint64) {
	g.with(func() {
		s := g.only()
		b.left[s.Peer()] = left
		r := wire.RegisterResult{Remaining: left, ExpiresAt: b.expires}
		if left == 0 {
			r.Code = wire.CodeBandwidthUsedUp
		}
		s.SendUnasked(r.AppendCBOR(nil), &g.out)
	})
}

// ticketsFor returns a wallet with tickets for a gateway whose tokens are 1, 2, and so on.
func ticketsFor(t *testing.T, gateway client.PublicKey, n int) *wallet.Wallet {
	t.Helper()
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(`{"key_id":"07%062d","epoch":1,"bytes":%d,"seconds":3600,"until":4000000000,"gateway":"%x","issuer":"https://issuer.example#x","token":"%s"}`,
			0, ticketBytes, gateway[:], base64.RawURLEncoding.EncodeToString(fmt.Append(nil, i+1))))
	}
	body := `{"tickets":[` + strings.Join(all, ",") + `]}`
	sum := sha256.Sum256([]byte(body))
	path := filepath.Join(t.TempDir(), "wallet")
	if err := os.WriteFile(path, []byte("lewes wallet 1 "+hex.EncodeToString(sum[:])+"\n"+body), 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := wallet.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// paying returns a configuration for a gateway that takes tickets, and the wallet.
func (w *world) paying(tickets int) (client.Config, *wallet.Wallet) {
	c := w.config()
	c.Identity, c.Gateway.Tickets = nil, true
	c.Tickets = ticketsFor(w.T, w.g.identity.Public(), tickets)
	return c, c.Tickets
}

func (w *world) asked(b *till) (asked []string) {
	w.g.with(func() { asked = slices.Clone(b.asked) })
	return asked
}

func ready(t *testing.T, w *wallet.Wallet) (n int) {
	t.Helper()
	c, err := w.Contents()
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range c.Tickets {
		if x.State == wallet.Ready {
			n += x.Count
		}
	}
	return n
}

// A session asks before it pays, by an identity of the wallet, and pays again when an eighth is left: at once if it used the
// rest, else after a minute. The next session uses the same account.
//
// Shows R9.14.
func TestSessionPays(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.g.sells()
		config, purse := w.paying(4)
		s := w.dial(config)
		if got := w.asked(b); !slices.Equal(got, []string{"", "1"}) {
			t.Fatalf("when Dial returns, the gateway was asked with %q", got)
		}
		exchange(t, flowTo(t, s, "203.0.113.7:53"), "at once")
		w.g.reports(b, ticketBytes/topUpShare+1)
		time.Sleep(time.Second)
		if got := w.asked(b); len(got) != 2 {
			t.Errorf("paid too early: %q", got)
		}
		w.g.reports(b, ticketBytes/topUpShare)
		time.Sleep(time.Second)
		if got := w.asked(b); len(got) != 2 {
			t.Errorf("paid at once, though the session did not use it: %q", got)
		}
		time.Sleep(time.Minute)
		exchange(t, flowTo(t, s, "203.0.113.7:53"), strings.Repeat("x", ticketBytes/3)) // back, too
		w.g.reports(b, 0)
		time.Sleep(time.Second)
		if got := w.asked(b); !slices.Equal(got, []string{"", "1", "", "2", "", "3"}) {
			t.Errorf("asked with %q", got)
		}
		if e := w.lastEvent(client.Registered); e.Err != nil || e.Registration.Remaining != ticketBytes {
			t.Errorf("event %+v", e)
		}
		w.closes(s)
		s = w.dial(config)
		w.closes(s)
		ids := slices.Compact(slices.Clone(b.by))
		if len(ids) != 1 || ids[0] == clientKey.Public() || ready(t, purse) != 1 {
			t.Errorf("identities %v, %d tickets", ids, ready(t, purse))
		}

		// Once the account has ended, the next session has another identity.
		s = w.dial(config)
		defer w.closes(s)
		for range 2 {
			w.g.reports(b, 0)
			time.Sleep(2 * time.Minute)
		}
		if e := w.lastEvent(client.Registered); !errors.Is(e.Err, wallet.ErrNoTicket) || !strings.Contains(e.Err.Error(), "lewes tickets fetch") {
			t.Errorf("event %+v", e)
		}
		if key, err := purse.Account(t.Context(), w.g.identity.Public()); err != nil || key.Public() == ids[0] {
			t.Errorf("the account is used up and still in use: %v", err)
		}
	})
}

const topUpShare = 8

// A ticket whose answer is lost with the gateway's session is spent again, for the same account, not another one.
//
// Shows R9.37.
func TestSessionPaysOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.g.sells()
		b.silent = true
		config, purse := w.paying(2)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := client.Dial(ctx, config)
		var dial *client.DialError
		if !errors.As(err, &dial) || dial.Step() != client.StepRegister || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("without an answer: %v", err)
		}
		if ready(t, purse) != 1 {
			t.Fatalf("%d tickets are ready", ready(t, purse))
		}
		w.g.restart()
		w.g.with(func() { b.silent = false })
		s := w.dial(config)
		w.closes(s)
		ids := slices.Compact(slices.Clone(b.by))
		if len(b.spent) != 1 || len(ids) != 1 || ready(t, purse) != 1 {
			t.Errorf("spent %v by %v, %d tickets are left", b.spent, ids, ready(t, purse))
		}
	})
}

// An account is extended before it expires.
func TestSessionPaysBeforeExpiry(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.g.sells()
		began := time.Now()
		b.expires = uint64(began.Add(time.Hour).Unix())
		config, _ := w.paying(2)
		s := w.dial(config)
		defer w.closes(s)
		time.Sleep(54 * time.Minute)
		if got := w.asked(b); len(got) != 2 {
			t.Errorf("paid early: %q", got)
		}
		w.g.with(func() { b.expires += 3600 })
		time.Sleep(2 * time.Minute)
		// The gateway has one end of all grants here, so that its answer to the question suffices.
		if got := w.asked(b); !slices.Equal(got, []string{"", "1", ""}) {
			t.Errorf("asked with %q", got)
		}
	})
}

// A flow that the gateway closes for want of bandwidth makes the session pay, though no report has arrived.
func TestSessionPaysWhenFlowsEnd(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.g.sells()
		config, _ := w.paying(2)
		s := w.dial(config)
		defer w.closes(s)
		c := flowTo(t, s, "203.0.113.7:53")
		exchange(t, c, strings.Repeat("x", ticketBytes/3))
		w.g.with(func() {
			clear(b.left)
			w.g.answer = func(a arrival) ([][]byte, wire.FlowReason) {
				if b.left[a.session.Peer()] == 0 {
					return nil, wire.FlowBandwidth
				}
				return [][]byte{[]byte(a.payload)}, 0
			}
		})
		write(t, c, "used up")
		time.Sleep(time.Second)
		exchange(t, flowTo(t, s, "203.0.113.7:53"), "paid again")
		if got := w.asked(b); !slices.Equal(got, []string{"", "1", "", "2"}) {
			t.Errorf("asked with %q", got)
		}
	})
}

// A gateway that takes a ticket and grants nothing for it gets no other.
//
// Shows R9.40.
func TestSessionStopsPayingForNothing(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.g.sells()
		config, _ := w.paying(4)
		s := w.dial(config)
		defer w.closes(s)
		w.g.with(func() { b.nothing = true })
		for range 3 {
			w.g.reports(b, 1)
			time.Sleep(time.Minute)
		}
		if got := w.asked(b); !slices.Equal(got, []string{"", "1", "", "2"}) {
			t.Errorf("asked with %q", got)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if !slices.ContainsFunc(w.events, func(e client.Event) bool { return errors.Is(e.Err, wallet.ErrNoGain) }) {
			t.Errorf("events %v", w.events)
		}
	})
}

// Without a ticket, Dial fails and names the remedy; without a wallet, the session reports it.
func TestSessionCannotPay(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.g.sells()
		config, _ := w.paying(0)
		_, err := client.Dial(t.Context(), config)
		var dial *client.DialError
		if !errors.As(err, &dial) || dial.Step() != client.StepRegister || !errors.Is(err, wallet.ErrNoTicket) || !strings.Contains(err.Error(), "lewes tickets fetch") {
			t.Errorf("without a ticket: %v", err)
		}
		config.Tickets, config.Identity = nil, clientKey
		s := w.dial(config)
		time.Sleep(time.Second)
		var refused *client.RegisterError
		if e := w.lastEvent(client.Registered); !errors.As(e.Err, &refused) || refused.Code != client.RegisterTicketNeeded {
			t.Errorf("event %+v", e)
		}
		w.closes(s)
		if !slices.Equal(b.asked, []string{"", ""}) {
			t.Errorf("asked with %q", b.asked)
		}
	})
}

// Where no ticket is taken, the end of the account is the gateway's refusal, and not the lack of a ticket.
func TestAccountWithoutTicketsEnds(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.g.sells()
		b.listed, b.left[clientKey.Public()] = true, ticketBytes
		config, _ := w.paying(0)
		config.Identity, config.Gateway.Tickets = clientKey, false
		s := w.dial(config)
		defer w.closes(s)
		time.Sleep(time.Second)
		if e := w.lastEvent(client.Registered); e.Err != nil || e.Registration.Remaining != ticketBytes {
			t.Errorf("event %+v", e)
		}
		w.g.reports(b, 0)
		time.Sleep(2 * time.Minute)
		var refused *client.RegisterError
		if e := w.lastEvent(client.Registered); !errors.As(e.Err, &refused) || refused.Code != client.RegisterBandwidthUsedUp || errors.Is(e.Err, wallet.ErrNoTicket) {
			t.Errorf("event %+v", e)
		}
		if r, err := s.Register(t.Context(), client.RegisterRequest{Mode: client.ModeRelay}); err != nil || r.Code != client.RegisterBandwidthUsedUp {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// Register pays in any mode, once for each, and never to ask for the balance.
func TestRegisterPays(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.g.sells()
		config, _ := w.paying(3)
		config.NoRegister = true
		s := w.dial(config)
		defer w.closes(s)
		if r := register(t, s, client.RegisterRequest{Mode: client.ModeBalance}); r.Code != client.RegisterTicketNeeded {
			t.Errorf("balance: %+v", r)
		}
		if r := register(t, s, client.RegisterRequest{Mode: client.ModeMixnet, ClientID: &[32]byte{1}}); !r.OK() || r.Remaining != ticketBytes {
			t.Errorf("mixnet: %+v", r)
		}
		w.g.with(func() { clear(b.left) })
		if r := register(t, s, client.RegisterRequest{Mode: client.ModeRelay}); !r.OK() {
			t.Errorf("relay: %+v", r)
		}
		if got := w.asked(b); !slices.Equal(got, []string{"", "", "1", "", "2"}) {
			t.Errorf("asked with %q", got)
		}
	})
}

// Each gateway of a chain is paid with tickets of its own, by an identity of its own.
func TestChainPays(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		config, entries := w.via(1)
		entry := entries[0]
		defer entry.stop()
		atExit, atEntry := w.g.sells(), entry.sells()
		config.Identity, config.Gateway.Tickets, config.Via[0].Tickets = nil, true, true
		config.Tickets = ticketsFor(t, w.g.identity.Public(), 1)
		_, err := client.Dial(t.Context(), config)
		var dial *client.DialError
		if !errors.As(err, &dial) || dial.Gateway.Identity != entry.identity.Public() || !errors.Is(err, wallet.ErrNoTicket) {
			t.Fatalf("without a ticket for the entry: %v", err)
		}
		key, err := config.Tickets.Account(t.Context(), entry.identity.Public())
		if err != nil {
			t.Fatal(err)
		}
		entry.with(func() { atEntry.left[key.Public()] = ticketBytes })
		s := w.dial(config)
		exchange(t, flowTo(t, s, "203.0.113.7:53"), "through")
		w.closes(s)
		if len(atExit.by) == 0 || atExit.by[0] == key.Public() || !slices.Equal(w.asked(atExit), []string{"", "1"}) {
			t.Errorf("the exit saw %v with %q", atExit.by, atExit.asked)
		}
	})
}

// NoRegister is about the last gateway: without a registration, its entry would carry nothing to it.
func TestNoRegisterIsForTheExit(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		config, entries := w.via(1)
		defer entries[0].stop()
		exit, entry := w.g.registers(true), entries[0].registers(true)
		config.NoRegister = true
		s := w.dial(config)
		defer w.closes(s)
		time.Sleep(time.Second)
		if a, b := w.g.bookOf(exit), entries[0].bookOf(entry); len(a) != 0 || len(b) != 1 {
			t.Errorf("%d Registers at the exit, %d at the entry", len(a), len(b))
		}
	})
}
