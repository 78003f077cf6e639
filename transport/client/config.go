package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"lewes/crypto/identity"
	"lewes/state"
	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/tcp"
	"lewes/transport/udp"
)

// Defaults of Config.
const (
	DefaultKeepalive = 25 * time.Second
	DefaultTimeout   = state.DefaultDeadline
	// DefaultMaxPacket, with IPv6 and UDP headers, fits a path MTU of 1500 bytes.
	DefaultMaxPacket = 1452
)

// sendWait is how long a writer waits for room in the socket's send buffer.
const sendWait = 100 * time.Millisecond

// Config configures a Session. Gateway is required, and Identity unless Ephemeral or Tickets stands for it.
type Config struct {
	// Gateway is the exit: the gateway that sends datagrams to their targets.
	Gateway Gateway
	// Via lists the entry gateways, the nearest first. The first is reached at its host and port;
	// each later one, and Gateway, at the address that the one before it has in its directory.
	Via []Gateway
	// Identity is the client's key. Gateway sees it; each gateway in Via sees one derived from it by
	// PrivateKey.ForEntry, so that no two of them can link the client by its key. The caller keeps it
	// until the session has ended.
	Identity *PrivateKey
	// ViaIdentity is the client's key for all gateways in Via instead of the derived ones.
	ViaIdentity *PrivateKey
	// Ephemeral replaces Identity by a key that is drawn once per process and stored nowhere: towards
	// the gateways whose URI has access=open, and towards all if Identity is nil. It is implied if
	// Identity is nil and every gateway is open.
	Ephemeral bool
	// Tickets pays where a session registers by itself: with a ticket only if the gateway needs one, and
	// again before the account ends; nil pays for nothing. Towards a gateway whose URI has access=tickets, Ephemeral,
	// or Identity and ViaIdentity that are nil, mean an identity of the wallet: a fresh one for each account, which is
	// used until that account has ended.
	Tickets *Wallet
	// KEM is the post-quantum key exchange. The zero value is ML-KEM-768.
	KEM KEM
	// PinnedKEM is the BLAKE3 hash of the only KEM key to accept from Gateway; nil
	// accepts any that Gateway has signed.
	PinnedKEM *[32]byte
	// Keys caches the gateways' KEM keys for 24 hours, which saves a round trip; nil
	// means a cache shared by the process.
	Keys *KeyCache

	// Keepalive is the longest idle time, so that NATs keep their mapping; the session
	// lowers it where a NAT needs that. 0 means DefaultKeepalive, less than 0 none.
	Keepalive time.Duration
	// Timeout bounds each handshake. 0 means DefaultTimeout.
	Timeout time.Duration
	// MaxPacket is the size of the largest packet to send, in bytes, without IP and
	// UDP headers. 0 means DefaultMaxPacket.
	MaxPacket int
	// NoReconnect ends the session when it would otherwise reconnect.
	NoReconnect bool

	// NoRegister leaves registration with Gateway to the program, which calls Session.Register. Otherwise a
	// session registers by itself with a gateway that requires it, as those with Via always do.
	NoRegister bool

	// Transport selects what carries packets to the first gateway.
	Transport Transport
	// Resolver resolves the first gateway's name for each handshake; nil means net.DefaultResolver.
	Resolver Resolver
	// Underlay opens a Conn to the first gateway; nil means a UDP socket. UnderlayTCP
	// opens one for where UDP is blocked; nil means TCP, or none if Underlay is set.
	// They are for tests and for other carriers of datagrams.
	Underlay    func(context.Context, netip.AddrPort) (transport.Conn, error)
	UnderlayTCP func(context.Context, netip.AddrPort) (Exchanger, error)

	// Logger logs the session's events; nil discards them.
	Logger *slog.Logger
	// OnEvent is called with each Event of this session and of the sessions with Via,
	// in order, from a goroutine of its own.
	OnEvent func(Event)
}

// Resolver resolves a gateway's name; *net.Resolver implements it.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// ErrConfig is wrapped by the errors of Dial about its Config.
var ErrConfig = errors.New("client: invalid configuration")

// forwardOverhead is what an entry costs per packet: a packet around it, the flow's
// header and the next gateway's identity.
const forwardOverhead = wire.Overhead + wire.FlowHeaderSize + identity.PublicKeySize

