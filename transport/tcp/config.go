package tcp

import (
	"net"
	"net/netip"
	"time"
)

// Defaults of Config: those of section 12 of PROTOCOL.md, where it names them.
const (
	DefaultMaxConnections = 10_000
	DefaultMaxPerSource   = 64
	DefaultReceiveTimeout = 5 * time.Second
	DefaultWriteTimeout   = 5 * time.Second
	DefaultMaxAnswer      = 256 << 10
	DefaultMaxReceiving   = 64 << 20
)

// Config says what Listen binds, and its bounds. Zero values of bounds mean their
// defaults.
type Config struct {
	// Addrs are the addresses to bind. None means every address of both families;
	// so does an entry without an address (netip.AddrPort{}). An entry with port 0
	// takes Port.
	Addrs []netip.AddrPort
	// Port is for the entries that name none. 0 lets the system choose one, the
	// same for both families.
	Port uint16
	// Inherited are listeners that another process has bound: an address that is
	// theirs is not bound again. The Listener owns them, also those of addresses
	// that are not in Addrs.
	Inherited []*net.TCPListener

	// Shards is how many shard listeners there are, at least 1. Where the system spreads
	// connections over sockets (Linux), each address has as many.
	Shards int
	// Steer names the shard that a packet is for, from 0; nil means the first. It
	// is called by many goroutines and must keep nothing.
	Steer func(packet []byte) int

	// MaxConnections and MaxPerSource bound the connections that are open, in all
	// and from one source: an IPv4 address or an IPv6 /64. One more is closed at
	// once.
	MaxConnections, MaxPerSource int
	// ReceiveTimeout is how long a connection lives unless End or Hold says
	// otherwise: so long it may take to send its packet.
	ReceiveTimeout time.Duration
	// WriteTimeout is how long the peer may take to read its answers, from the first.
	WriteTimeout time.Duration
	// MaxAnswer bounds what waits to be sent on one connection, in bytes with the
	// lengths.
	MaxAnswer int
	// MaxReceiving bounds, in bytes, the buffers of all packets that are being
	// received or wait to be read; a quarter of it is for packets that would fit a
	// datagram. A connection that needs more is closed.
	MaxReceiving int

	// Notify is told what an operator should know, at most once in 10 s. It must
	// not block. nil is silence.
	Notify func(error)
}

func (c *Config) fill() {
	c.Shards = max(1, c.Shards)
	c.MaxConnections = or(c.MaxConnections, DefaultMaxConnections)
	c.MaxPerSource = or(c.MaxPerSource, DefaultMaxPerSource)
	c.ReceiveTimeout = or(c.ReceiveTimeout, DefaultReceiveTimeout)
	c.WriteTimeout = or(c.WriteTimeout, DefaultWriteTimeout)
	c.MaxAnswer = or(c.MaxAnswer, DefaultMaxAnswer)
	c.MaxReceiving = or(c.MaxReceiving, DefaultMaxReceiving)
	if c.Steer == nil {
		c.Steer = func([]byte) int { return 0 }
	}
	if c.Notify == nil {
		c.Notify = func(error) {}
	}
}

func or[T comparable](v, byDefault T) T {
	var zero T
	if v == zero {
		return byDefault
	}
	return v
}
