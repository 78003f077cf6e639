package client_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"lewes/crypto/wgkey"
	"lewes/state"
	"lewes/state/wire"
	"lewes/transport/client"
)

// book is the registration of a gateway of a test: it records the Registers, and answers ok.
type book struct {
	got    []wire.Register
	in     []*state.Session              // that the Registers came in
	stands map[*state.Session]bool       // registered sessions
	code   func(n int) wire.RegisterCode // of the n-th Register, from 1
	silent bool                          // Registers stay under way
}

// registers makes a gateway answer Registers, and require them.
func (g *gateway) registers(required bool) *book {
	b := &book{stands: make(map[*state.Session]bool)}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.config.Session.Terms.Flags = wire.AckRegisters
	if required {
		g.config.Session.Terms.Flags |= wire.AckRegistrationRequired
	}
	g.register = func(s *state.Session, m *wire.Register) *wire.RegisterResult {
		kept := *m
		kept.Credential, kept.WGPublicKey, kept.WGProof = bytes.Clone(m.Credential), bytes.Clone(m.WGPublicKey), bytes.Clone(m.WGProof)
		b.got, b.in = append(b.got, kept), append(b.in, s)
		if b.silent {
			return nil
		}
		r := &wire.RegisterResult{Remaining: 10 << 30, ExpiresAt: 1_900_000_000}
		if b.code != nil {
			r.Code = b.code(len(b.got))
		}
		if r.Code == wire.CodeTicketNeeded {
			r.Error = wire.Detail("a ticket\x1b is needed")
			r.Tickets = []wire.TicketOffer{{Type: wire.TicketBlindRSA2048, Issuer: "issuer.example", Bytes: 1, Seconds: 2}}
		}
		if m.Mode == wire.ModeDVPN {
			r.Peer = &wire.WireGuardPeer{PublicKey: [32]byte{9}, Endpoint: "198.51.100.1:51820", IPv4: netip.MustParseAddr("10.80.0.2")}
		}
		b.stands[s] = r.OK()
		return r
	}
	g.answer = func(a arrival) ([][]byte, wire.FlowReason) {
		if required && !b.stands[a.session] {
			return nil, wire.FlowNotRegistered
		}
		return [][]byte{[]byte(a.payload)}, 0
	}
	return b
}

// bookOf returns the Registers that a gateway has received.
func (g *gateway) bookOf(b *book) (got []wire.Register) {
	g.with(func() { got = slices.Clone(b.got) })
	return got
}

func register(t *testing.T, s *client.Session, r client.RegisterRequest) client.RegisterResult {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	result, err := s.Register(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

var relay = client.RegisterRequest{Mode: client.ModeRelay}

// lossy loses one of n packets.
func lossy(n int) func(_, _ netip.AddrPort, _ []byte) bool {
	r := rand.New(rand.NewPCG(1, 2))
	return func(_, _ netip.AddrPort, _ []byte) bool { return r.IntN(n) == 0 }
}

// TestRegister registers in each mode, over a network that loses most packets.
//
// Shows R9.11, R9.14.
func TestRegister(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.g.registers(false)
		s := w.dial(w.config())
		defer w.closes(s)
		time.Sleep(time.Second)
		w.net.losing(lossy(4))
		result := register(t, s, relay)
		if !result.OK() || result.Err() != nil || result.Remaining != 10<<30 || result.Expires.Unix() != 1_900_000_000 {
			t.Errorf("relay: %+v", result)
		}
		key := [32]byte{7}
		result = register(t, s, client.RegisterRequest{Mode: client.ModeDVPN, WireGuardKey: &key, TicketType: client.TicketBlindRSA2048, Credential: []byte("ticket")})
		var exporter [32]byte
		w.g.with(func() { exporter = w.g.only().Exporter() })
		public := wgkey.Public(&key)
		if result.Peer == nil || result.PresharedKey != wgkey.PresharedKey(&exporter, &public, &result.Peer.PublicKey) {
			t.Errorf("dvpn: %+v", result)
		}
		register(t, s, client.RegisterRequest{Mode: client.ModeMixnet, ClientID: &[32]byte{3}})
		register(t, s, client.RegisterRequest{Mode: client.ModeBalance})
		w.net.losing(nil)

		got := w.g.bookOf(b)
		if len(got) != 4 {
			t.Fatalf("%d Registers: %+v", len(got), got)
		}
		for i, mode := range []wire.Mode{wire.ModeRelay, wire.ModeDVPN, wire.ModeMixnet, wire.ModeBalance} {
			if got[i].Mode != mode || got[i].RequestID != uint32(i+1) || time.Since(time.Unix(int64(got[i].Timestamp), 0)) > time.Hour {
				t.Errorf("Register %d: %+v", i, got[i])
			}
		}
		if !wgkey.Verify(w.g.identity, (*[32]byte)(got[1].WGPublicKey), &exporter, got[1].WGProof) || string(got[1].Credential) != "ticket" {
			t.Errorf("dvpn: %+v", got[1])
		}
	})
}

