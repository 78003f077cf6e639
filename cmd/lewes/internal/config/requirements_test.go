package config

import (
	"fmt"
	"testing"
	"time"
)

// TestDefaultsMatchProtocol compares the defaults with sections 5 and 12 of
// PROTOCOL.md and shows that a file may set each bound.
//
// Shows R5.14, R12.5.
func TestDefaultsMatchProtocol(t *testing.T) {
	seconds := func(d Duration) int64 { return int64(time.Duration(d) / time.Second) }
	for _, c := range []struct {
		section, key string
		value        func(*Config) any
		want         any    // by default
		other        string // another value, as in a file
		set          any
	}{
		{"handshake", "max_records", func(c *Config) any { return c.Handshake.MaxRecords }, 65_536, "7", 7},
		{"handshake", "rate", func(c *Config) any { return c.Handshake.Rate }, 20.0, "7", 7.0},
		{"handshake", "burst", func(c *Config) any { return c.Handshake.Burst }, 40, "7", 7},
		{"handshake", "tries_per_second", func(c *Config) any { return c.Handshake.TriesPerSecond }, 500, "7", 7},
		{"handshake", "record_ttl", func(c *Config) any { return seconds(c.Handshake.RecordTTL) }, int64(90), `"7s"`, int64(7)},
		{"session", "max", func(c *Config) any { return c.Session.Max }, 1_000_000, "7", 7},
		{"session", "ttl", func(c *Config) any { return seconds(c.Session.TTL) }, int64(86_400), `"7s"`, int64(7)},
		{"session", "rekey_after", func(c *Config) any { return seconds(c.Session.RekeyAfter) }, int64(900), `"7s"`, int64(7)},
		{"flows", "max_per_session", func(c *Config) any { return c.Flows.MaxPerSession }, 256, "7", 7},
		{"forward", "max_claims", func(c *Config) any { return c.Forward.MaxClaims }, 64, "7", 7},
		{"tcp", "max_connections", func(c *Config) any { return c.TCP.MaxConnections }, 10_000, "70", 70},
		{"tcp", "max_per_source", func(c *Config) any { return c.TCP.MaxPerSource }, 64, "7", 7},
	} {
		if got := c.value(Default()); got != c.want {
			t.Errorf("%s.%s is %v by default, want %v", c.section, c.key, got, c.want)
		}
		set := mustParse(t, fmt.Sprintf("[%s]\n%s = %s\n", c.section, c.key, c.other))
		if got := c.value(set); got != c.set {
			t.Errorf("%s.%s = %s is parsed as %v, want %v", c.section, c.key, c.other, got, c.set)
		}
	}
	// The targets of forwarding are those that the file lists.
	if n := len(mustParse(t, fmt.Sprintf("[[gateway]]\nuri = %q\n", gatewayURI(1))).Gateways); n != 1 {
		t.Errorf("%d gateways in the directory, want 1", n)
	}
}
