package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"

	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/state"
	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/tcp"
	"lewes/transport/udp"
	"lewes/transport/uri"
)

// Defaults of Config.
const (
	DefaultKeepalive = 25 * time.Second
	DefaultTimeout   = state.DefaultDeadline
	// DefaultMaxPacket fits, with the headers of IPv6 and UDP, a path that takes
	// packets of 1500 bytes.
	DefaultMaxPacket = 1452
)

// sendWait is how long a writer waits for room in the socket's send buffer, where
// Config.UDP does not say otherwise.
const sendWait = 100 * time.Millisecond

// Config says whom to talk to and how. Gateway and Identity are required.
type Config struct {
	// Gateway is where the datagrams leave.
	Gateway uri.Gateway
	// Via are the gateways on the way there, the nearest first. The first is
	// reached at its own host and port, each later one, and Gateway, at the
	// address that the one before it has for that identity.
	Via []uri.Gateway
	// Identity is the client's key. It stays the caller's, who keeps it as long as
	// the session lives.
	Identity *identity.PrivateKey
	// ViaIdentity is the client's key for the gateways in Via; nil means Identity.
	// Where the two differ, the gateways cannot tell by the key that entry and exit
	// serve the same client.
	ViaIdentity *identity.PrivateKey

	// KEM is the post-quantum half of the handshake; nil means ML-KEM-768. (X-Wing
	// has the number 0, so the zero kem.ID cannot mean the default.)
	KEM *kem.ID
	// PinnedKEM is the BLAKE3 hash of the only KEM key to take from Gateway; nil
	// takes any that Gateway has signed.
	PinnedKEM *[32]byte
	// Keys keeps the gateways' KEM keys for 24 hours, which saves a round trip; nil
	// means a cache that the whole process shares.
	Keys *KeyCache

	// Keepalive is the longest that the session stays quiet, so that NATs on the
	// way keep their mapping. The session finds out where that is too long, and gets
	// by with less. 0 means DefaultKeepalive, less than 0 never.
	Keepalive time.Duration
	// Timeout bounds each handshake. 0 means DefaultTimeout.
	Timeout time.Duration
	// MaxPacket is the size in bytes of the largest LP packet on the underlay, 0
	// means DefaultMaxPacket. A path that takes less drops what is larger.
	MaxPacket int
	// NoReconnect ends the session where it would otherwise be made anew.
	NoReconnect bool

	// Transport is what may carry packets to the first gateway.
	Transport Transport
	// UDP are the options of the socket to the first gateway. Pooled is always
	// set; a SendWait of 0 means 100 ms, less than 0 none.
	UDP udp.Options
	// TCP are the bounds of the connections to it.
	TCP tcp.Options
	// Resolver resolves the first gateway's name, each time that the session is
	// made. nil means net.DefaultResolver.
	Resolver Resolver
	// Underlay makes a Conn, connected to the first gateway, that a session runs
	// over; nil means udp.Dial. Who sets it tests, or has another way to carry
	// datagrams. UnderlayTCP makes one for where that does not pass; nil means tcp.Dial,
	// or none where Underlay is set.
	Underlay    func(context.Context, netip.AddrPort) (transport.Conn, error)
	UnderlayTCP func(context.Context, netip.AddrPort) (Exchanger, error)

	// Logger is told what happens to the session, once each; nil is silence.
	Logger *zap.Logger
	// OnEvent is called with each Event of this session and of the sessions with the
	// gateways in Via, in their order, from a goroutine of its own.
	OnEvent func(Event)
}

// Resolver is what a Config needs of a *net.Resolver.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// ErrConfig is wrapped by the errors of Dial that say what is wrong with its
// Config.
var ErrConfig = errors.New("client: unusable configuration")

// wrap is what an entry takes of each packet of the session inside: a whole
// packet around it, the flow's header and the next gateway's identity.
const wrap = wire.Overhead + wire.FlowHeaderSize + identity.PublicKeySize

// complete returns the Config with its defaults filled in, or what is wrong with
// it.
func (c Config) complete() (Config, error) {
	if c.Identity == nil {
		return c, fmt.Errorf("%w: Identity is missing: load or generate the client's key", ErrConfig)
	}
	c.Via = slices.Clone(c.Via)
	for i, g := range append(c.Via, c.Gateway) {
		if _, err := g.MarshalText(); err != nil {
			return c, fmt.Errorf("%w: gateway %d of %d on the way: %w", ErrConfig, i+1, len(c.Via)+1, err)
		}
	}
	if c.ViaIdentity == nil {
		c.ViaIdentity = c.Identity
	}
	if c.KEM == nil {
		c.KEM = new(kem.MLKEM768)
	}
	if !c.KEM.Supported() {
		return c, fmt.Errorf("%w: KEM %s is not supported; take %s or %s", ErrConfig, *c.KEM, kem.MLKEM768, kem.XWing)
	}
	if c.Keys == nil {
		c.Keys = &sharedKeys
	}
	if c.Keepalive == 0 {
		c.Keepalive = DefaultKeepalive
	}
	c.Keepalive = max(c.Keepalive, 0)
	if c.Timeout <= 0 {
		c.Timeout = DefaultTimeout
	}
	if c.MaxPacket == 0 {
		c.MaxPacket = DefaultMaxPacket
	}
	if least := wire.MaxHandshakeDatagram + wrap*len(c.Via); c.MaxPacket < least || c.MaxPacket > wire.MaxUDPPacket {
		return c, fmt.Errorf("%w: MaxPacket is %d; a handshake with %d gateways on the way needs %d to %d",
			ErrConfig, c.MaxPacket, len(c.Via), least, wire.MaxUDPPacket)
	}
	if c.Resolver == nil {
		c.Resolver = net.DefaultResolver
	}
	c.UDP.Pooled = true
	if c.UDP.SendWait == 0 {
		c.UDP.SendWait = sendWait
	}
	if c.Transport > TCP {
		return c, fmt.Errorf("%w: %s does not exist", ErrConfig, c.Transport)
	}
	if c.Underlay == nil && c.UnderlayTCP == nil {
		options := c.TCP
		c.UnderlayTCP = func(_ context.Context, to netip.AddrPort) (Exchanger, error) {
			return tcp.Dial(to, options)
		}
	}
	if c.Transport == TCP && c.UnderlayTCP == nil {
		return c, fmt.Errorf("%w: Transport is tcp, which Underlay does not carry: set UnderlayTCP", ErrConfig)
	}
	if c.Underlay == nil {
		options := c.UDP
		c.Underlay = func(_ context.Context, to netip.AddrPort) (transport.Conn, error) {
			return udp.Dial(to, options)
		}
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	return c, nil
}
