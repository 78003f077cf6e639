package router

import (
	"context"
	"io"
	"net/netip"
	"time"

	"go.uber.org/zap"

	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/crypto/seal"
	"lewes/router/policy"
	"lewes/state"
	"lewes/transport"
	"lewes/transport/tcp"
	"lewes/transport/udp"
)

// Config is what a Gateway needs. Zero values of limits mean the defaults of
// section 12 of PROTOCOL.md.
type Config struct {
	Identity *identity.PrivateKey
	Listen   udp.Config // Steer is filled in
	Shards   int        // 0 means GOMAXPROCS
	Pin      bool       // the readers of a shard keep to one processor (Linux)
	Logger   *zap.Logger

	KEMs   []kem.ID
	Suites seal.Suite // 0 means what the CPU does well

	// Admit says who may have a session; nil admits everybody.
	Admit     func(identity.PublicKey) bool
	Policy    *policy.Policy
	Directory *Directory // may be nil: this gateway forwards to none
	Egress    Egress     // nil means UDP sockets
	Resolver  Resolver   // nil means the system's

	Tolerance    time.Duration
	MaxRecords   int
	RecordTTL    time.Duration
	MaxEarly     int // bytes kept before Handshake 3
	TriesASecond int
	MaxBacklog   int // packets of handshakes that wait, a shard; 0 means 1,024
	Rate         float64
	Burst        int
	TrustedRate  float64

	MaxSessions  int
	Terms        state.Terms
	RekeyPackets uint64
	MaxPacket    int // the largest packet to send over UDP; 0 means 1452
	DemotedTTL   time.Duration

	TCP TCP

	MaxFlowsPerSession int           // 0 means 256
	MaxFlows           int           // of all sessions; 0 means 100,000
	FlowIdle           time.Duration // 0 means 120 s
	ResolveTimeout     time.Duration // 0 means 5 s
	MaxWaiting         int           // datagrams a flow keeps while its name is resolved; 0 means 16
	MaxLookups         int           // names that are being resolved, of all sessions; 0 means 1,000

	MaxClaims  int           // indexes a session may claim at other gateways; 0 means 16
	ClaimTTL   time.Duration // 0 means 300 s
	HelloRate  float64       // inner hellos a second and session; 0 means 2
	HelloBurst int           // 0 means 10

	// Rand, Clock and Wall are for tests. nil means crypto/rand, and a clock that
	// starts at the system's time and is monotonic from there. Wall is the system's
	// clock, which the times of new handshakes follow; nil means time.Now, or none
	// where there is a Clock.
	Rand  io.Reader
	Clock func() time.Time
	Wall  func() time.Time
}

// TCP is how a gateway serves clients over TCP.
type TCP struct {
	On     bool
	Listen tcp.Config // what the shards have to do with is filled in

	PollWait     time.Duration // the longest that a Poll waits; 0 means 10 s
	MaxHeld      int           // bytes that wait for one session; 0 means 128 KiB
	MaxHeldInAll int           // for all sessions; 0 means 256 MiB
	HeldAge      time.Duration // how long they do; 0 means 5 s
}

// Egress opens the sockets by which flows leave.
type Egress interface {
	Dial(target netip.AddrPort) (transport.Conn, error)
}

// Resolver resolves the names of targets.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

func or[T comparable](v, byDefault T) T {
	var zero T
	if v == zero {
		return byDefault
	}
	return v
}

func (c *Config) maxSessions() int              { return or(c.MaxSessions, 1_000_000) }
func (c *Config) maxFlowsPerSession() int       { return or(c.MaxFlowsPerSession, 256) }
func (c *Config) maxFlows() int                 { return or(c.MaxFlows, 100_000) }
func (c *Config) flowIdle() time.Duration       { return or(c.FlowIdle, 120*time.Second) }
func (c *Config) resolveTimeout() time.Duration { return or(c.ResolveTimeout, 5*time.Second) }
func (c *Config) maxWaiting() int               { return or(c.MaxWaiting, 16) }
func (c *Config) maxLookups() int               { return or(c.MaxLookups, 1000) }
func (c *Config) maxBacklog() int               { return or(c.MaxBacklog, 1024) }
func (c *Config) maxClaims() int                { return or(c.MaxClaims, 16) }
func (c *Config) claimTTL() time.Duration       { return or(c.ClaimTTL, 300*time.Second) }
func (c *Config) helloRate() float64            { return or(c.HelloRate, 2) }
func (c *Config) helloBurst() int               { return or(c.HelloBurst, 10) }
