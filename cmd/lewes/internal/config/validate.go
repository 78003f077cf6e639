package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"

	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/router"
	"lewes/router/policy"
)

// Limits of values that the protocol or common sense sets.
const (
	maxDatagram    = 1500                        // section 1 of PROTOCOL.md
	minDatagram    = 1080                        // the largest datagram of a handshake, section 1
	maxFlowIdle    = Duration(120 * time.Second) // section 8: clients may then reuse the flow's id
	maxFlowsOfOne  = 4096                        // a session ends with all of them in one step
	maxConnections = 1 << 20
	maxShards      = 256
	maxBuffer      = 1 << 30
	maxSessions    = 1 << 24
	maxFlows       = 10_000_000
	maxRate        = 1_000_000
	maxRules       = 1024 // of each kind: each new flow is compared with all
	maxHosts       = 64
	maxGateways    = 10_000
	maxName        = 64
	maxMemory      = 1 << 50
	maxDevice      = 15 // bytes, on Linux
	maxIssuers     = 16
)

// Validate checks a configuration and returns an *Error with all problems. Parse includes this check.
func (c *Config) Validate() error { return invalid(c.problems()) }

// Warnings returns the egress rules of a valid configuration that contradict others or are redundant.
func (c *Config) Warnings() []Problem {
	var p problems
	rules := c.Egress.Policy()
	for _, f := range policy.Review(&rules) {
		list := "egress.deny"
		if f.Allow {
			list = "egress.allow"
		}
		p.add(indexed(list, f.Index+1), "%s", f.Reason)
	}
	return p
}

// LeastMemoryLimit returns the smallest memory limit with which the gateway can serve clients.
func (c *Config) LeastMemoryLimit() Size {
	return Size(router.LeastMemoryLimit(min(max(c.Listen.Shards, 0), maxShards), min(len(c.Listen.Addresses), maxHosts)))
}

type problems []Problem

func (p *problems) add(at, format string, args ...any) {
	*p = append(*p, Problem{Key: withoutIndexes(at), Reason: fmt.Sprintf(format, args...), at: at})
}

// within checks that a value is from low to high.
func within[T int | float64 | Size | Duration](p *problems, at string, v, low, high T) {
	if !(v >= low && v <= high) { // rejects NaN as well
		p.add(at, "%v is not from %v to %v", v, low, high)
	}
}

func oneOf[T ~string](p *problems, at string, v T, choices ...T) {
	if slices.Contains(choices, v) {
		return
	}
	var quoted []string
	for _, s := range choices {
		quoted = append(quoted, fmt.Sprintf("%q", s))
	}
	p.add(at, "%q is not one of %s", shorten(string(v)), strings.Join(quoted, ", "))
}

func atMost[T any](p *problems, at string, entries []T, most int) {
	if len(entries) > most {
		p.add(at, "%d entries are more than %d", len(entries), most)
	}
}

// once checks that no entry of a list is repeated.
func once[T comparable](p *problems, at string, entries []T) {
	first := make(map[T]int, len(entries))
	for i, e := range entries {
		if n, twice := first[e]; twice {
			p.add(indexed(at, i+1), `"%v" is in the list twice: it is entry %d already`, e, n)
			continue
		}
		first[e] = i + 1
	}
}

func wholeSeconds(p *problems, at string, d Duration) {
	if time.Duration(d)%time.Second != 0 {
		p.add(at, "%v is not a whole number of seconds, the unit of the protocol", d)
	}
}

// file looks at the path of a file or folder.
func file(p *problems, at, path string) {
	if strings.HasPrefix(path, "~") {
		p.add(at, "%q begins with ~, which only a shell understands; write the whole path", shorten(path))
	}
	if strings.ContainsRune(path, 0) {
		p.add(at, "%q has a zero byte in it", shorten(path))
	}
}

func (c *Config) problems() []Problem {
	var p problems
	file(&p, "identity", c.Identity)
	file(&p, "state_dir", c.StateDir)
	atMost(&p, "public", c.Public, maxHosts)
	once(&p, "public", c.Public)
	if c.MemoryLimit != 0 {
		within(&p, "memory_limit", c.MemoryLimit, 1, maxMemory)
		if least := c.LeastMemoryLimit(); c.MemoryLimit >= 1 && c.MemoryLimit < least {
			p.add("memory_limit", "%v is less than a gateway uses without clients; the least for this one is %v: it grows with listen.shards and listen.addresses", c.MemoryLimit, least)
		}
	}
	c.Listen.check(&p)
	c.TCP.check(&p)
	c.Access.check(&p)
	c.Handshake.check(&p)
	c.Session.check(&p)
	c.Flows.check(&p)
	c.Egress.check(&p)
	c.Forward.check(&p)
	c.Registration.check(&p, c.Access.Mode)
	c.WireGuard.check(&p, len(c.Public) > 0)
	checkGateways(&p, c.Gateways)
	oneOf(&p, "log.level", c.Log.Level, LogDebug, LogInfo, LogWarn, LogError)
	oneOf(&p, "log.format", c.Log.Format, LogConsole, LogJSON)
	if s := c.Metrics.Listen; s != "" && s != MetricsAuto {
		if _, err := netip.ParseAddrPort(s); err != nil {
			p.add("metrics.listen", `%q is not an IP address and a port, such as "127.0.0.1:9264"; "" turns metrics off`, shorten(s))
		}
	}
	return p
}

