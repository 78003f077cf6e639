package main

import (
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/tickets"
	"lewes/state/ledger"
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
	seed    []byte
	spent   [][]byte
}

func dialSpender(t *testing.T, to uri.Gateway, seed ...byte) *spender {
	t.Helper()
	key := [32]byte{100}
	copy(key[1:], seed)
	s, err := client.Dial(t.Context(), client.Config{Gateway: to, Identity: identity.FromSeed(&key), Keys: new(client.KeyCache)})
	if err != nil {
		t.Error(err)
		return nil
	}
	t.Cleanup(func() { _ = s.Close() })
	return &spender{session: s, seed: seed}
}

// spend spends a ticket, and checks that the account has all that were spent so far.
func (s *spender) spend(ticket []byte) error {
	s.spent = append(s.spent, ticket)
	return s.repeat(ticket)
}

func (s *spender) repeat(ticket []byte) error {
	// A kill between two messages of a handshake costs Config.Timeout.
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

var gatewayKills = flag.Int("gateway.kills", 0, "how often TestKilledGatewayDuringRegistrations kills the gateway; 0: it does not run")

// TestKilledGatewayDuringRegistrations kills the gateway during spends by 20 clients, which go on with the next
// one: no ticket is lost, taken twice, or counted twice.
//
// Shows R9.17.
func TestKilledGatewayDuringRegistrations(t *testing.T) {
	if *gatewayKills == 0 {
		t.Skip("takes long: -gateway.kills 50")
	}
	const clients = 20
	m, dir := newMint(t), t.TempDir()
	file := filepath.Join(dir, "gateway.toml")
	start := func(port uint16) *process {
		writeFile(t, file, fmt.Sprintf("state_dir = %q\n[listen]\naddresses = [\"127.0.0.1\"]\nport = %d\n[tcp]\nenabled = false\n[access]\nmode = \"open\"\n"+
			"[registration]\naccess = \"tickets\"\nissuers = [%q]\n", dir, port, m.source), 0o600)
		p := launchFile(t, program, environment(dir), "gateway", "--config", file)
		p.awaitLog("  ready  ")
		return p
	}
	p := start(0)
	to, err := uri.Parse(p.awaitLine("lewes://"))
	if err != nil {
		t.Fatal(err)
	}
	var byClient [clients]atomic.Int64
	var spenders [clients][]*spender
	var stop atomic.Bool
	var running sync.WaitGroup
	for i := range clients {
		running.Go(func() {
			for !stop.Load() {
				n := len(spenders[i])
				if n == 0 || len(spenders[i][n-1].spent) == ledger.MaxGrants { // its account is full
					if n > 0 {
						_ = spenders[i][n-1].session.Close()
					}
					s := dialSpender(t, to, byte(i), byte(n))
					if s == nil {
						return
					}
					spenders[i] = append(spenders[i], s)
					n++
				}
				s := spenders[i][n-1]
				if err := s.spend(m.ticket(to.Identity)); err != nil {
					t.Errorf("client %d.%d, ticket %d: %v", i, n, len(s.spent), err)
					return
				}
				byClient[i].Add(1)
			}
		})
	}
	for range *gatewayKills {
		for i := range byClient { // so that each client has a session that a kill ends
			for before := byClient[i].Load(); byClient[i].Load() == before && !t.Failed(); {
				time.Sleep(time.Millisecond)
			}
		}
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-p.done
		p = start(to.Port)
	}
	stop.Store(true)
	running.Wait()
	thief, answered := dialSpender(t, to, 99), 0
	for i, s := range slices.Concat(spenders[:]...) {
		if len(s.spent) == 0 || t.Failed() {
			continue
		}
		answered += len(s.spent)
		_ = s.session.Close()
		again := dialSpender(t, to, s.seed...)
		if again == nil {
			return
		}
		s.session = again.session
		result, err := thief.session.Register(t.Context(), client.RegisterRequest{Mode: client.ModeRelay, TicketType: client.TicketBlindRSA2048, Credential: s.spent[0]})
		if err != nil || result.Code != client.RegisterAlreadySpent {
			t.Errorf("a ticket of account %d: %v (%v)", i, result.Code, err)
		}
		result, err = s.session.Register(t.Context(), client.RegisterRequest{Mode: client.ModeBalance})
		if want := uint64(len(s.spent)) * ticketBytes; err != nil || result.Remaining != want {
			t.Errorf("account %d has %d bytes, not %d (%v)", i, result.Remaining, want, err)
		}
	}
	t.Logf("%d kills, %d tickets", *gatewayKills, answered)
}
