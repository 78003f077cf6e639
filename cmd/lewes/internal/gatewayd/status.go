package gatewayd

import (
	"cmp"
	"os"
	"slices"
	"strings"
	"time"

	"lewes/cmd/lewes/internal/version"
	"lewes/crypto/identity"
	"lewes/router"
	"lewes/router/unlisted"
	"lewes/state/wire"
)

// Status describes a running gateway.
type Status struct {
	Build    version.Info       `json:"build"`
	PID      int                `json:"pid"`
	Started  time.Time          `json:"started"` // of this process
	Uptime   float64            `json:"uptime_seconds"`
	Identity identity.PublicKey `json:"identity"`
	URIs     []string           `json:"uris"`
	Health   string             `json:"health"` // "ok" or "degraded"
	Ready    bool               `json:"ready"`  // accepts new clients
	Problems []string           `json:"problems"`
	Draining bool               `json:"draining"`
	// ConfigFile is the configuration that the process reads, as an absolute path; empty: none; nil: not known.
	ConfigFile *string `json:"config_file,omitempty"`
	Access     string  `json:"access"`
	Clients    int     `json:"clients"` // in the list

	Sessions uint64 `json:"sessions"`
	Flows    uint64 `json:"flows"`

	Shards    []ShardStatus    `json:"shards"`
	Sockets   []SocketStatus   `json:"sockets"`
	TCP       []string         `json:"tcp"`
	WireGuard *WireGuardStatus `json:"wireguard,omitempty"` // nil: no mode dvpn
	Directory []DirectoryState `json:"directory"`
	Refusals  []Refusal        `json:"refusals"`

	Metrics      string `json:"metrics,omitempty"`       // URL
	MetricsError string `json:"metrics_error,omitempty"` // why there is none

	Reloaded *Reloaded `json:"reloaded,omitempty"`
	Upgraded *Upgraded `json:"upgraded,omitempty"`

	problems []problem
}

// ShardStatus describes a shard.
type ShardStatus struct {
	LongestBatchSeconds float64 `json:"longest_batch_seconds"`
}

// SocketStatus describes a UDP socket towards clients.
type SocketStatus struct {
	Listen        string        `json:"listen"`
	Shard         int           `json:"shard"`
	GSO           OffloadStatus `json:"gso"`
	GRO           OffloadStatus `json:"gro"`
	ReceiveBuffer BufferStatus  `json:"receive_buffer"`
	SendBuffer    BufferStatus  `json:"send_buffer"`
}

// OffloadStatus tells whether an offload is in use, or why not.
type OffloadStatus struct {
	On  bool   `json:"on"`
	Why string `json:"why,omitempty"`
}

// BufferStatus is the size of a socket's buffer in bytes; requested 0 is the system's default.
type BufferStatus struct {
	Requested int `json:"requested"`
	Granted   int `json:"granted"`
}

// WireGuardStatus describes the device of mode dvpn.
type WireGuardStatus struct {
	Device string `json:"device"`
	Peers  uint64 `json:"peers"`           // of clients
	Error  string `json:"error,omitempty"` // why it cannot be used
}

// DirectoryState describes a gateway of the directory.
type DirectoryState struct {
	Name     string             `json:"name,omitempty"`
	Identity identity.PublicKey `json:"identity"`
	Host     string             `json:"host"`
	Address  string             `json:"address,omitempty"` // empty: not resolved
}

// Refusal counts what was refused or dropped for one reason since the start of the process.
type Refusal struct {
	What   string `json:"what"` // "client", "session", "flow" or "packet"
	Reason string `json:"reason"`
	Rule   string `json:"rule,omitempty"` // of the egress policy
	Count  uint64 `json:"count"`
}

