package ledger

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"lewes/crypto/identity"
)

// Bounds of the ledger.
const (
	MaxGrants      = 64        // of one account
	MaxAttachments = 8         // of one account, those in removal included
	MaxAccounts    = 1_000_000 // in the ledger
	MaxResults     = 65_536    // kept; the one that expires first makes room
	MaxResult      = 1024      // bytes of one result
	MaxSealed      = 128       // bytes of a sealed preshared key
)

// Times of the ledger, in ledger time.
const (
	ResultLife  = 24 * time.Hour     // until a result is deleted
	AccountLife = 7 * 24 * time.Hour // until an account without grants and WireGuard peers is deleted
	MinRest     = 10 * time.Minute   // until a released address may have a new owner
)

// Mode is what an attachment is for.
type Mode uint8

const (
	Relay Mode = iota + 1
	DVPN
	Mixnet
)

var modes = [...]string{Relay: "relay", DVPN: "dvpn", Mixnet: "mixnet"}

// String returns the mode as in Register.
func (m Mode) String() string { return name(modes[:], m) }

// State is the progress of an attachment.
type State uint8

const (
	Adding   State = iota + 1 // durable here, not yet known to be on the device
	On                        // on the device
	Removing                  // to be removed from the device, then here
)

var states = [...]string{Adding: "adding", On: "on", Removing: "removing"}

func (s State) String() string { return name(states[:], s) }

// Source is where a grant comes from.
type Source uint8

const (
	SourceTicket Source = iota + 1 // each ticket adds a grant
	SourceListed                   // the list of clients; an account has at most one
)

var sources = [...]string{SourceTicket: "ticket", SourceListed: "listed"}

func (s Source) String() string { return name(sources[:], s) }

func name[T ~uint8](names []string, v T) string {
	if int(v) < len(names) && v > 0 {
		return names[v]
	}
	return fmt.Sprintf("%d", uint8(v))
}

// Grant is bandwidth, in bytes, until an instant.
type Grant struct {
	Bytes   uint64
	Used    uint64 // at most Bytes
	Expires time.Time
	Source  Source
	Number  uint64 // unique in its account, rising, set by the ledger
}

// Left returns the bytes that are left at an instant.
func (g Grant) Left(now time.Time) uint64 {
	if !now.Before(g.Expires) {
		return 0
	}
	return g.Bytes - g.Used
}

// Attachment is a mode that an account is registered for. An account has one of each mode, and of DVPN
// further ones in state Removing, which are still on the device.
type Attachment struct {
	Mode         Mode
	State        State
	WireGuardKey [32]byte // DVPN
	PSK          []byte   // DVPN, sealed by the caller; at most MaxSealed bytes
	IPv4         netip.Addr
	IPv6         netip.Addr
	ClientID     [32]byte // Mixnet
}

func (a Attachment) addresses() (list []netip.Addr) {
	for _, ip := range []netip.Addr{a.IPv4, a.IPv6} {
		if ip.IsValid() {
			list = append(list, ip)
		}
	}
	return list
}

func (a Attachment) valid() bool {
	wireguard := a.WireGuardKey != [32]byte{}
	return a.Mode >= Relay && a.Mode <= Mixnet && a.State >= Adding && a.State <= Removing && len(a.PSK) <= MaxSealed &&
		wireguard == (a.Mode == DVPN) && (wireguard || len(a.PSK) == 0 && len(a.addresses()) == 0) &&
		(!a.IPv4.IsValid() || a.IPv4.Is4()) && (!a.IPv6.IsValid() || a.IPv6.Is6() && !a.IPv6.Is4In6() && a.IPv6.Zone() == "")
}

// Account is the state of one registered identity. The caller owns it.
type Account struct {
	ID          identity.PublicKey
	Grants      []Grant // at most MaxGrants, in the order of their expiry
	Attachments []Attachment
	Seen        time.Time // the last registration, or use on a later day, in ledger time

	numbers uint64 // of the last grant
}

// Left returns the bytes that are left at an instant, and the end of the last grant that has any.
func (a Account) Left(now time.Time) (bytes uint64, end time.Time) {
	for _, g := range a.Grants {
		if left := g.Left(now); left > 0 {
			bytes, end = addCapped(bytes, left), g.Expires // in the order of expiry
		}
	}
	return bytes, end
}

// Attachment returns the attachment of a mode that is not in removal.
func (a Account) Attachment(mode Mode) (Attachment, bool) {
	i := slices.IndexFunc(a.Attachments, func(t Attachment) bool { return t.Mode == mode && t.State != Removing })
	if i < 0 {
		return Attachment{}, false
	}
	return a.Attachments[i], true
}

// find returns the index of the attachment with a mode and a WireGuard key, in any state, or -1.
func (a Account) find(mode Mode, key [32]byte) int {
	return slices.IndexFunc(a.Attachments, func(t Attachment) bool { return t.Mode == mode && t.WireGuardKey == key })
}

func addCapped(a, b uint64) uint64 {
	if sum := a + b; sum >= a {
		return sum
	}
	return 1<<64 - 1
}

// Ticket is the part of a ticket that the ledger keeps.
type Ticket struct {
	Issuer string
	KeyID  [32]byte
	From   time.Time // before it, and from Until on, no ticket of this key is good
	Until  time.Time
	Spent  [32]byte // SHA-256 of the token's input, never of its signature
}

// Entry is one registration. The parts that are nil are left alone.
type Entry struct {
	Account identity.PublicKey
	Request [32]byte    // equal for a repeat: a hash of identity, mode, WireGuard key and ticket
	Ticket  *Ticket     // spent with the Grant, once
	Grant   *Grant      // Used and Number are ignored
	Attach  *Attachment // replaces that of its mode; State is ignored
	Now     time.Time

	// Result returns the result of the request from the account afterwards, to be kept for ResultLife: at most MaxResult
	// bytes, or nil for none. It runs inside the transaction: it must be quick and not use the ledger. May be nil.
	Result func(Account) []byte
}

// Outcome is the way in which Commit succeeded.
type Outcome uint8

const (
	New      Outcome = iota + 1 // the entry is in the ledger now
	Repeated                    // its ticket was spent by the same request before, or its listed grant stands
)

// Receipt is the result of Commit.
type Receipt struct {
	Outcome Outcome
	Account Account     // afterwards
	Moved   *Attachment // the one that another account had with this WireGuard key; its addresses rest
}

// Reservation is the use of an address of the pool.
type Reservation struct {
	Owner identity.PublicKey
	Until time.Time // zero while an attachment holds the address, else the end of its rest in ledger time
}
