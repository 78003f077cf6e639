package state

import (
	"net/netip"
	"time"

	"lewes/crypto/identity"
	"lewes/crypto/seal"
)

// GatewayConfig is what a gateway's handshakes share.
type GatewayConfig struct {
	Identity *identity.PrivateKey
	KEMs     *KEMKeys
	Suites   seal.Suite
	// Tolerance is how far a client's clock may be off. 0 means 30 s.
	Tolerance time.Duration
	// Wall returns the time that clients' times are compared with, and that they are
	// told, at a time of the clock that all else goes by. nil means the same.
	WallClock func(now time.Time) time.Time
	// Admit says who may have a session; nil admits everybody. It is asked once
	// the client has proved its identity to hold the credential.
	Admit func(identity.PublicKey) bool
	// Trusted says which addresses are gateways of the directory: their
	// handshakes have a budget of their own. May be nil.
	Trusted func(netip.Addr) bool
	// Taken says which receiver indexes name sessions or are otherwise in use.
	IndexInUse func(uint32) bool
	// Full says that no session may be added; hellos are then answered Busy. May
	// be nil.
	Full func() bool
	// Delay says how long a packet of a handshake that comes now is going to wait
	// before it is looked at; no Busy names less. May be nil.
	QueueDelay func() time.Duration

	MaxHandshakes   int           // 0 means 65,536
	HandshakeTTL    time.Duration // 0 means 90 s
	MaxEarlyBytes   int           // 0 means 64 MiB
	CookieThreshold int           // of Handshake 1, above which cookies are asked for; 0 means 500
	Rate            float64       // handshakes a second and source; 0 means 20
	Burst           int           // 0 means 40
	TrustedRate     float64       // for gateways of the directory; 0 means 1,000

	Session SessionConfig
}

func (c *GatewayConfig) tolerance() time.Duration { return or(c.Tolerance, 30*time.Second) }

func (c *GatewayConfig) wall(now time.Time) time.Time {
	if c.WallClock == nil {
		return now
	}
	return c.WallClock(now)
}

func (c *GatewayConfig) maxEarlyBytes() int       { return or(c.MaxEarlyBytes, 64<<20) }
func (c *GatewayConfig) maxRecords() int          { return or(c.MaxHandshakes, 1<<16) }
func (c *GatewayConfig) recordTTL() time.Duration { return or(c.HandshakeTTL, 90*time.Second) }
func (c *GatewayConfig) triesASecond() int        { return or(c.CookieThreshold, 500) }

// or returns v, or the default where v is zero.
func or[T comparable](v, byDefault T) T {
	var zero T
	if v == zero {
		return byDefault
	}
	return v
}
