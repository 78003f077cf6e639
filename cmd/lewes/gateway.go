package main

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"lewes/cmd/config"
	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/router"
	"lewes/router/metrics"
	"lewes/router/policy"
	"lewes/state"
	"lewes/transport/tcp"
	"lewes/transport/udp"
	"lewes/transport/uri"
)

const (
	// clientsInterval is how often the list of clients is looked at.
	clientsInterval = time.Second
	// directoryPatience is how long the names of other gateways may take to resolve
	// before this one is ready without them.
	directoryPatience = 5 * time.Second
)

func newGateway() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "gateway",
		Short: "run a gateway",
		Long: `Gateway runs a gateway until it is told to end (SIGINT or SIGTERM; a second one ends it
at once). It needs no configuration: it makes its identity in the state folder when it
starts for the first time, listens on UDP port 51264 and TCP port 41264 and prints the URI that its
clients need, on standard output. It logs "ready" once when it serves, and tells
systemd so where that asks.

Nobody may use it before you list them: see lewes clients --help.`,
		Example: `  lewes gateway
  lewes gateway --config /etc/lewes/gateway.toml
  lewes gateway --offload off                              # datagrams one by one, for a driver that damages trains
  lewes config default > gateway.toml                      # what there is to configure`,
		Args: arguments(0, 0, ""),
	}
	file := cmd.Flags().String("config", "", "configuration `FILE`")
	dir := cmd.Flags().String("state", "", "the state `folder`, whatever the configuration says")
	offloads := newOffloadFlags(cmd)
	asJSON := cmd.Flags().Bool("json", false, "print the URIs as one line of JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := loadConfig(*file, *dir)
		if err != nil {
			return err
		}
		if err := offloads.apply(&c.Listen); err != nil {
			return err
		}
		log, err := gatewayLogger(cmd.ErrOrStderr(), &c.Log)
		if err != nil {
			return err
		}
		ctx, stop := untilSignal(cmd.Context(), cmd.ErrOrStderr())
		defer stop()
		return runGateway(ctx, c, log, func(a *advertisement) error { return a.print(cmd.OutOrStdout(), *asJSON) })
	}
	return cmd
}

// loadConfig reads a configuration, or takes the default where none is named.
func loadConfig(file, dir string) (*config.Config, error) {
	c := config.Default()
	if file != "" {
		var err error
		if c, err = config.Load(file); err != nil {
			return nil, err
		}
	}
	if dir != "" {
		c.StateDir = dir
	}
	if c.Identity != "" && (c.Access.Clients != "" || c.Access.Mode == config.AccessOpen) {
		return c, nil // the state folder is needed for nothing
	}
	return c, c.ResolveStateDir()
}

func gatewayLogger(w io.Writer, c *config.Log) (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(string(c.Level))
	if err != nil {
		return nil, err
	}
	return newLogger(w, level, c.Format == config.LogJSON), nil
}