// status returns the state of the gateway.
func (p *Process) status(g *router.Gateway) *Status {
	stats := g.Stats()
	a := p.advertised.Load()
	s := &Status{
		Build: version.Read(), PID: os.Getpid(), Started: p.started, Uptime: time.Since(p.started).Seconds(), Identity: g.Identity(),
		ConfigFile: &p.ConfigFile, URIs: a.URIs, TCP: a.ListenTCP, Access: "open", Draining: g.Draining(), Sessions: stats.Sessions, Flows: stats.Flows,
		Problems: []string{}, Metrics: p.metricsURL, MetricsError: p.metricsError, Directory: []DirectoryState{},
	}
	if list := p.access.rule.Load().list; list != nil {
		s.Access, s.Clients = "listed", len(list.Entries())
	}
	for i := range stats.Batches {
		s.Shards = append(s.Shards, ShardStatus{stats.Batches[i].Longest.Seconds()})
	}
	for _, x := range g.Sockets() {
		s.Sockets = append(s.Sockets, SocketStatus{
			x.Addr.String(), x.Shard, OffloadStatus{x.GSO.On, x.GSO.Reason}, OffloadStatus{x.GRO.On, x.GRO.Reason},
			BufferStatus(x.ReceiveBuffer), BufferStatus(x.SendBuffer),
		})
	}
	names := p.gatewayNames.Load()
	for _, d := range g.Directory() {
		state := DirectoryState{(*names)[d.Identity], d.Identity, d.Host, ""}
		if d.Addr.IsValid() {
			state.Address = d.Addr.String()
		}
		s.Directory = append(s.Directory, state)
	}
	if p.wireGuard != nil {
		s.WireGuard = &WireGuardStatus{Device: p.wireGuard.Name(), Peers: p.wireGuard.Stats().Peers}
		if err := p.wireGuard.Err(); err != nil {
			s.WireGuard.Error = strings.TrimPrefix(err.Error(), "wireguard: ")
		}
	}
	s.Refusals = listRefusals(&stats, g.Refusals(), g.Registrations())
	s.Reloaded, s.Upgraded = p.history.get()
	s.problems = p.problems(s, &stats)
	for _, x := range s.problems {
		s.Problems = append(s.Problems, x.String())
	}
	s.Ready = readiness(s.problems).Ready
	s.Health = "ok"
	if len(s.Problems) > 0 {
		s.Health = "degraded"
	}
	return s
}

// problems returns what is wrong.
func (p *Process) problems(s *Status, stats *router.Stats) (all []problem) {
	note := func(when bool, code, text string) {
		if when {
			all = append(all, problem{Code: code, Text: text})
		}
	}
	refuse := func(when bool, code, text string) {
		if when {
			all = append(all, problem{Code: code, Text: text + ": new clients are refused", Refuses: true})
		}
	}
	refuse(s.Draining, "draining", "draining")
	refuse(stats.MemoryLimit > 0 && stats.MemoryUsed > stats.MemoryLimit*8/10, "memory", "memory is short")
	note(p.serveTCP && len(s.TCP) == 0, "tcp", "the TCP port is not served: clients in networks that block UDP cannot connect")
	note(p.access.stale.Load(), "clients", "the list of clients cannot be used since its last change; the previous one is in effect")
	note(p.access.invalid(), "clients", "lines of the list of clients are invalid and admit no client")
	note(s.Access == "listed" && s.Clients == 0, "no_clients", "the list of clients is empty")
	for _, d := range s.Directory {
		if d.Address == "" {
			all = append(all, problem{Code: "directory", Text: "the name of a gateway does not resolve", about: cmp.Or(d.Name, d.Host)})
		}
	}
	note(s.Reloaded != nil && s.Reloaded.Error != "", "reload", "the last reload failed; the previous configuration is in effect")
	note(s.Upgraded != nil && s.Upgraded.Error != "", "upgrade", "the last upgrade failed; the old process goes on")
	small := slices.ContainsFunc(s.Sockets, func(x SocketStatus) bool {
		return x.ReceiveBuffer.Granted < x.ReceiveBuffer.Requested || x.SendBuffer.Granted < x.SendBuffer.Requested
	})
	note(small, "buffers", "the system grants smaller socket buffers than configured: install deploy/90-lewes.conf")
	note(p.lines.losing(), "log", "the log cannot be written: its disk is full, or its reader is slow or has ended; lines are lost")
	note(p.totals != nil && p.totals.broken.Load(), "totals", "the totals of clients cannot be read or written; see the log")
	note(stats.LedgerUp == 0, "ledger", "the ledger cannot be read or written: registrations that need it fail; see the log")
	refuse(stats.MeterStopped != 0, "bandwidth", "the bandwidth that clients use cannot be recorded, and none is carried for them")
	note(p.wireGuard != nil && p.wireGuard.Err() != nil, "wireguard", "the WireGuard device cannot be used: registrations in mode dvpn fail")
	for _, source := range p.issuers.failing() {
		all = append(all, problem{Code: "issuer", Text: "the keys of an issuer of tickets cannot be read; see the log", about: source})
	}
	note(p.metricsRequired && s.MetricsError != "", "metrics", "metrics are not served")
	return all
}