// ephemeralKey returns the key of the process for Config.Ephemeral.
var ephemeralKey = sync.OnceValues(GenerateKey)

// keyFor returns the key towards Via[hop], or towards Gateway if there is none. The caller wipes it if
// it is derived.
func (c *Config) keyFor(hop int) (key *PrivateKey, derived bool, err error) {
	g := c.Gateway
	if hop < len(c.Via) {
		g = c.Via[hop]
		if c.ViaIdentity != nil {
			return c.ViaIdentity, false, nil
		}
	}
	if c.ofWallet(g) {
		key, err = c.Tickets.Account(context.Background(), g.Identity)
		return key, err == nil, err
	}
	key = c.Identity
	if c.Ephemeral && g.Open || key == nil {
		if key, err = ephemeralKey(); err != nil {
			return nil, false, err
		}
	}
	if hop < len(c.Via) {
		return key.ForEntry(g.Identity), true, nil
	}
	return key, false, nil
}

// ofWallet reports whether the client's key towards a gateway is the wallet's.
func (c *Config) ofWallet(g Gateway) bool {
	return c.Tickets != nil && g.Tickets && (c.Ephemeral || c.Identity == nil)
}

// Identities returns the client's identities as the gateways see them: those in Via in their order, then
// Gateway. The errors are those of Dial about the Config.
func (c Config) Identities() (ids []PublicKey, err error) {
	if c, err = c.withDefaults(); err != nil {
		return nil, err
	}
	for hop := range len(c.Via) + 1 {
		key, derived, err := c.keyFor(hop)
		if err != nil {
			return nil, err
		}
		ids = append(ids, key.Public())
		if derived {
			key.Wipe()
		}
	}
	return ids, nil
}

// withDefaults returns the Config with its defaults filled in.
func (c Config) withDefaults() (Config, error) {
	c.Via = slices.Clone(c.Via)
	if closed := func(g Gateway) bool { return !g.Open && !c.ofWallet(g) }; c.Identity == nil && !c.Ephemeral {
		if closed(c.Gateway) || slices.ContainsFunc(c.Via, closed) {
			return c, fmt.Errorf("%w: no Identity", ErrConfig)
		}
		c.Ephemeral = true
	}
	for i, g := range append(c.Via, c.Gateway) {
		if _, err := g.MarshalText(); err != nil {
			return c, fmt.Errorf("%w: gateway %d of %d: %w", ErrConfig, i+1, len(c.Via)+1, err)
		}
	}
	if int(c.KEM) >= len(kemIDs) || !c.KEM.id().Supported() {
		return c, fmt.Errorf("%w: unsupported %s: use %s or %s", ErrConfig, c.KEM, MLKEM768, XWing)
	}
	c.Keys = cmp.Or(c.Keys, &sharedKeys)
	c.Keepalive = max(cmp.Or(c.Keepalive, DefaultKeepalive), 0)
	if c.Timeout <= 0 {
		c.Timeout = DefaultTimeout
	}
	c.MaxPacket = cmp.Or(c.MaxPacket, DefaultMaxPacket)
	if least := wire.MaxHandshakeDatagram + forwardOverhead*len(c.Via); c.MaxPacket < least || c.MaxPacket > wire.MaxUDPPacket {
		return c, fmt.Errorf("%w: MaxPacket is %d: a handshake through %d gateways needs %d to %d",
			ErrConfig, c.MaxPacket, len(c.Via)+1, least, wire.MaxUDPPacket)
	}
	c.Resolver = cmp.Or(c.Resolver, Resolver(net.DefaultResolver))
	if c.Transport > TCP {
		return c, fmt.Errorf("%w: unknown %s", ErrConfig, c.Transport)
	}
	if c.Underlay == nil && c.UnderlayTCP == nil {
		c.UnderlayTCP = func(_ context.Context, to netip.AddrPort) (Exchanger, error) {
			return tcp.Dial(to, tcp.Options{})
		}
	}
	if c.Transport == TCP && c.UnderlayTCP == nil {
		return c, fmt.Errorf("%w: Transport is tcp and UnderlayTCP is nil", ErrConfig)
	}
	if c.Underlay == nil {
		c.Underlay = func(_ context.Context, to netip.AddrPort) (transport.Conn, error) {
			return udp.Dial(to, udp.Options{Pooled: true, SendWait: sendWait})
		}
	}
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	return c, nil
}
