package registrar

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"lewes/crypto/identity"
	"lewes/router/wireguard"
	"lewes/state/ledger"
	"lewes/state/wire"
)

// Ledger keeps accounts, spent tickets and results (package ledger). It is safe for concurrent use.
type Ledger interface {
	Account(identity.PublicKey) (ledger.Account, bool, error)
	// Spent reports whether a ticket is spent, and whether this request of this account spent it. Error:
	// ledger.ErrKeyClosed.
	Spent(ticket ledger.Ticket, client identity.PublicKey, request [32]byte) (spent, same bool, err error)
	Commit(context.Context, ledger.Entry) (ledger.Receipt, error)
	SetAttachment(ctx context.Context, client identity.PublicKey, a ledger.Attachment, now time.Time) error
	RemoveAttachment(ctx context.Context, client identity.PublicKey, mode ledger.Mode, key [32]byte, rest time.Duration, now time.Time) error
	Attachments(func(identity.PublicKey, ledger.Attachment) error) error
	Reservations(func(netip.Addr, ledger.Reservation) error) error
	// Err returns why nothing is written any more; nil: it is.
	Err() error
	// Result returns the first result of a request that spent a ticket.
	Result(request [32]byte) (result []byte, found bool, err error)
}

// Verifier checks tickets. It is safe for concurrent use.
type Verifier interface {
	// Check parses a credential and looks its key up, without a public-key operation. Errors:
	// ErrTicketInvalid, ErrUnknownIssuerKey, ErrTicketExpired.
	Check(now time.Time, kind wire.TicketType, credential []byte) (Token, error)
	// Verify verifies the signature of a Token that Check returned. Error: ErrTicketInvalid.
	Verify(*Token) error
	// Offers returns the tickets that the gateway takes, at most wire.MaxTickets.
	Offers(now time.Time) []wire.TicketOffer
}

// Token is a ticket that Check has accepted.
type Token struct {
	ledger.Ticket
	Bytes uint64
	Valid time.Duration // of the grant
	// Private is the Verifier's.
	Private any
}

// Errors of a Verifier.
var (
	ErrTicketInvalid    = errors.New("registrar: the ticket is invalid")
	ErrUnknownIssuerKey = errors.New("registrar: the ticket's key is unknown")
	ErrTicketExpired    = errors.New("registrar: the ticket is expired")
)

// Device sets up the WireGuard peers of mode dvpn: a *wireguard.Device. It is safe for concurrent use.
type Device interface {
	// Proves reports whether a wg_proof is that of a client's key in a session (section 9), in constant time.
	Proves(key, exporter [32]byte, proof []byte) bool
	// PSK returns the preshared key of a client's key in a session (R9.6).
	PSK(key, exporter [32]byte) [32]byte
	// Reserve reserves addresses for a peer in memory: those of the standing one, if there is one. release
	// gives them back if nothing was committed. Error: wireguard.ErrNoAddress, or that of the device.
	Reserve(now time.Time, client identity.PublicKey, key [32]byte, standing *Peer) (ipv4, ipv6 netip.Addr, release func(), err error)
	// Set adds or changes a peer, in place of the account's earlier one and of another account's with this key.
	// It may be repeated.
	Set(context.Context, Peer) error
	// Remove removes a peer, which may be gone, and gives its addresses back.
	Remove(context.Context, Peer) error
	// RestTime returns how long the addresses of a removed peer rest.
	RestTime() time.Duration
	// Rest keeps a released address out of use until a time, before Reconcile.
	Rest(client identity.PublicKey, a netip.Addr, until time.Time)
	// Reconcile makes these the only peers of accounts, before the first Reserve.
	Reconcile(context.Context, []Peer) error
	// Data returns the device's public key, and its endpoint as host:port.
	Data() (publicKey [32]byte, endpoint string)
}

// Peer is a client's WireGuard peer.
type Peer = wireguard.Peer

// peerOf returns the peer of an attachment without its preshared key.
func peerOf(client identity.PublicKey, a *ledger.Attachment) Peer {
	return Peer{Account: client, Key: a.WireGuardKey, IPv4: a.IPv4, IPv6: a.IPv6}
}