// listRefusals lists the counters of refusals that are not zero, the largest first.
func listRefusals(s *router.Stats, flows map[router.Refusal]uint64, registrations map[wire.RegisterCode]uint64) []Refusal {
	h := &s.Handshakes
	all := []Refusal{
		{"client", "not listed", "", h.Unlisted},
		{"client", "busy: told to try again", "", h.Busy},
		{"client", "short of memory", "", s.ShortOfMemory},
		{"client", "handshake failed", "", h.Failed},
		{"client", "too many tries of one handshake", "", h.Limited},
		{"session", "account at its bound", "", s.SessionsRefused},
		{"session", "not registered in time", "", s.UnregisteredExpired},
		{"session", "too many without a registration", "", s.UnregisteredEvicted},
		{"packet", "malformed", "", s.Malformed},
		{"packet", "unknown session", "", s.Unknown},
		{"packet", "replayed", "", s.Replayed},
		{"packet", "forged", "", s.Forged},
		{"packet", "unexpected", "", s.Misplaced},
		{"packet", "refused", "", s.Refused - min(s.Refused, h.Unlisted)}, // without those of clients above
		{"packet", "too large", "", s.TooLarge},
		{"packet", "not sent to the target", "", s.EgressFailed},
		{"packet", "not sent to the client", "", s.ClientFailed},
		{"packet", "address of the client not validated", "", s.Unvalidated},
		{"packet", "no session has its index", "", s.UnboundIndex},
		{"packet", "queue of a TCP session full", "", s.QueueFull},
		{"packet", "queued for too long for TCP", "", s.QueueExpired},
		{"packet", "rate of the account", "", s.OverRate},
		{"packet", "session not registered", "", s.NotRegistered},
		{"packet", "bandwidth used up", "", s.UsedUp},
		{"packet", "used bandwidth cannot be recorded", "", s.NotRecorded},
	}
	for code, n := range h.Rejects {
		all = append(all, Refusal{"client", wire.RejectCode(code).String(), "", n})
	}
	for r, n := range flows {
		all = append(all, Refusal{"flow", r.Reason.String(), r.Rule, n})
	}
	for code, n := range registrations {
		if code != wire.CodeOK {
			all = append(all, Refusal{"registration", code.String(), "", n})
		}
	}
	all = slices.DeleteFunc(all, func(r Refusal) bool { return r.Count == 0 })
	slices.SortFunc(all, func(a, b Refusal) int {
		return cmp.Or(cmp.Compare(a.What, b.What), cmp.Compare(b.Count, a.Count), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Rule, b.Rule))
	})
	return all
}

// UnlistedClient is an identity that was refused because it is not in the list of clients.
type UnlistedClient struct {
	Identity identity.PublicKey `json:"identity"`
	From     string             `json:"from"` // a masked address
	First    time.Time          `json:"first"`
	Last     time.Time          `json:"last"`
	Tries    uint64             `json:"tries"`
}

func unlistedClient(e unlisted.Entry) UnlistedClient {
	return UnlistedClient{e.Identity, maskPrefix(e.Source), e.First, e.Last, e.Count}
}
