package main

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"lewes/cmd/config"
	"lewes/crypto/identity"
	"lewes/crypto/kem"
	"lewes/router"
	"lewes/router/handover"
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

SIGHUP lets it read its configuration again: what can change while it serves does, and
a line of the log names what cannot. SIGUSR2 upgrades it: the program's file, by now a
newer one perhaps, is started with the same arguments, gets all sockets, sessions and
flows, and goes on; nothing that is on its way is lost. A successor that cannot take
over is logged, and this process goes on. Both exist on Unix systems; upgrades on Linux.

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
		asked, stop := wishes()
		defer stop()
		from, err := predecessor()
		if err != nil {
			return err
		}
		p := &gatewayProcess{
			load: func() (*config.Config, error) {
				c, err := loadConfig(*file, *dir)
				if err != nil {
					return nil, err
				}
				return c, offloads.apply(&c.Listen)
			},
			asked: asked,
			from:  from,
			ready: func(a *advertisement) error { return a.print(cmd.OutOrStdout(), *asJSON) },
		}
		err = p.start(cmd)
		refuse(from, err)
		return err
	}
	return cmd
}

// gatewayProcess is a gateway as a process.
type gatewayProcess struct {
	load  func() (*config.Config, error)
	asked wished
	from  *handover.Conn // nil: this gateway succeeds no other
	ready func(*advertisement) error

	config    *config.Config
	log       *zap.Logger
	level     zap.AtomicLevel
	guard     *guard
	chores    func(func()) // starts a goroutine that ends with the gateway
	policy    *policy.Policy
	directory *router.Directory
	extras    map[string]*os.File // what a successor gets beside the gateway
}

