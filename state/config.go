package state

import (
	"cmp"
	"io"
	"net/netip"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/noise"
	"lewes/crypto/seal"
	"lewes/state/snapshot"
	"lewes/state/wire"
)

// Terms are the session parameters that a gateway announces in the final Ack.
type Terms struct {
	IdleTTL     time.Duration // the session ends after this time without a packet
	RekeyAfter  time.Duration // age of the keys at which the client rekeys
	MaxDatagram uint16        // largest LP packet accepted over UDP, in bytes
	Flags       wire.AckFlags
}

func (t Terms) ack() *wire.FinalAck {
	return &wire.FinalAck{
		IdleTTLSeconds:    uint32(t.IdleTTL / time.Second),
		RekeyAfterSeconds: uint32(t.RekeyAfter / time.Second),
		MaxDatagram:       t.MaxDatagram,
		Flags:             t.Flags,
	}
}

func termsOf(a *wire.FinalAck) Terms {
	return Terms{
		IdleTTL:     time.Duration(a.IdleTTLSeconds) * time.Second,
		RekeyAfter:  time.Duration(a.RekeyAfterSeconds) * time.Second,
		MaxDatagram: a.MaxDatagram,
		Flags:       a.Flags,
	}
}

func (t *Terms) snapshot(c *snapshot.Codec) {
	c.Duration(&t.IdleTTL)
	c.Duration(&t.RekeyAfter)
	c.Uint16(&t.MaxDatagram)
	flags := uint16(t.Flags)
	c.Uint16(&flags)
	t.Flags = wire.AckFlags(flags)
	const most = snapshot.MaxDistance
	c.Check(0 <= t.IdleTTL && t.IdleTTL <= most && 0 <= t.RekeyAfter && t.RekeyAfter <= most,
		"terms of %v and %v", t.IdleTTL, t.RekeyAfter)
}

// SessionConfig is shared by all sessions of one end and immutable while they live.
type SessionConfig struct {
	Rand   io.Reader
	Static noise.KeyPair // this end's X25519 static key
	Terms  Terms         // of a gateway; a client receives its gateway's

	// RekeyPackets is the number of packets, sealed or failed to open, after
	// which a session rekeys. 0 means DefaultRekeyPackets.
	RekeyPackets uint64
	// DemotedTTL is how long a demoted key set is kept after the last packet
	// that it opened. 0 means DefaultDemotedTTL.
	DemotedTTL time.Duration
	// Keepalive is a client's initial keepalive interval (see SetKeepalive); 0 disables keepalives.
	Keepalive time.Duration
	// NewIndex returns a free receiver index that is steered to the session's
	// shard. The session reserves it by an IndexAdded event. Gateways only.
	NewIndex func() uint32
	// MaxPacket is the largest packet that path MTU discovery probes, in bytes.
	// 0 disables discovery.
	MaxPacket int
	// Stream means that the transport carries large packets in order, so that
	// messages are sent in one part.
	Stream bool
}

// Defaults of SessionConfig.
const (
	DefaultRekeyPackets = 1 << 28
	DefaultDemotedTTL   = 60 * time.Second
)

func (c *SessionConfig) rekeyPackets() uint64      { return cmp.Or(c.RekeyPackets, DefaultRekeyPackets) }
func (c *SessionConfig) demotedTTL() time.Duration { return cmp.Or(c.DemotedTTL, DefaultDemotedTTL) }

// random fills b. The reader of a SessionConfig must not fail.
func (c *SessionConfig) random(b []byte) {
	if _, err := io.ReadFull(c.Rand, b); err != nil {
		panic("state: no randomness: " + err.Error())
	}
}

// GatewayConfig is shared by a gateway's handshakes.
type GatewayConfig struct {
	Identity *identity.PrivateKey
	KEMs     *KEMKeys
	Suites   seal.Suite
	// Tolerance bounds the offset of a client's clock. 0 means 30 s.
	Tolerance time.Duration
	// WallClock converts a time of the caller's clock to wall-clock time, which
	// hellos and Rejects carry. nil means that they are the same.
	WallClock func(now time.Time) time.Time
	// Admit reports whether a client may have a session; nil admits every client. It
	// is called after the client has proved its identity.
	Admit func(identity.PublicKey) bool
	// Trusted reports whether an address belongs to a gateway of the directory.
	// Their handshakes have a separate rate limit. May be nil.
	Trusted func(netip.Addr) bool
	// Holds reports whether a session of the gateway, in whichever shard, has a receiver index. May be nil.
	Holds func(index uint32) bool
	// Full reports that no session can be added; hellos are then answered by Busy. May be nil.
	Full func() bool
	// QueueDelay returns the expected queueing delay of a handshake packet of a proved source that
	// arrives now, the least wait that a Busy asks for. May be nil.
	QueueDelay func() time.Duration
	// Crowded reports that the queue of handshake packets of unproved sources is more than half full;
	// hellos then need a cookie. May be nil.
	Crowded func() bool

	// Budgets are shared by the tables of one gateway. nil: there is one table.
	Budgets *GatewayBudgets

	// Bounds of the gateway, whatever the number of its tables.
	MaxHandshakes   int           // handshakes kept; 0 means 65,536
	HandshakeTTL    time.Duration // 0 means 90 s
	Memory          int64         // bytes of records and queued packets (see SetMemory); 0 means 64 MiB
	CookieThreshold int           // Handshake 1 messages a second above which hellos need a cookie; 0 means 500
	Rate            float64       // handshakes a second and source; 0 means 20
	Burst           int           // 0 means 40
	TrustedRate     float64       // for gateways of the directory; 0 means 1,000

	Session SessionConfig
}

func (c *GatewayConfig) wall(now time.Time) time.Time {
	if c.WallClock == nil {
		return now
	}
	return c.WallClock(now)
}

func (c *GatewayConfig) tolerance() time.Duration    { return cmp.Or(c.Tolerance, 30*time.Second) }
func (c *GatewayConfig) maxHandshakes() int          { return cmp.Or(c.MaxHandshakes, 1<<16) }
func (c *GatewayConfig) handshakeTTL() time.Duration { return cmp.Or(c.HandshakeTTL, 90*time.Second) }
func (c *GatewayConfig) cookieThreshold() int        { return cmp.Or(c.CookieThreshold, 500) }
