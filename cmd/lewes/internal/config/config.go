package config

import (
	"net/netip"

	"lewes/router/egress"
	"lewes/router/policy"
	"lewes/transport/uri"
)

// Config is the configuration of a gateway. Each field has the name of its key; DefaultText explains the keys.
type Config struct {
	Identity string `toml:"identity"` // empty: see IdentityFile
	StateDir string `toml:"state_dir"`
	Public   []Host `toml:"public"`

	MemoryLimit Size `toml:"memory_limit"` // 0: no limit; GOMEMLIMIT takes precedence

	Listen       Listen       `toml:"listen"`
	TCP          TCP          `toml:"tcp"`
	Access       Access       `toml:"access"`
	Handshake    Handshake    `toml:"handshake"`
	Session      Session      `toml:"session"`
	Flows        Flows        `toml:"flows"`
	Egress       Egress       `toml:"egress"`
	Forward      Forward      `toml:"forward"`
	Registration Registration `toml:"registration"`
	WireGuard    WireGuard    `toml:"wireguard"`
	Log          Log          `toml:"log"`
	Metrics      Metrics      `toml:"metrics"`
	Control      Control      `toml:"control"`

	Gateways []Gateway `toml:"gateway"`
}

// Listen configures the UDP sockets for clients.
type Listen struct {
	Addresses     []Address `toml:"addresses"` // empty: all addresses, IPv4 and IPv6
	Port          int       `toml:"port"`      // 0: any
	Shards        int       `toml:"shards"`    // 0: GOMAXPROCS
	Pin           bool      `toml:"pin"`       // pin each shard's readers to one processor
	Offload       Offload   `toml:"offload"`
	GSO           bool      `toml:"gso"`
	GRO           bool      `toml:"gro"`
	ReceiveBuffer Size      `toml:"receive_buffer"` // 0: the system's default
	SendBuffer    Size      `toml:"send_buffer"`    // 0: the system's default
}

// TCP configures and limits TCP connections from clients.
type TCP struct {
	Enabled        bool `toml:"enabled"`
	Port           int  `toml:"port"` // 0: any
	MaxConnections int  `toml:"max_connections"`
	MaxPerSource   int  `toml:"max_per_source"`
}

// Offload selects the use of UDP segmentation offloads.
type Offload string

// The values of Offload.
const (
	OffloadAuto Offload = "auto"
	OffloadOn   Offload = "on"  // required: without it the gateway does not start
	OffloadOff  Offload = "off" // overrides Listen.GSO and Listen.GRO
)

// Access selects the clients that the gateway admits.
type Access struct {
	Mode    AccessMode `toml:"mode"`
	Clients string     `toml:"clients"` // empty: see ClientsFile
	Totals  Duration   `toml:"totals"`  // interval at which totals are written; 0: none are kept
}

// AccessMode is the rule by which the gateway admits clients.
type AccessMode string

// The values of AccessMode.
const (
	AccessListed AccessMode = "listed" // only the clients in the file
	AccessOpen   AccessMode = "open"   // every client
)

// Handshake limits the cost of handshakes.
type Handshake struct {
	KEMs           []KEM    `toml:"kems"`
	AllowX25519    bool     `toml:"allow_x25519_kem"`
	MaxRecords     int      `toml:"max_records"`
	RecordTTL      Duration `toml:"record_ttl"`
	Rate           float64  `toml:"rate"` // per second and source
	Burst          int      `toml:"burst"`
	TriesPerSecond int      `toml:"tries_per_second"`
}

// Session limits sessions and their keys.
type Session struct {
	Max         int      `toml:"max"`
	TTL         Duration `toml:"ttl"`          // whole seconds
	RekeyAfter  Duration `toml:"rekey_after"`  // whole seconds
	MaxDatagram int      `toml:"max_datagram"` // bytes
}

// Flows limits flows to targets.
type Flows struct {
	MaxPerSession int      `toml:"max_per_session"`
	Max           int      `toml:"max"`
	Idle          Duration `toml:"idle"`
}