func (l *Listen) check(p *problems) {
	atMost(p, "listen.addresses", l.Addresses, maxHosts)
	once(p, "listen.addresses", l.Addresses)
	within(p, "listen.port", l.Port, 0, 65535)
	within(p, "listen.shards", l.Shards, 0, maxShards)
	oneOf(p, "listen.offload", l.Offload, OffloadAuto, OffloadOn, OffloadOff)
	within(p, "listen.receive_buffer", l.ReceiveBuffer, 0, maxBuffer)
	within(p, "listen.send_buffer", l.SendBuffer, 0, maxBuffer)
}

func (t *TCP) check(p *problems) {
	within(p, "tcp.port", t.Port, 0, 65535)
	within(p, "tcp.max_connections", t.MaxConnections, 1, maxConnections)
	within(p, "tcp.max_per_source", t.MaxPerSource, 1, maxConnections)
	if t.MaxConnections >= 1 && t.MaxPerSource > t.MaxConnections {
		p.add("tcp.max_per_source", "%d is more than tcp.max_connections, %d, the limit of all sources together", t.MaxPerSource, t.MaxConnections)
	}
}

func (a *Access) check(p *problems) {
	oneOf(p, "access.mode", a.Mode, AccessListed, AccessOpen)
	file(p, "access.clients", a.Clients)
	if a.Totals != 0 {
		within(p, "access.totals", a.Totals, Duration(time.Second), Duration(24*time.Hour))
	}
}

func (h *Handshake) check(p *problems) {
	if len(h.KEMs) == 0 {
		p.add("handshake.kems", "the list is empty, and a gateway without a key exchange serves no client; add %q", kem.MLKEM768)
	}
	once(p, "handshake.kems", h.KEMs)
	for i, k := range h.KEMs {
		if kem.ID(k) == kem.X25519 && !h.AllowX25519 {
			p.add(indexed("handshake.kems", i+1), "%q is broken by a quantum computer; leave it out, or for a test set allow_x25519_kem = true", k)
		}
	}
	const minute = Duration(time.Minute)
	within(p, "handshake.max_records", h.MaxRecords, 1, maxSessions)
	within(p, "handshake.record_ttl", h.RecordTTL, minute/60, 10*minute)
	within(p, "handshake.rate", h.Rate, 0.1, maxRate)
	within(p, "handshake.burst", h.Burst, 1, maxRate)
	within(p, "handshake.tries_per_second", h.TriesPerSecond, 1, maxRate)
}

func (s *Session) check(p *problems) {
	const minute = Duration(time.Minute)
	within(p, "session.max", s.Max, 1, maxSessions)
	within(p, "session.ttl", s.TTL, minute/60, 365*24*60*minute)
	wholeSeconds(p, "session.ttl", s.TTL)
	within(p, "session.rekey_after", s.RekeyAfter, minute/60, 24*60*minute)
	wholeSeconds(p, "session.rekey_after", s.RekeyAfter)
	within(p, "session.max_datagram", s.MaxDatagram, minDatagram, maxDatagram)
}

func (f *Flows) check(p *problems) {
	within(p, "flows.max_per_session", f.MaxPerSession, 1, maxFlowsOfOne)
	within(p, "flows.max", f.Max, 1, maxFlows)
	if f.Max >= 1 && f.MaxPerSession > f.Max {
		p.add("flows.max_per_session", "%d is more than flows.max, %d, the limit of all sessions together", f.MaxPerSession, f.Max)
	}
	within(p, "flows.idle", f.Idle, Duration(time.Second), maxFlowIdle)
}