// TestRegisterRefused returns a refusal with what the gateway takes, and tries again while it is busy.
//
// Shows R9.9, R9.12.
func TestRegisterRefused(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.g.registers(false)
		b.code = func(n int) wire.RegisterCode {
			return [...]wire.RegisterCode{wire.CodeBusy, wire.CodeBusy, wire.CodeTicketNeeded, 99, wire.CodeBusy}[min(n, 5)-1]
		}
		s := w.dial(w.config())
		defer w.closes(s)
		result := register(t, s, relay)
		var refused *client.RegisterError
		if err := result.Err(); !errors.As(err, &refused) || refused.Code != client.RegisterTicketNeeded || len(result.Tickets) != 1 ||
			err.Error() != "gateway refused the registration: ticket needed (a ticket\uFFFD is needed)" {
			t.Errorf("%v; %+v", err, result)
		}
		if got := w.g.bookOf(b); len(got) != 3 {
			t.Errorf("%d Registers", len(got))
		}
		if err := new(client.RegisterResult).Err(); err != nil {
			t.Error(err)
		}
		result = register(t, s, relay)
		if err := result.Err(); err == nil || !strings.Contains(err.Error(), "code 99") {
			t.Errorf("unknown code: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if result, err := s.Register(ctx, relay); err != nil || result.Code != client.RegisterBusy {
			t.Errorf("always busy: %+v, %v", result, err)
		}
	})
}

// Shows R9.10.
func TestRegisterNotAnswered(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		s := w.dial(w.config())
		if _, err := s.Register(t.Context(), relay); !errors.Is(err, client.ErrNoRegistration) {
			t.Error(err)
		}
		if terms := s.Info().Terms; terms.Registers || terms.RegistrationRequired {
			t.Errorf("%+v", terms)
		}
		w.closes(s)
		b := w.g.registers(false)
		b.silent = true
		s = w.dial(w.config())
		if _, err := s.Register(t.Context(), relay); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if !s.Info().Terms.Registers || s.Info().Terms.RegistrationRequired {
			t.Errorf("%+v", s.Info().Terms)
		}
		go func() {
			time.Sleep(time.Second)
			w.closes(s)
		}()
		if _, err := s.Register(t.Context(), relay); !errors.Is(err, client.ErrClosed) {
			t.Error(err)
		}
		if _, err := s.Register(t.Context(), relay); !errors.Is(err, client.ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
	})
}

// TestSessionRegistersByItself requires a registration. A flow of the first moment opens again, also after each
// reconnect.
//
// Shows R9.14.
func TestSessionRegistersByItself(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.g.registers(true)
		s := w.dial(w.config())
		defer w.closes(s)
		c := flowTo(t, s, "203.0.113.7:53")
		write(t, c, "too early")
		time.Sleep(time.Second)
		exchange(t, c, "registered")
		if !s.Info().Terms.RegistrationRequired {
			t.Error("not required")
		}
		for range 2 {
			w.g.restart()
			write(t, c, "lost")
			time.Sleep(20 * time.Second)
			exchange(t, c, "registered again")
		}
		want := "connected registered reconnecting reconnected registered reconnecting reconnected registered"
		if got := w.happened(); got != want {
			t.Errorf("events: %s", got)
		}
		if e := w.lastEvent(client.Registered); e.Err != nil || e.Registration.Remaining != 10<<30 || e.Gateway != w.g.identity.Public() {
			t.Errorf("event %+v", e)
		}
		for i, m := range w.g.bookOf(b) {
			if m.Mode != wire.ModeRelay || m.TicketType != wire.TicketNone || m.RequestID != 1 {
				t.Errorf("Register %d: %+v", i, m)
			}
		}
	})
}

