package config

import (
	"net/netip"

	"lewes/router/policy"
	"lewes/transport/uri"
)

// Config is a gateway's configuration. Default and DefaultText say what each key is
// for; the field has the key's name in the file.
type Config struct {
	Identity string `toml:"identity"` // IdentityFile says where, if this is empty
	StateDir string `toml:"state_dir"`
	Public   []Host `toml:"public"`

	MemoryLimit Size `toml:"memory_limit"` // 0: none; GOMEMLIMIT goes first

	Listen    Listen    `toml:"listen"`
	TCP       TCP       `toml:"tcp"`
	Access    Access    `toml:"access"`
	Handshake Handshake `toml:"handshake"`
	Session   Session   `toml:"session"`
	Flows     Flows     `toml:"flows"`
	Egress    Egress    `toml:"egress"`
	Forward   Forward   `toml:"forward"`
	Log       Log       `toml:"log"`
	Metrics   Metrics   `toml:"metrics"`

	Gateways []Gateway `toml:"gateway"`
}

// Listen is where and how packets come and go.
type Listen struct {
	Addresses     []Address `toml:"addresses"` // none: all of both families
	Port          int       `toml:"port"`      // 0: any
	Shards        int       `toml:"shards"`    // 0: GOMAXPROCS
	Pin           bool      `toml:"pin"`       // each shard to a processor
	Offload       Offload   `toml:"offload"`
	GSO           bool      `toml:"gso"`
	GRO           bool      `toml:"gro"`
	ReceiveBuffer Size      `toml:"receive_buffer"` // 0: the system's
	SendBuffer    Size      `toml:"send_buffer"`    // 0: the system's
}

// TCP is where and how packets come over TCP, and what that may cost.
type TCP struct {
	Enabled        bool `toml:"enabled"`
	Port           int  `toml:"port"` // 0: any
	MaxConnections int  `toml:"max_connections"`
	MaxPerSource   int  `toml:"max_per_source"`
}

// Offload says whether the kernel may cut and join datagrams.
type Offload string

// The values of Offload.
const (
	OffloadAuto Offload = "auto"
	OffloadOn   Offload = "on"  // or the gateway does not start
	OffloadOff  Offload = "off" // whatever Listen.GSO and Listen.GRO say
)

// Access is who may use the gateway.
type Access struct {
	Mode    AccessMode `toml:"mode"`
	Clients string     `toml:"clients"` // ClientsFile says where, if this is empty
}

// AccessMode says whom the gateway lets in.
type AccessMode string

// The values of AccessMode.
const (
	AccessListed AccessMode = "listed" // the clients in a file
	AccessOpen   AccessMode = "open"   // everybody
)

// Handshake bounds what handshakes may cost.
type Handshake struct {
	KEMs           []KEM    `toml:"kems"`
	AllowX25519    bool     `toml:"allow_x25519_kem"`
	MaxRecords     int      `toml:"max_records"`
	RecordTTL      Duration `toml:"record_ttl"`
	Rate           float64  `toml:"rate"` // a second and source
	Burst          int      `toml:"burst"`
	TriesPerSecond int      `toml:"tries_per_second"`
}

// Session bounds sessions and their keys.
type Session struct {
	Max         int      `toml:"max"`
	TTL         Duration `toml:"ttl"`          // whole seconds
	RekeyAfter  Duration `toml:"rekey_after"`  // whole seconds
	MaxDatagram int      `toml:"max_datagram"` // bytes
}

// Flows bounds flows to targets.
type Flows struct {
	MaxPerSession int      `toml:"max_per_session"`
	Max           int      `toml:"max"`
	Idle          Duration `toml:"idle"`
}

// Egress is which targets are allowed.
type Egress struct {
	Allow []policy.Rule `toml:"allow"`
	Deny  []policy.Rule `toml:"deny"`
	Own   []netip.Addr  `toml:"own"`
}

// Forward bounds what goes on to other gateways.
type Forward struct {
	MaxClaims int `toml:"max_claims"` // a session
}

// Gateway is another gateway that clients may go on to.
type Gateway struct {
	URI  uri.Gateway `toml:"uri"`
	Name string      `toml:"name"` // may be empty
}

// Log is what is logged, and how.
type Log struct {
	Level  LogLevel  `toml:"level"`
	Format LogFormat `toml:"format"`
}

// LogLevel is the least important kind of line that is logged.
type LogLevel string

// The values of LogLevel, which zapcore.ParseLevel reads.
const (
	LogDebug LogLevel = "debug"
	LogInfo  LogLevel = "info"
	LogWarn  LogLevel = "warn"
	LogError LogLevel = "error"
)

// LogFormat is whom log lines are for.
type LogFormat string

// The values of LogFormat.
const (
	LogConsole LogFormat = "console"
	LogJSON    LogFormat = "json"
)

// Metrics is where figures are given out.
type Metrics struct {
	Listen string `toml:"listen"` // IP address and port; empty: nowhere
}