func (e *Egress) check(p *problems) {
	oneOf(p, "egress.default", e.Default, EgressAllow, EgressDeny)
	atMost(p, "egress.allow", e.Allow, maxRules)
	atMost(p, "egress.deny", e.Deny, maxRules)
	atMost(p, "egress.own", e.Own, maxRules)
	for i, r := range e.Allow {
		if e.Default != EgressAllow {
			break // every rule has an effect
		}
		if err := policy.CheckAllow(r); err != nil {
			p.add(indexed("egress.allow", i+1), "%v", err)
		}
	}
	for i, a := range e.Own {
		if !a.IsValid() || a.IsUnspecified() {
			p.add(indexed("egress.own", i+1), "%q is not the address of a machine", a)
		}
	}
}

func (f *Forward) check(p *problems) {
	within(p, "forward.max_claims", f.MaxClaims, 1, 1<<16)
}

func (r *Registration) check(p *problems, mode AccessMode) {
	oneOf(p, "registration.access", r.Access, RegistrationOff, RegistrationOpen, RegistrationListed, RegistrationTickets)
	oneOf(p, "registration.on_failure", r.OnFailure, OnFailureStop, OnFailureServe)
	file(p, "registration.ledger", r.Ledger)
	switch {
	case r.Access == RegistrationListed && mode == AccessOpen:
		p.add("registration.access", "%q takes the limits of clients from their list, which access.mode %q does not have", r.Access, mode)
	case r.Access == RegistrationTickets && len(r.Issuers) == 0:
		p.add("registration.access", "%q needs an issuer: set registration.issuers", r.Access)
	}
	if r.MixNode != "" {
		if a, err := netip.ParseAddrPort(r.MixNode); err != nil || a.Port() == 0 || a.Addr().IsUnspecified() {
			p.add("registration.mix_node", `%q is not an IP address and a port, such as "203.0.113.9:1789"`, shorten(r.MixNode))
		}
	}
	atMost(p, "registration.issuers", r.Issuers, maxIssuers)
	once(p, "registration.issuers", r.Issuers)
	for i, x := range r.Issuers {
		file(p, indexed("registration.issuers", i+1), x.File)
	}
}

func (w *WireGuard) check(p *problems, public bool) {
	for _, x := range []struct {
		at    string
		of    netip.Prefix
		other bool // has the other family
		most  int  // bits
	}{
		{"wireguard.ipv4", w.IPv4.Prefix(), w.IPv4.Prefix().Addr().Is6(), 30},
		{"wireguard.ipv6", w.IPv6.Prefix(), w.IPv6.Prefix().Addr().Is4(), 126},
	} {
		switch {
		case !x.of.IsValid():
		case x.other:
			p.add(x.at, "%v is a network of the other IP version", x.of)
		case x.of.Bits() > x.most:
			p.add(x.at, "%v has no room for peers: the length is at most %d", x.of, x.most)
		}
	}
	if w.Endpoint != "" {
		var h Host
		if err := h.UnmarshalText([]byte(w.Endpoint)); err != nil {
			p.add("wireguard.endpoint", "%v", err)
		}
	}
	if w.Device == "" {
		return
	}
	if len(w.Device) > maxDevice || strings.ContainsFunc(w.Device, func(r rune) bool { return r == '/' || unicode.IsSpace(r) || !unicode.IsPrint(r) }) {
		p.add("wireguard.device", "%q is not the name of a network device", shorten(w.Device))
	}
	if w.IPv4 == "" && w.IPv6 == "" {
		p.add("wireguard.device", `peers need addresses: set wireguard.ipv4, such as "10.77.0.0/16", or wireguard.ipv6`)
	}
	if w.Endpoint == "" && !public {
		p.add("wireguard.endpoint", "clients need a name or address of the device: set it here or in public")
	}
}

func checkGateways(p *problems, gateways []Gateway) {
	atMost(p, "gateway", gateways, maxGateways)
	byIdentity := make(map[identity.PublicKey]int, len(gateways))
	byName := make(map[string]int, len(gateways))
	for i, g := range gateways {
		at := indexed("gateway", i+1)
		if g.URI.Host == "" {
			p.add(at, `it has no uri; write uri = "lewes://IDENTITY@host:port" as that gateway prints it`)
			continue
		}
		if n, twice := byIdentity[g.URI.Identity]; twice {
			p.add(at+".uri", "%q is in the list twice: its identity is that of entry %d", g.URI, n)
		}
		byIdentity[g.URI.Identity] = i + 1
		if g.Name == "" {
			continue
		}
		if n, twice := byName[g.Name]; twice {
			p.add(at+".name", "%q is in the list twice: it is the name of entry %d", shorten(g.Name), n)
		}
		byName[g.Name] = i + 1
		if len(g.Name) > maxName || strings.ContainsFunc(g.Name, func(r rune) bool { return !unicode.IsPrint(r) }) {
			p.add(at+".name", "%q is not a name of printable characters, at most %d bytes long", shorten(g.Name), maxName)
		}
	}
}