// Egress selects the targets that clients may send to.
type Egress struct {
	Default EgressDefault `toml:"default"`
	Allow   []policy.Rule `toml:"allow"`
	Deny    []policy.Rule `toml:"deny"`
	Own     []netip.Addr  `toml:"own"`
	Ports   egress.Range  `toml:"ports"` // local ports of flows
}

// EgressDefault applies to public targets that match no rule.
type EgressDefault string

// The values of EgressDefault.
const (
	EgressAllow EgressDefault = "allow"
	EgressDeny  EgressDefault = "deny"
)

// Forward limits forwarding to other gateways.
type Forward struct {
	MaxClaims int `toml:"max_claims"` // per account
}

// Registration configures what clients register for, and what they register with.
type Registration struct {
	Access    RegistrationAccess `toml:"access"`
	Ledger    string             `toml:"ledger"` // empty: see LedgerFile
	OnFailure OnFailure          `toml:"on_failure"`
	MixNode   string             `toml:"mix_node"` // IP address and port; empty: no mode mixnet
	Issuers   []Issuer           `toml:"issuers"`  // of tickets
}

// RegistrationAccess selects the clients that may register.
type RegistrationAccess string

// The values of RegistrationAccess.
const (
	RegistrationOff     RegistrationAccess = "off"     // Register is not answered
	RegistrationOpen    RegistrationAccess = "open"    // every client; not required
	RegistrationListed  RegistrationAccess = "listed"  // the list of clients; required
	RegistrationTickets RegistrationAccess = "tickets" // required
)

// OnFailure selects what happens while the use of bandwidth cannot be written.
type OnFailure string

// The values of OnFailure.
const (
	OnFailureStop  OnFailure = "stop"
	OnFailureServe OnFailure = "serve"
)

// MixAddr returns the address of the mix node; it is not valid if there is none.
func (r *Registration) MixAddr() netip.AddrPort {
	addr, _ := netip.ParseAddrPort(r.MixNode)
	return addr
}

// WireGuard configures the peers of mode dvpn.
type WireGuard struct {
	Device   string  `toml:"device"` // empty: the mode is not offered
	IPv4     Network `toml:"ipv4"`
	IPv6     Network `toml:"ipv6"`
	Endpoint string  `toml:"endpoint"` // as Host; empty: the first of Public
}

// Policy returns the egress policy without the gateway's own addresses.
func (e *Egress) Policy() policy.Config {
	return policy.Config{Allow: e.Allow, Deny: e.Deny, DenyByDefault: e.Default == EgressDeny}
}

// Gateway is another gateway that clients may continue to.
type Gateway struct {
	URI  uri.Gateway `toml:"uri"`
	Name string      `toml:"name"` // optional
}

// Log configures logging.
type Log struct {
	Level  LogLevel  `toml:"level"`
	Format LogFormat `toml:"format"`
}

// LogLevel is the lowest level that is logged.
type LogLevel string

// The values of LogLevel, as zapcore.ParseLevel accepts them.
const (
	LogDebug LogLevel = "debug"
	LogInfo  LogLevel = "info"
	LogWarn  LogLevel = "warn"
	LogError LogLevel = "error"
)

// LogFormat is the format of log lines.
type LogFormat string

// The values of LogFormat.
const (
	LogConsole LogFormat = "console"
	LogJSON    LogFormat = "json"
)

// Metrics configures the endpoint of health and metrics.
type Metrics struct {
	Listen   string `toml:"listen"`   // IP address and port; empty: off; MetricsAuto
	Required bool   `toml:"required"` // do not start without
}

// MetricsAuto is the value of metrics.listen that stands for DefaultMetrics, if it is free.
const (
	MetricsAuto    = "auto"
	DefaultMetrics = "127.0.0.1:9264"
)

// Address returns the address of health and metrics, empty for none, and whether a gateway must not
// start without it.
func (m *Metrics) Address() (addr string, required bool) {
	if m.Listen == MetricsAuto {
		return DefaultMetrics, false
	}
	return m.Listen, m.Required && m.Listen != ""
}

// Control configures the control socket.
type Control struct {
	Group string `toml:"group"` // name or number; empty: that of the process
}