// runGateway serves until ctx is done.
func runGateway(ctx context.Context, c *config.Config, log *zap.Logger, ready func(*advertisement) error) error {
	key, err := gatewayIdentity(c, log)
	if err != nil {
		return err
	}
	defer key.Wipe()
	guard, err := newGuard(c, log)
	if err != nil {
		return err
	}
	if err := checkOffloads(&c.Listen, udp.Probe()); err != nil {
		return err
	}
	limitMemory(c)
	settings := gatewaySettings(c, key, guard, log)
	if settings.Directory != nil {
		resolveDirectory(ctx, settings.Directory, log)
	}
	g, err := router.Start(settings)
	if err != nil {
		return err
	}
	var chores sync.WaitGroup
	defer func() {
		if err := notify("STOPPING=1"); err != nil {
			log.Warn(err.Error())
		}
		log.Info("stopped", zap.Int("sessions_closed", g.Shutdown()))
		chores.Wait()
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if c.Metrics.Listen != "" {
		at, err := metrics.Serve(ctx, c.Metrics.Listen, g)
		if err != nil {
			return err
		}
		log.Info("metrics", zap.String("url", "http://"+at.String()+"/metrics"))
	}
	a := advertise(g, c)
	if err := ready(a); err != nil {
		return err
	}
	if a.unknown {
		log.Warn(`this machine has no global address, so the URI is for this machine alone: put the name or address by which clients reach it into "public" in the configuration`)
	}
	log.Info("ready", zap.Strings("uris", a.URIs), zap.Strings("listen", a.Listen), zap.Strings("listen_tcp", a.ListenTCP), zap.String("access", a.Access))
	if err := notify("READY=1"); err != nil {
		log.Warn(err.Error())
	}
	chores.Go(func() { guard.watch(ctx, g) })
	<-ctx.Done()
	return nil
}

// limitMemory sets the process's memory limit where the environment has not done so.
func limitMemory(c *config.Config) {
	if _, set := os.LookupEnv("GOMEMLIMIT"); !set && c.MemoryLimit > 0 {
		debug.SetMemoryLimit(int64(c.MemoryLimit))
	}
}

// gatewayIdentity reads the gateway's identity. Where the configuration names no
// file for it, it is made on first start.
func gatewayIdentity(c *config.Config, log *zap.Logger) (*identity.PrivateKey, error) {
	path := c.IdentityFile()
	if c.Identity != "" {
		return identity.Load(path)
	}
	key, made, err := loadOrMake(path)
	if made {
		log.Info("made this gateway's identity", zap.String("file", path), zap.Stringer("identity", key.Public()))
	}
	return key, err
}

// gatewaySettings is what the configuration means to a router.
func gatewaySettings(c *config.Config, key *identity.PrivateKey, guard *guard, log *zap.Logger) router.Config {
	var addrs []netip.AddrPort
	for _, a := range c.Listen.Addresses {
		addrs = append(addrs, a.AddrPort)
	}
	var kems []kem.ID
	for _, k := range c.Handshake.KEMs {
		kems = append(kems, kem.ID(k))
	}
	own := c.Egress.Own
	for _, h := range c.Public {
		if addr, err := netip.ParseAddr(h.Name); err == nil {
			own = append(own, addr)
		}
	}
	var directory *router.Directory
	if len(c.Gateways) > 0 {
		var gateways []uri.Gateway
		for _, g := range c.Gateways {
			gateways = append(gateways, g.URI)
		}
		directory = router.NewDirectory(gateways, net.DefaultResolver)
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
				Addrs:          tcpAddrs(addrs),
				Port:           uint16(c.TCP.Port),
				MaxConnections: c.TCP.MaxConnections,
				MaxPerSource:   c.TCP.MaxPerSource,
				MaxReceiving:   int(c.TCP.MaxReceiving),
				ReceiveTimeout: time.Duration(c.TCP.ReceiveTimeout),
				WriteTimeout:   time.Duration(c.TCP.WriteTimeout),
			},
			PollWait:     time.Duration(c.TCP.PollWait),
			MaxHeld:      int(c.TCP.MaxWaiting),
			MaxHeldInAll: int(c.TCP.MaxWaitingTotal),
			HeldAge:      time.Duration(c.TCP.WaitingAge),
		},
		Shards:    c.Listen.Shards,
		Pin:       c.Listen.Pin,
		Logger:    log,
		KEMs:      kems,
		Admit:     guard.admit(),
		Policy:    policy.New(policy.Config{Allow: c.Egress.Allow, Deny: c.Egress.Deny, Own: policy.HostAddrs(own...)}),
		Directory: directory,

		Tolerance:    time.Duration(c.Handshake.Tolerance),
		MaxRecords:   c.Handshake.MaxRecords,
		RecordTTL:    time.Duration(c.Handshake.RecordTTL),
		MaxEarly:     int(c.Handshake.MaxEarlyBytes),
		TriesASecond: c.Handshake.TriesPerSecond,
		MaxBacklog:   c.Handshake.MaxBacklog,
		Rate:         c.Handshake.Rate,
		Burst:        c.Handshake.Burst,
		TrustedRate:  c.Handshake.DirectoryRate,

		MaxSessions: c.Session.Max,
		Terms: state.Terms{
			IdleTTL:     time.Duration(c.Session.TTL),
			RekeyAfter:  time.Duration(c.Session.RekeyAfter),
			MaxDatagram: uint16(c.Session.MaxDatagram),
		},
		RekeyPackets: uint64(c.Session.RekeyPackets),
		DemotedTTL:   time.Duration(c.Session.DemotedTTL),

		MaxFlowsPerSession: c.Flows.MaxPerSession,
		MaxFlows:           c.Flows.Max,
		FlowIdle:           time.Duration(c.Flows.Idle),
		ResolveTimeout:     time.Duration(c.Flows.ResolveTimeout),
		MaxWaiting:         c.Flows.MaxResolving,
		MaxLookups:         c.Flows.MaxLookups,

		MaxClaims:  c.Forward.MaxClaims,
		ClaimTTL:   time.Duration(c.Forward.ClaimTTL),
		HelloRate:  c.Forward.HelloRate,
		HelloBurst: c.Forward.HelloBurst,
	}
}

// tcpAddrs is the addresses of UDP with the port left open, each once.
func tcpAddrs(udp []netip.AddrPort) []netip.AddrPort {
	var addrs []netip.AddrPort
	for _, a := range udp {
		if a = netip.AddrPortFrom(a.Addr(), 0); !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// bufferSize returns what package udp takes for a size: less than 0 leaves what the
// system gives.
func bufferSize(s config.Size) int {
	if s == 0 {
		return -1
	}
	return int(s)
}

// resolveDirectory resolves the names of the other gateways for the first time.
func resolveDirectory(ctx context.Context, d *router.Directory, log *zap.Logger) {
	ctx, cancel := context.WithTimeout(ctx, directoryPatience)
	defer cancel()
	if err := d.Refresh(ctx); err != nil {
		log.Warn("a gateway of the directory cannot be resolved; clients cannot go on to it before that succeeds", zap.Error(err))
	}
}
