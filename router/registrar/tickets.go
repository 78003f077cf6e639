package registrar

import (
	"errors"
	"time"

	"lewes/crypto/tickets"
	"lewes/state/ledger"
	"lewes/state/wire"
)

// BlindRSA returns the Verifier of tickets of wire.TicketBlindRSA2048.
func BlindRSA(v *tickets.Verifier) Verifier { return blindRSA{v} }

type blindRSA struct{ verifier *tickets.Verifier }

func (b blindRSA) Check(now time.Time, kind wire.TicketType, credential []byte) (Token, error) {
	if kind != wire.TicketBlindRSA2048 {
		return Token{}, ErrTicketInvalid
	}
	t, err := b.verifier.Check(credential, now)
	switch {
	case errors.Is(err, tickets.ErrUnknownKey), errors.Is(err, tickets.ErrEarly): // the client keeps the ticket
		return Token{}, ErrUnknownIssuerKey
	case errors.Is(err, tickets.ErrExpired):
		return Token{}, ErrTicketExpired
	case err != nil:
		return Token{}, ErrTicketInvalid
	}
	return Token{
		Ticket: ledger.Ticket{Issuer: t.Issuer, KeyID: t.Key, From: t.From, Until: t.Until, Spent: t.Spent},
		Bytes:  t.Bytes, Valid: time.Duration(t.Seconds) * time.Second, Private: t,
	}, nil
}

func (b blindRSA) Verify(t *Token) error {
	if t.Private.(*tickets.Ticket).Verify() != nil {
		return ErrTicketInvalid
	}
	return nil
}

func (b blindRSA) Offers(now time.Time) (offers []wire.TicketOffer) {
	for _, o := range b.verifier.Offers(now) {
		if len(offers) == wire.MaxTickets {
			break
		}
		offers = append(offers, wire.TicketOffer{Type: wire.TicketBlindRSA2048, Issuer: o.Issuer, TokenKeyID: o.Key, Bytes: o.Bytes, Seconds: uint64(o.Seconds)})
	}
	return offers
}

// IssuerStats describes the issuers whose tickets a gateway takes.
type IssuerStats struct {
	Failing uint64 `metric:"ticket_issuers_failing" kind:"gauge" help:"Issuers of tickets whose keys could not be read the last time."`
	Keys    uint64 `metric:"ticket_keys" kind:"gauge" help:"Keys of issuers, one for each denomination and epoch, whose tickets are taken."`
}
