package router

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"time"

	"go.uber.org/zap"

	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/crypto/seal"
	"lewes/router/account"
	"lewes/router/egress"
	"lewes/router/policy"
	"lewes/router/unlisted"
	"lewes/state"
	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/tcp"
	"lewes/transport/udp"
)

// Bounds that no key of the configuration file changes. deploy/README.md names the metric that shows
// each being reached.
const (
	DefaultTolerance        = 30 * time.Second // offset of a client's clock
	DefaultTrustedRate      = 1000             // hellos per second from the address of a gateway of the directory
	DefaultHandshakeQueue   = 1024             // queued handshake packets of a shard
	DefaultHandshakeMemory  = 64 << 20         // bytes of handshakes whose source has proved its address; others have a quarter
	DefaultLookups          = 1000             // concurrent name lookups
	DefaultLookupDatagrams  = 16               // datagrams buffered per flow during its lookup
	DefaultHelloRate        = 2                // inner hellos per second and account
	DefaultHelloBurst       = 10
	DefaultPollWait         = 10 * time.Second // longest wait of a Poll
	DefaultSessionQueue     = 128 << 10        // bytes queued for one session on TCP
	DefaultSessionQueues    = 256 << 20        // bytes queued for all sessions on TCP
	DefaultSessionQueueTime = 5 * time.Second  // age at which queued packets are dropped

	LookupTimeout   = 5 * time.Second   // of a name lookup
	IndexBindingTTL = 300 * time.Second // idle time of an index binding
	MaxBindings     = 1 << 18           // index bindings of all accounts

	// maxPacket is the largest packet sent over UDP. It fits an MTU of 1500 with IPv6 and UDP headers.
	maxPacket = 1452
)

// Config is the configuration of a Gateway. Zero limits select the defaults of section 12 of
// PROTOCOL.md.
type Config struct {
	Identity *identity.PrivateKey
	Listen   udp.Config // Start sets Steer
	Shards   int        // 0 means GOMAXPROCS
	Pin      bool       // pin each shard's readers to one processor (Linux)
	// Logger receives lines with constant messages and masked addresses. It is called under the shard's lock:
	// it must not block, and it has to bound the repeats of a message, which anyone may cause.
	Logger *zap.Logger

	KEMs   []kem.ID
	Suites seal.Suite // 0 means the suites that this CPU computes fast

	// Access returns what the list of clients says of an identity; nil admits every client, and
	// lists none.
	Access func(identity.PublicKey) account.Standing
	// OnUnlisted, if set, is called under the shard's lock when an identity is refused for the first time
	// (Gateway.Unlisted); it must not block.
	OnUnlisted func(unlisted.Entry)
	// OnSessionEnd, if set, is called under the shard's lock when a session has ended. A handover ends none. It
	// must not block.
	OnSessionEnd func(*SessionInfo)
	// Metering counts the bandwidth of registered clients; nil counts nothing.
	Metering  *Metering
	Policy    *policy.Policy
	Directory *Directory   // nil: this gateway forwards to no other
	Egress    Egress       // nil means UDP sockets on Ports
	Ports     egress.Range // local ports of these sockets on Linux; zero means egress.DefaultRange
	Resolver  Resolver     // nil means net.DefaultResolver

	Tolerance  time.Duration
	MaxRecords int
	RecordTTL  time.Duration
	// HandshakeMemory bounds the bytes of handshake records and queued packets whose source has proved
	// its address. Others have a quarter of it. A memory limit may lower both.
	HandshakeMemory int
	TriesASecond    int
	MaxBacklog      int // queued handshake packets of a shard; 0 means 1,024
	Rate            float64
	Burst           int
	TrustedRate     float64

	Terms state.Terms // its Flags are those of Registration
	Limits
	TCP          TCP
	Registration Registration

	// Rand, Clock and Wall are for tests. nil means crypto/rand, and a clock that starts at the
	// system's time and is monotonic from there. Wall is the system's clock, which the timestamps
	// of new handshakes are compared with; nil means time.Now, or none if Clock is set.
	Rand  io.Reader
	Clock func() time.Time
	Wall  func() time.Time
}

// Limits are the bounds that can change while the gateway serves (SetLimits).
type Limits struct {
	MaxSessions int // 0 means 1,000,000

	MaxFlowsPerSession int           // 0 means 256
	MaxFlows           int           // of all sessions; 0 means 100,000
	FlowIdle           time.Duration // 0 means 120 s
	MaxWaiting         int           // datagrams buffered per flow while its name resolves; 0 means 16
	MaxLookups         int           // concurrent name lookups; 0 means 1,000

	MaxClaims  int     // index bindings of an account; 0 means 64
	HelloRate  float64 // inner hellos per second and account; 0 means 2
	HelloBurst int     // 0 means 10
}