// TestSessionWithoutRegistration leaves it to the program, whose flows the gateway refuses, and renews what the
// program has registered.
func TestSessionWithoutRegistration(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.g.registers(true)
		config := w.config()
		config.NoRegister = true
		s := w.dial(config)
		c := flowTo(t, s, "203.0.113.7:53")
		time.Sleep(time.Second)
		write(t, c, "not registered")
		time.Sleep(time.Second)
		var refused *client.FlowError
		if _, err := c.Write([]byte("x")); !errors.As(err, &refused) || refused.Reason != client.ReasonNotRegistered {
			t.Errorf("%v", err)
		}
		if got := w.g.bookOf(b); len(got) != 0 {
			t.Errorf("%d Registers", len(got))
		}
		w.closes(s)

		// A refusal is an event, and flows report it.
		b.code = func(int) wire.RegisterCode { return wire.CodeTicketNeeded }
		s = w.dial(w.config())
		c = flowTo(t, s, "203.0.113.7:53")
		time.Sleep(time.Second)
		var why *client.RegisterError
		if e := w.lastEvent(client.Registered); !errors.As(e.Err, &why) || why.Code != client.RegisterTicketNeeded || len(e.Registration.Tickets) != 1 {
			t.Errorf("event %+v", e)
		}
		write(t, c, "not registered")
		time.Sleep(time.Second)
		if _, err := c.Write([]byte("x")); !errors.As(err, &refused) || refused.Reason != client.ReasonNotRegistered {
			t.Errorf("%v", err)
		}
		w.closes(s)
	})
}

// TestRegisterGoesOnInTheNextSession loses the gateway while a Register is under way.
//
// Shows R9.14.
func TestRegisterGoesOnInTheNextSession(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		b := w.g.registers(false)
		b.silent = true
		s := w.dial(w.config())
		defer w.closes(s)
		go func() {
			time.Sleep(3 * time.Second)
			w.g.restart()
			w.g.with(func() { b.silent = false })
		}()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		if result, err := s.Register(ctx, client.RegisterRequest{Mode: client.ModeRelay, TicketType: client.TicketBlindRSA2048, Credential: []byte("one")}); err != nil || !result.OK() {
			t.Fatalf("%+v, %v", result, err)
		}
		got := w.g.bookOf(b)
		if len(got) != 2 || b.in[0] == b.in[1] || string(got[0].Credential) != "one" || string(got[1].Credential) != "one" {
			t.Errorf("Registers %+v", got)
		}
	})
}

// TestAccountChanges reports unasked results, one of them while a Register waits.
//
// Shows R9.13.
func TestAccountChanges(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.g.registers(false).silent = true
		s := w.dial(w.config())
		defer w.closes(s)
		time.Sleep(time.Second)
		report := func(r wire.RegisterResult) client.Event {
			w.g.with(func() { w.g.only().SendUnasked(r.AppendCBOR(nil), &w.g.out) })
			time.Sleep(time.Second)
			return w.lastEvent(client.Registered)
		}
		if e := report(wire.RegisterResult{Remaining: 100}); e.Err != nil || e.Registration.Remaining != 100 {
			t.Errorf("event %+v", e)
		}
		go func() { _, _ = s.Register(t.Context(), relay) }()
		time.Sleep(time.Second)
		var used *client.RegisterError
		if e := report(wire.RegisterResult{Code: wire.CodeBandwidthUsedUp}); !errors.As(e.Err, &used) || used.Code != client.RegisterBandwidthUsedUp {
			t.Errorf("event %+v", e)
		}
	})
}

// TestRegisterThroughEntries registers with the exit of a chain whose entries require registrations, too.
//
// Shows R8.26.
func TestRegisterThroughEntries(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		config, entries := w.via(2)
		books := []*book{w.g.registers(true)}
		for _, e := range entries {
			books = append(books, e.registers(true))
			defer e.stop()
		}
		s := w.dial(config)
		defer w.closes(s)
		w.net.losing(lossy(5))
		result := register(t, s, relay)
		w.net.losing(nil)
		if !result.OK() {
			t.Errorf("%+v", result)
		}
		time.Sleep(10 * time.Second)
		for i, b := range books {
			if got := append([]*gateway{w.g}, entries...)[i].bookOf(b); len(got) < 1 || len(got) > 2 {
				t.Errorf("gateway %d: %+v", i, got)
			}
		}
		c := flowTo(t, s, "203.0.113.7:53")
		exchange(t, c, "through")
	})
}
