package registrar

import (
	"errors"
	"testing"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/tickets"
	"lewes/state/wire"
)

// TestBlindRSA maps the errors of tickets, around the midnights at which a ticket's epoch begins and the next
// one ends.
//
// Shows R9.26, R9.27, R9.29.
func TestBlindRSA(t *testing.T) {
	const epoch, length = 2900, tickets.DefaultEpoch
	gateway := identity.FromSeed(&[32]byte{1}).Public()
	private, err := tickets.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	grant := tickets.Denomination{Bytes: 10 << 30, Seconds: 86400}
	directory := &tickets.Directory{Issuer: "issuer.example", Epoch: length, Keys: []tickets.Key{{Denomination: grant, Epoch: epoch, Public: private.Public()}}}
	issue := func(gateway identity.PublicKey) []byte {
		seed, challenge := [32]byte{2}, tickets.Challenge("issuer.example", gateway)
		request, err := tickets.Blind(&seed, private.Public(), challenge)
		if err != nil {
			t.Fatal(err)
		}
		response, err := private.Sign(request)
		if err != nil {
			t.Fatal(err)
		}
		token, err := tickets.Finalize(&seed, private.Public(), challenge, response)
		if err != nil {
			t.Fatal(err)
		}
		return token.Append(nil)
	}
	good, foreign := issue(gateway), issue(identity.FromSeed(&[32]byte{3}).Public())
	forged := issue(gateway)
	forged[len(forged)-1] ^= 1

	verifier := tickets.NewVerifier(gateway)
	v := BlindRSA(verifier)
	start := tickets.EpochStart(epoch, length)
	end := start.Add(2 * length)
	if _, err := v.Check(start, wire.TicketBlindRSA2048, good); !errors.Is(err, ErrUnknownIssuerKey) {
		t.Errorf("without issuers: %v", err)
	}
	if err := verifier.SetIssuers([]*tickets.Directory{directory}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what       string
		now        time.Time
		kind       wire.TicketType
		credential []byte
		want       error
	}{
		{"good", start, wire.TicketBlindRSA2048, good, nil},
		{"just before", start.Add(-tickets.ClockTolerance), wire.TicketBlindRSA2048, good, nil},
		{"too early", start.Add(-tickets.ClockTolerance - 1), wire.TicketBlindRSA2048, good, ErrUnknownIssuerKey},
		{"just after", end.Add(tickets.ClockTolerance - 1), wire.TicketBlindRSA2048, good, nil},
		{"too late", end.Add(tickets.ClockTolerance), wire.TicketBlindRSA2048, good, ErrTicketExpired},
		{"another gateway's", start, wire.TicketBlindRSA2048, foreign, ErrTicketInvalid},
		{"another type", start, wire.TicketBlindRSA2048 + 1, good, ErrTicketInvalid},
		{"short", start, wire.TicketBlindRSA2048, good[1:], ErrTicketInvalid},
	} {
		token, err := v.Check(c.now, c.kind, c.credential)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
		if err == nil && (token.Bytes != grant.Bytes || token.Valid != 24*time.Hour || token.Until != end.Add(tickets.ClockTolerance) || v.Verify(&token) != nil) {
			t.Errorf("%s: %+v", c.what, token)
		}
	}
	if token, err := v.Check(start, wire.TicketBlindRSA2048, forged); err != nil || !errors.Is(v.Verify(&token), ErrTicketInvalid) {
		t.Errorf("a wrong signature: %v", err)
	}
	offers := v.Offers(start)
	if len(offers) != 1 || offers[0].TokenKeyID != private.Public().ID() || offers[0].Bytes != grant.Bytes {
		t.Errorf("offers %v", offers)
	}
}