// start reads the configuration and runs the gateway.
func (p *gatewayProcess) start(cmd *cobra.Command) (err error) {
	if p.config, err = p.load(); err != nil {
		return err
	}
	if p.log, p.level, err = gatewayLogger(cmd.ErrOrStderr(), &p.config.Log); err != nil {
		return err
	}
	ctx, stop := untilSignal(cmd.Context(), cmd.ErrOrStderr())
	defer stop()
	return p.run(ctx)
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

func gatewayLogger(w io.Writer, c *config.Log) (*zap.Logger, zap.AtomicLevel, error) {
	level, err := zap.ParseAtomicLevel(string(c.Level))
	if err != nil {
		return nil, level, err
	}
	return newLogger(w, level, c.Format == config.LogJSON), level, nil
}

// run serves until ctx is done, or until a successor does.
func (p *gatewayProcess) run(ctx context.Context) error {
	c, log := p.config, p.log
	key, err := gatewayIdentity(c, log)
	if err != nil {
		return err
	}
	defer key.Wipe()
	if p.guard, err = newGuard(c, log); err != nil {
		return err
	}
	if err := checkOffloads(&c.Listen, udp.Probe()); err != nil {
		return err
	}
	limitMemory(c)
	settings := gatewaySettings(c, key, p.guard, log)
	p.policy, p.directory = settings.Policy, settings.Directory
	if settings.Directory != nil {
		resolveDirectory(ctx, settings.Directory, log)
	}
	g, inherited, err := p.serve(ctx, settings)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var chores sync.WaitGroup
	defer func() {
		cancel()
		chores.Wait()
	}()
	err = p.announce(ctx, g, inherited)
	if err == nil {
		p.chores = chores.Go
		p.guard.watch(ctx, g, p.chores)
		var gone bool
		if gone, err = p.attend(ctx, g); gone {
			// What is left of the gateway ends with the process, which takes less of the
			// processors' time from the successor than closing it would.
			return err
		}
	}
	if err := notify("STOPPING=1"); err != nil {
		log.Warn(err.Error())
	}
	log.Info("stopped", zap.Int("sessions_closed", g.Shutdown()))
	return err
}

// serve starts the gateway, or takes it over. The files are what came along.
func (p *gatewayProcess) serve(ctx context.Context, settings router.Config) (g *router.Gateway, inherited map[string]*os.File, err error) {
	if p.from == nil {
		g, err = router.Start(settings)
		return g, nil, err
	}
	if g, inherited, err = router.TakeOver(ctx, settings, p.from); err != nil {
		p.from.Close()
		p.from = nil // it was told
	}
	return g, inherited, err
}

// announce tells everybody that the gateway serves.
func (p *gatewayProcess) announce(ctx context.Context, g *router.Gateway, inherited map[string]*os.File) error {
	c, log := p.config, p.log
	metricsErr := p.serveMetrics(ctx, g, inherited)
	if metricsErr != nil && p.from == nil {
		return metricsErr
	}
	a := advertise(g, c)
	if p.from == nil {
		if err := p.ready(a); err != nil {
			return err
		}
	} else {
		if metricsErr != nil { // what was taken over goes on all the same
			log.Error("metrics are not served", zap.Error(metricsErr))
		}
		if err := awaitFarewell(p.from); err != nil {
			log.Warn("the predecessor went in the middle of a word", zap.Error(err))
		}
	}
	if a.unknown {
		log.Warn(`this machine has no global address, so the URI is for this machine alone: put the name or address by which clients reach it into "public" in the configuration`)
	}
	log.Info("ready", zap.Strings("uris", a.URIs), zap.Strings("listen", a.Listen), zap.Strings("listen_tcp", a.ListenTCP), zap.String("access", a.Access))
	if err := notify("READY=1"); err != nil {
		log.Warn(err.Error())
	}
	return nil
}

// serveMetrics serves them where the configuration says so, by the predecessor's
// listener if that has the same address.
func (p *gatewayProcess) serveMetrics(ctx context.Context, g *router.Gateway, inherited map[string]*os.File) error {
	at := p.config.Metrics.Listen
	listener := inheritedListener(inherited, metricsListener, at)
	if at == "" {
		return nil
	}
	if listener == nil {
		var err error
		if listener, err = metrics.Listen(ctx, at); err != nil {
			return err
		}
	}
	if file, err := listener.File(); err == nil { // Windows gives none, and has no successors
		p.extras = map[string]*os.File{metricsListener + at: file}
	}
	metrics.ServeOn(ctx, listener, g)
	p.log.Info("metrics", zap.String("url", "http://"+listener.Addr().String()+"/metrics"))
	return nil
}

// attend does what signals ask until ctx is done, or until a successor has taken over:
// then the gateway is gone. An error is that it was lost on the way.
func (p *gatewayProcess) attend(ctx context.Context, g *router.Gateway) (gone bool, err error) {
	for {
		select {
		case <-ctx.Done():
			return false, nil
		case <-p.asked.reload:
			p.reload(ctx, g)
		case <-p.asked.upgrade:
			err := upgrade(ctx, g, p.extras, p.log)
			if err == nil || errors.Is(err, router.ErrLost) {
				return true, err
			}
			p.log.Error("no upgrade: this gateway goes on", zap.Error(err))
		}
	}
}

// limitMemory sets the process's memory limit where the environment has not done so.
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

// policyConfig is the egress policy of a configuration.
func policyConfig(c *config.Config) policy.Config {
	own := slices.Clone(c.Egress.Own)
	for _, h := range c.Public {
		if addr, err := netip.ParseAddr(h.Name); err == nil {
			own = append(own, addr)
		}
	}
	return policy.Config{Allow: c.Egress.Allow, Deny: c.Egress.Deny, Own: policy.HostAddrs(own...)}
}

// gatewaysOf is the directory of a configuration.
func gatewaysOf(c *config.Config) (gateways []uri.Gateway) {
	for _, g := range c.Gateways {
		gateways = append(gateways, g.URI)
	}
	return gateways
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
	var directory *router.Directory
	if len(c.Gateways) > 0 {
		directory = router.NewDirectory(gatewaysOf(c), net.DefaultResolver)
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
		Policy:    policy.New(policyConfig(c)),
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

		Terms: state.Terms{
			IdleTTL:     time.Duration(c.Session.TTL),
			RekeyAfter:  time.Duration(c.Session.RekeyAfter),
			MaxDatagram: uint16(c.Session.MaxDatagram),
		},
		RekeyPackets: uint64(c.Session.RekeyPackets),
		DemotedTTL:   time.Duration(c.Session.DemotedTTL),

		Limits: limitsOf(c),
	}
}

// limitsOf returns the bounds that can change while the gateway serves.
func limitsOf(c *config.Config) router.Limits {
	return router.Limits{
		MaxSessions:        c.Session.Max,
		MaxFlowsPerSession: c.Flows.MaxPerSession,
		MaxFlows:           c.Flows.Max,
		FlowIdle:           time.Duration(c.Flows.Idle),
		ResolveTimeout:     time.Duration(c.Flows.ResolveTimeout),
		MaxWaiting:         c.Flows.MaxResolving,
		MaxLookups:         c.Flows.MaxLookups,
		MaxClaims:          c.Forward.MaxClaims,
		ClaimTTL:           time.Duration(c.Forward.ClaimTTL),
		HelloRate:          c.Forward.HelloRate,
		HelloBurst:         c.Forward.HelloBurst,
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
