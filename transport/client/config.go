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

// Config configures a Session. Gateway and Identity are required.
type Config struct {
	// Gateway is the exit: the gateway that sends datagrams to their targets.
	Gateway Gateway
	// Via lists the entry gateways, the nearest first. The first is reached at its host and port;
	// each later one, and Gateway, at the address that the one before it has in its directory.
	Via []Gateway
	// Identity is the client's key. The caller keeps it until the session has ended.
	Identity *PrivateKey
	// ViaIdentity is the client's key for the gateways in Via; nil means Identity. If
	// the two differ, entry and exit cannot link the client by its key.
	ViaIdentity *PrivateKey

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

// withDefaults returns the Config with its defaults filled in.
func (c Config) withDefaults() (Config, error) {
	if c.Identity == nil {
		return c, fmt.Errorf("%w: no Identity", ErrConfig)
	}
	c.Via = slices.Clone(c.Via)
	for i, g := range append(c.Via, c.Gateway) {
		if _, err := g.MarshalText(); err != nil {
			return c, fmt.Errorf("%w: gateway %d of %d: %w", ErrConfig, i+1, len(c.Via)+1, err)
		}
	}
	c.ViaIdentity = cmp.Or(c.ViaIdentity, c.Identity)
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