// withDefaults returns l with every zero replaced by its default.
func (l Limits) withDefaults() *Limits {
	return &Limits{
		MaxSessions:        cmp.Or(l.MaxSessions, 1_000_000),
		MaxFlowsPerSession: cmp.Or(l.MaxFlowsPerSession, 256),
		MaxFlows:           cmp.Or(l.MaxFlows, 100_000),
		FlowIdle:           cmp.Or(l.FlowIdle, 120*time.Second),
		MaxWaiting:         cmp.Or(l.MaxWaiting, DefaultLookupDatagrams),
		MaxLookups:         cmp.Or(l.MaxLookups, DefaultLookups),
		MaxClaims:          cmp.Or(l.MaxClaims, 64),
		HelloRate:          cmp.Or(l.HelloRate, DefaultHelloRate),
		HelloBurst:         cmp.Or(l.HelloBurst, DefaultHelloBurst),
	}
}

// accountBounds returns the bounds of the gateway, and of every account beside its share.
func (l *Limits) accountBounds() (gateway, each account.Bounds) {
	gateway = account.Bounds{
		account.Sessions: l.MaxSessions,
		account.Flows:    l.MaxFlows,
		account.Forwards: MaxBindings, // each has a binding, if it is used
		account.Lookups:  l.MaxLookups,
		account.Claims:   MaxBindings,
	}
	each[account.Claims] = l.MaxClaims
	return gateway, each
}

// TCP is the configuration of a gateway's TCP port.
type TCP struct {
	On     bool
	Listen tcp.Config // Start sets the fields that concern shards

	PollWait     time.Duration // longest wait of a Poll; 0 means 10 s
	MaxHeld      int           // bytes queued for one session; 0 means 128 KiB
	MaxHeldInAll int           // bytes queued for all sessions; 0 means 256 MiB
	HeldAge      time.Duration // age at which queued packets are dropped; 0 means 5 s
}

func (t *TCP) fill() {
	t.PollWait = cmp.Or(t.PollWait, DefaultPollWait)
	t.MaxHeld = cmp.Or(t.MaxHeld, DefaultSessionQueue)
	t.MaxHeldInAll = cmp.Or(t.MaxHeldInAll, DefaultSessionQueues)
	t.HeldAge = cmp.Or(t.HeldAge, DefaultSessionQueueTime)
}

// standing returns what the list of clients says of an identity.
func (c *Config) standing(id identity.PublicKey) account.Standing {
	if c.Access == nil {
		return account.Standing{Admitted: true}
	}
	return c.Access(id)
}

// Egress opens the sockets of flows and upstreams.
type Egress interface {
	// Dial opens a socket to target for an account; the zero Key is the gateway itself.
	Dial(target netip.AddrPort, by account.Key) (transport.Conn, error)
}

// Resolver resolves host names of targets.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// fill validates the configuration and sets defaults.
func (c *Config) fill() error {
	switch {
	case c.Identity == nil:
		return errors.New("router: a gateway needs an identity")
	case c.Policy == nil:
		return errors.New("router: a gateway needs an egress policy")
	case len(c.KEMs) == 0:
		return errors.New("router: a gateway needs at least one KEM")
	}
	if n := c.Terms.MaxDatagram; n != 0 && n < wire.MaxHandshakeDatagram {
		return fmt.Errorf("router: max_datagram %d is too small for a handshake: use at least %d", n, wire.MaxHandshakeDatagram)
	}
	if c.Clock == nil {
		start := time.Now()
		c.Clock = func() time.Time { return start.Add(time.Since(start)) }
		if c.Wall == nil {
			c.Wall = time.Now
		}
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Resolver == nil {
		c.Resolver = net.DefaultResolver
	}
	c.Ports = cmp.Or(c.Ports, egress.DefaultRange)
	c.Tolerance = cmp.Or(c.Tolerance, DefaultTolerance)
	c.MaxRecords = cmp.Or(c.MaxRecords, 1<<16)
	c.HandshakeMemory = cmp.Or(c.HandshakeMemory, DefaultHandshakeMemory)
	c.TriesASecond = cmp.Or(c.TriesASecond, 500)
	c.MaxBacklog = cmp.Or(c.MaxBacklog, DefaultHandshakeQueue)
	c.Rate = cmp.Or(c.Rate, 20)
	c.Burst = cmp.Or(c.Burst, 40)
	c.TrustedRate = cmp.Or(c.TrustedRate, DefaultTrustedRate)
	c.Terms.IdleTTL = cmp.Or(c.Terms.IdleTTL, 24*time.Hour)
	c.Terms.RekeyAfter = cmp.Or(c.Terms.RekeyAfter, 15*time.Minute)
	c.Terms.MaxDatagram = min(cmp.Or(c.Terms.MaxDatagram, wire.MaxUDPPacket), wire.MaxUDPPacket)
	c.Terms.Flags |= c.Registration.flags()
	c.Suites = cmp.Or(c.Suites, seal.Offer())
	c.Shards = cmp.Or(c.Shards, runtime.GOMAXPROCS(0))
	c.TCP.fill()
	c.Policy.DenyGateways(c.Directory.Serves)
	return nil
}
