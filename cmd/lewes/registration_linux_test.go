package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/tickets"
	"lewes/transport/client"
	"lewes/transport/uri"
)

// mint is an issuer whose list of keys is a file.
type mint struct {
	t      *testing.T
	key    *tickets.PrivateKey
	source string // for registration.issuers
	name   string
}

const ticketBytes = 1000

func newMint(t *testing.T) *mint {
	t.Helper()
	key, err := tickets.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	m := &mint{t: t, key: key, name: "issuer.example"}
	pin := identity.FromSeed(&[32]byte{77})
	d := &tickets.Directory{Issuer: m.name, Epoch: tickets.DefaultEpoch, RequestURI: "/request", Keys: []tickets.Key{{
		Denomination: tickets.Denomination{Bytes: ticketBytes, Seconds: 3600}, Epoch: tickets.EpochAt(time.Now(), tickets.DefaultEpoch), Public: key.Public(),
	}}}
	text, err := d.Sign(pin)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "issuer.json")
	writeFile(t, file, string(text), 0o600)
	m.source = file + "#" + pin.Public().String()
	return m
}

// ticket returns a ticket for a gateway.
func (m *mint) ticket(gateway identity.PublicKey) []byte {
	var seed [tickets.SeedSize]byte
	_, _ = rand.Read(seed[:])
	challenge := tickets.Challenge(m.name, gateway)
	request, err := tickets.Blind(&seed, m.key.Public(), challenge)
	if err != nil {
		panic(err)
	}
	response, err := m.key.Sign(request)
	if err != nil {
		panic(err)
	}
	token, err := tickets.Finalize(&seed, m.key.Public(), challenge, response)
	if err != nil {
		panic(err)
	}
	return token.Append(nil)
}

// spender is a client that spends one ticket after the other.
type spender struct {
	session *client.Session
	spent   [][]byte
}

func dialSpender(t *testing.T, to uri.Gateway, seed byte) *spender {
	t.Helper()
	s, err := client.Dial(t.Context(), client.Config{Gateway: to, Identity: identity.FromSeed(&[32]byte{100, seed}), Keys: new(client.KeyCache)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return &spender{session: s}
}

// spend spends a ticket, and checks that the account has all that were spent so far.
func (s *spender) spend(ticket []byte) error {
	s.spent = append(s.spent, ticket)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	result, err := s.session.Register(ctx, client.RegisterRequest{Mode: client.ModeRelay, TicketType: client.TicketBlindRSA2048, Credential: ticket})
	if err != nil {
		return err
	}
	if want := uint64(len(s.spent)) * ticketBytes; result.Code != client.RegisterOK || result.Remaining != want {
		return fmt.Errorf("%v (%s), %d bytes remain, want %d", result.Code, result.Detail, result.Remaining, want)
	}
	return nil
}

// TestUpgradeDuringRegistrations starts successors during a storm of spends: no ticket is refused or taken twice.
func TestUpgradeDuringRegistrations(t *testing.T) {
	const clients, each, upgrades = 8, 24, 2
	m := newMint(t)
	u := launchUpgradable(t, fmt.Sprintf("[access]\nmode = \"open\"\n[registration]\naccess = \"tickets\"\nissuers = [%q]\n", m.source))
	to, err := uri.Parse(u.uri)
	if err != nil {
		t.Fatal(err)
	}
	var answered atomic.Int64
	var running sync.WaitGroup
	var spenders []*spender
	for i := range clients {
		s := dialSpender(t, to, byte(i))
		spenders = append(spenders, s)
		running.Go(func() {
			for n := range each {
				if err := s.spend(m.ticket(to.Identity)); err != nil {
					t.Errorf("client %d, ticket %d: %v", i, n, err)
					return
				}
				answered.Add(1)
			}
		})
	}
	for n := range upgrades {
		for answered.Load() < int64((n+1)*clients*each/(upgrades+2)) && !t.Failed() {
			time.Sleep(time.Millisecond)
		}
		if sessions, _, _ := u.upgrade(); sessions != clients {
			t.Errorf("%d sessions were handed over, not %d", sessions, clients)
		}
	}
	running.Wait()
	if t.Failed() {
		return
	}
	u.awaitLog("opened the ledger")
	thief := dialSpender(t, to, 99)
	for i, s := range spenders {
		result, err := thief.session.Register(t.Context(), client.RegisterRequest{Mode: client.ModeRelay, TicketType: client.TicketBlindRSA2048, Credential: s.spent[i]})
		if err != nil || result.Code != client.RegisterAlreadySpent {
			t.Errorf("a ticket of client %d: %v (%v)", i, result.Code, err)
		}
		result, err = s.session.Register(t.Context(), client.RegisterRequest{Mode: client.ModeBalance})
		if err != nil || result.Remaining != each*ticketBytes {
			t.Errorf("client %d has %d bytes, not %d (%v)", i, result.Remaining, each*ticketBytes, err)
		}
	}
}
