package gatewayd

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"go.uber.org/zap"

	"lewes/cmd/lewes/internal/config"
	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/router"
	"lewes/router/policy"
	"lewes/state"
	"lewes/transport/tcp"
	"lewes/transport/udp"
	"lewes/transport/uri"
)

// routerConfig translates a configuration for the router. Bounds that the configuration does not have
// keep the router's defaults.
func routerConfig(c *config.Config, key *identity.PrivateKey, access *accessControl, egress *policy.Policy, log *zap.Logger) router.Config {
	var addrs, tcpAddrs []netip.AddrPort
	for _, a := range c.Listen.Addresses {
		addrs = append(addrs, a.AddrPort)
		if any := netip.AddrPortFrom(a.Addr(), 0); !slices.Contains(tcpAddrs, any) {
			tcpAddrs = append(tcpAddrs, any)
		}
	}
	var kems []kem.ID
	for _, k := range c.Handshake.KEMs {
		kems = append(kems, kem.ID(k))
	}
	var directory *router.Directory
	if len(c.Gateways) > 0 {
		directory = router.NewDirectory(directoryOf(c), net.DefaultResolver)
	}
	off := c.Listen.Offload == config.OffloadOff
	return router.Config{
		Identity: key,
		Listen: udp.Config{
			Addrs: addrs,
			Port:  uint16(c.Listen.Port),
			Options: udp.Options{
				ReceiveBuffer: bufferSize(c.Listen.ReceiveBuffer),
				SendBuffer:    bufferSize(c.Listen.SendBuffer),
				Portable:      off,
				NoGSO:         off || !c.Listen.GSO,
				NoGRO:         off || !c.Listen.GRO,
			},
		},
		TCP: router.TCP{
			On: c.TCP.Enabled,
			Listen: tcp.Config{
				Addrs:          tcpAddrs,
				Port:           uint16(c.TCP.Port),
				MaxConnections: c.TCP.MaxConnections,
				MaxPerSource:   c.TCP.MaxPerSource,
			},
		},
		Shards:     c.Listen.Shards,
		Pin:        c.Listen.Pin,
		Logger:     log,
		KEMs:       kems,
		Access:     access.standing,
		OnUnlisted: access.logUnlisted,
		Policy:     egress,
		Ports:      c.Egress.Ports,
		Directory:  directory,

		MaxRecords:   c.Handshake.MaxRecords,
		RecordTTL:    time.Duration(c.Handshake.RecordTTL),
		TriesASecond: c.Handshake.TriesPerSecond,
		Rate:         c.Handshake.Rate,
		Burst:        c.Handshake.Burst,

		Terms: state.Terms{
			IdleTTL:     time.Duration(c.Session.TTL),
			RekeyAfter:  time.Duration(c.Session.RekeyAfter),
			MaxDatagram: uint16(c.Session.MaxDatagram),
		},
		Limits: limitsOf(c),
	}
}

// limitsOf returns the bounds that a reload can change.
func limitsOf(c *config.Config) router.Limits {
	return router.Limits{
		MaxSessions:        c.Session.Max,
		MaxFlowsPerSession: c.Flows.MaxPerSession,
		MaxFlows:           c.Flows.Max,
		FlowIdle:           time.Duration(c.Flows.Idle),
		MaxClaims:          c.Forward.MaxClaims,
	}
}

func directoryOf(c *config.Config) (gateways []uri.Gateway) {
	for _, g := range c.Gateways {
		gateways = append(gateways, g.URI)
	}
	return gateways
}

// bufferSize converts a size for package udp, where a negative one keeps the system's default.
func bufferSize(s config.Size) int {
	if s == 0 {
		return -1
	}
	return int(s)
}

// checkMemoryLimit returns an error if the environment sets a memory limit that is too low for the
// gateway. That of the configuration is part of its validation.
func checkMemoryLimit(c *config.Config) error {
	text, set := os.LookupEnv("GOMEMLIMIT")
	if limit, least := debug.SetMemoryLimit(-1), c.LeastMemoryLimit(); set && limit < int64(least) {
		return fmt.Errorf("GOMEMLIMIT=%s is less than this gateway uses without clients; the least is %v", text, least)
	}
	return nil
}

// limitMemory sets the process's memory limit unless the environment does.
func limitMemory(c *config.Config) {
	if _, set := os.LookupEnv("GOMEMLIMIT"); set {
		return
	}
	limit := int64(c.MemoryLimit)
	if limit == 0 {
		limit = math.MaxInt64
	}
	debug.SetMemoryLimit(limit)
}

// checkOffloads returns an error if offload is "on" and the kernel lacks a wanted half of it.
func checkOffloads(c *config.Listen, kernel udp.Support) error {
	if c.Offload != config.OffloadOn {
		return nil
	}
	for _, half := range []struct {
		key    string
		wanted bool
		err    error
	}{{"gso", c.GSO, kernel.GSO}, {"gro", c.GRO, kernel.GRO}} {
		if half.wanted && half.err != nil {
			return fmt.Errorf("listen.offload is %q, but this kernel refuses %s: %w\nset offload to %q, or %s to false",
				c.Offload, half.key, half.err, config.OffloadAuto, half.key)
		}
	}
	return nil
}
