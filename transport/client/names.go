package client

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strings"

	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/state/path"
	"lewes/state/wire"
	"lewes/transport/client/wallet"
	"lewes/transport/uri"
)

type (
	// Gateway is a gateway's identity and address, as in its URI.
	Gateway = uri.Gateway
	// PublicKey is the identity of a client or a gateway.
	PublicKey = identity.PublicKey
	// PrivateKey is the key to an identity.
	PrivateKey = identity.PrivateKey
	// Wallet is a file of tickets, and of the accounts that they pay for.
	Wallet = wallet.Wallet
)

// ErrNoTicket means that a wallet has no ticket that a gateway takes.
var ErrNoTicket = wallet.ErrNoTicket

// OpenWallet returns the wallet in a file, which the first change creates. Package wallet fetches tickets
// for it, as lewes tickets fetch does.
func OpenWallet(path string) (*Wallet, error) { return wallet.Open(path) }

// ParseGateway parses a URI, lewes://IDENTITY@HOST:PORT.
func ParseGateway(s string) (Gateway, error) { return uri.Parse(s) }

// ParsePublicKey parses an identity in base58.
func ParsePublicKey(s string) (PublicKey, error) { return identity.ParsePublicKey(s) }

// GenerateKey returns a new identity. Its Save method stores it in a file.
func GenerateKey() (*PrivateKey, error) { return identity.Generate(rand.Reader) }

// LoadKey reads an identity from a file. It refuses a file that others can access.
func LoadKey(path string) (*PrivateKey, error) { return identity.Load(path) }

// KEM is the post-quantum key exchange of the handshake.
type KEM uint8

const (
	MLKEM768 KEM = iota // ML-KEM-768, the default
	XWing               // X-Wing: ML-KEM-768 and X25519
)

var kemIDs = [...]kem.ID{MLKEM768: kem.MLKEM768, XWing: kem.XWing}

// ParseKEM returns the KEM of a name, such as ML-KEM-768.
func ParseKEM(name string) (KEM, error) {
	id, err := kem.ParseID(name)
	if err != nil || !slices.Contains(kemIDs[:], id) { // X25519 alone is no choice of a client
		return 0, fmt.Errorf("unknown key exchange %q; use %s or %s", name, MLKEM768, XWing)
	}
	return kemOf(id), nil
}

func kemOf(id kem.ID) KEM {
	if id == kem.XWing {
		return XWing
	}
	return MLKEM768
}

func (k KEM) id() kem.ID { return kemIDs[k] }

func (k KEM) String() string {
	if int(k) >= len(kemIDs) {
		return fmt.Sprintf("KEM %d", uint8(k))
	}
	return k.id().String()
}

// Transport selects what carries a session's packets (section 10 of PROTOCOL.md).
type Transport uint8

const (
	Auto Transport = iota // UDP, and TCP where UDP is blocked
	UDP
	TCP
)

var transportNames = [...]string{Auto: "auto", UDP: "udp", TCP: "tcp"}

func transportOf(t path.Transport) Transport {
	if t == path.TCP {
		return TCP
	}
	return UDP
}

func (t Transport) String() string {
	return nameOf(transportNames[:], "transport", uint8(t))
}

// nameOf returns names[n], or kind and n if there is none.
func nameOf(names []string, kind string, n uint8) string {
	if int(n) < len(names) && names[n] != "" {
		return names[n]
	}
	return fmt.Sprintf("%s %d", kind, n)
}

// MarshalText returns auto, udp or tcp.
func (t Transport) MarshalText() ([]byte, error) {
	if int(t) >= len(transportNames) {
		return nil, fmt.Errorf("%w: unknown %s: use auto, udp or tcp", ErrConfig, t)
	}
	return []byte(t.String()), nil
}

// UnmarshalText parses auto, udp or tcp. An error leaves t unchanged.
func (t *Transport) UnmarshalText(text []byte) error {
	for i, name := range transportNames {
		if strings.EqualFold(string(text), name) {
			*t = Transport(i)
			return nil
		}
	}
	return fmt.Errorf("unknown transport %q: use auto, udp or tcp", text)
}

// FlowReason is the reason of a FlowError.
type FlowReason uint8

const (
	ReasonPolicy         = FlowReason(wire.FlowPolicy)         // the gateway's egress policy, or no such next gateway
	ReasonUnreachable    = FlowReason(wire.FlowUnreachable)    // as of ICMP
	ReasonIdle           = FlowReason(wire.FlowIdle)           // idle, or unknown to the gateway
	ReasonLimit          = FlowReason(wire.FlowBound)          // too many flows, or the gateway lacks something for another
	ReasonOtherTarget    = FlowReason(wire.FlowOtherTarget)    // the flow id belongs to another target
	ReasonIndexCollision = FlowReason(wire.FlowIndexCollision) // the receiver index is in use at an entry
	ReasonNotRegistered  = FlowReason(wire.FlowNotRegistered)
	ReasonBandwidth      = FlowReason(wire.FlowBandwidth)
	ReasonSessionClosing = FlowReason(wire.FlowSessionClosing)
	ReasonNameNotFound   = FlowReason(wire.FlowNameNotFound) // the gateway found no address for the name
)

func (r FlowReason) String() string { return wire.FlowReason(r).String() }
