package gatewayd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"lewes/cmd/lewes/internal/config"
	"lewes/cmd/lewes/internal/control"
	"lewes/cmd/lewes/internal/version"
	"lewes/crypto/identity"
	"lewes/router"
	"lewes/router/handover"
	"lewes/router/registrar"
	"lewes/router/wireguard"
	"lewes/transport/udp"
)

// shutdownTimeout bounds the time in which clients are notified of the end. The service manager must
// wait longer: systemd 15 s (TimeoutStopSec), Docker 10 s.
const shutdownTimeout = 8 * time.Second

// Process is a gateway as a process. Set the exported fields, then call Run.
type Process struct {
	// Load reads the configuration: at the start and for every reload.
	Load func() (*config.Config, error)
	// ConfigFile is the absolute path of the file that Load reads; empty: none.
	ConfigFile string
	// Log is where log lines are written.
	Log io.Writer
	// OnReady is called once when the gateway serves, unless it took over from a predecessor.
	OnReady func(*Advertisement) error

	signals     signals
	predecessor *handover.Conn // nil if this process takes over from no other

	config       *config.Config // in effect
	log          *zap.Logger
	audit        *zap.Logger // writes every line
	bounded      *boundedCore
	lines        *logWriter // of both
	level        zap.AtomicLevel
	access       *accessControl
	totals       *totals      // nil: none are kept
	start        func(func()) // starts a goroutine that ends with Run
	egress       *egress
	directory    *router.Directory
	wireGuard    *wireguard.Device   // nil: no mode dvpn
	issuers      *issuers            // of tickets
	registration *registration       // nil: off
	extras       map[string]*os.File // files handed over beside the gateway

	started       time.Time
	parent        int             // that started this process
	commands      chan *command   // of the control socket
	control       *control.Server // nil: there is none
	removeControl func()
	advertised    atomic.Pointer[Advertisement]
	gatewayNames  atomic.Pointer[map[identity.PublicKey]string]
	metrics       *http.Server // nil: there is none
	metricsURL    string
	metricsError  string // why there is none

	metricsRequired bool // by the configuration
	serveTCP        bool
	history         history
}

// Run starts the gateway, or takes it over from a predecessor, and serves until ctx is done or a
// successor has taken over.
func (p *Process) Run(ctx context.Context) (err error) {
	var stop func()
	p.signals, stop = notifySignals()
	defer stop()
	if p.predecessor, err = predecessor(); err != nil {
		return err
	}
	defer func() { refuse(p.predecessor, err) }()
	if p.config, err = p.Load(); err != nil {
		return err
	}
	p.started, p.parent, p.commands, p.extras = time.Now(), os.Getppid(), make(chan *command), make(map[string]*os.File)
	c := p.config
	p.serveTCP = c.TCP.Enabled
	p.gatewayNames.Store(gatewayNames(c))
	if p.level, err = zap.ParseAtomicLevel(string(c.Log.Level)); err != nil {
		return err
	}
	p.lines = newLogWriter(p.Log)
	p.bounded, p.audit = newLoggers(p.lines, p.level, c.Log.Format == config.LogJSON)
	p.log = zap.New(p.bounded)
	p.lines.start(func(lost uint64, err error) {
		p.audit.Warn("log lines were lost", zap.Uint64("lines", lost), zap.Error(err))
	})
	defer p.lines.Close()
	build := version.Read()
	p.log.Info("starting lewes", zap.String("version", build.Version), zap.String("revision", build.Revision), zap.String("modified", build.Changed()),
		zap.String("go", build.Go), zap.Int("pid", os.Getpid()), zap.Bool("takes_over", p.predecessor != nil))
	key, err := loadIdentity(c, p.log)
	if err != nil {
		return err
	}
	defer key.Wipe()
	// A predecessor goes on with the last valid list if this one has an invalid line.
	if p.access, err = newAccessControl(c, p.predecessor != nil, p.log); err != nil {
		return err
	}
	if err := checkOffloads(&c.Listen, udp.Probe()); err != nil {
		return err
	}
	if err := checkMemoryLimit(c); err != nil {
		return err
	}
	limitMemory(c)
	logWarnings(c, p.log)
	if p.egress, err = newEgress(c, net.DefaultResolver); err != nil {
		p.log.Warn("cannot read the routing table; denying the addresses of interfaces only", zap.Error(err))
	}
	settings := routerConfig(c, key, p.access, p.egress.policy, p.log)
	p.issuers = newIssuers(key.Public(), c.StateDir, p.log)
	p.issuers.replace(c.Registration.Issuers)
	if p.registration, err = newRegistration(c, key, p.access, registrar.BlindRSA(p.issuers.verifier), p.log); err != nil {
		return err
	}
	defer p.registration.close()
	p.access.relimit = p.registration.relimit
	settings.Registration, settings.Metering = p.registration.settings(), p.registration.metering(c)
	p.wireGuard = p.registration.wireGuard()
	settings.Limits, settings.TCP.Listen.MaxConnections = fitOpenFiles(c, openFiles(), p.log)
	if c.Access.Totals > 0 {
		p.totals = newTotals(c.TotalsFile(), time.Duration(c.Access.Totals), p.access.listed, p.log)
		settings.OnSessionEnd = p.totals.noteEnd
	}
	p.directory = settings.Directory
	if p.directory != nil {
		resolveDirectory(ctx, p.directory, p.log)
	}
	g, inherited, err := p.open(ctx, settings)
	if err != nil {
		return err
	}
	return p.serve(ctx, g, inherited)
}

// open starts the gateway, or takes it over together with the returned files.
func (p *Process) open(ctx context.Context, settings router.Config) (g *router.Gateway, inherited map[string]*os.File, err error) {
	if p.predecessor == nil {
		p.totals.load(false)
		if err := p.registration.open(ctx, 0); err != nil {
			return nil, nil, err
		}
		g, err = router.Start(settings)
	} else if g, inherited, err = router.TakeOver(ctx, settings, p.predecessor); err != nil {
		p.predecessor.Close()
		p.predecessor = nil // TakeOver has sent the reason
	}
	if err == nil {
		p.registration.count(g.Meter())
	}
	return g, inherited, err
}

func (p *Process) serve(ctx context.Context, g *router.Gateway, inherited map[string]*os.File) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer func() {
		cancel()
		running.Wait()
	}()
	p.start = running.Go
	err := p.announceReady(ctx, g, inherited)
	if err == nil {
		p.access.watch(ctx, g, p.start)
		p.start(func() { p.bounded.serve(ctx) })
		p.start(func() { p.issuers.run(ctx) })
		if p.predecessor != nil && p.registration != nil {
			p.start(func() { p.registration.openBeside(ctx) })
		}
		if p.totals != nil {
			p.start(func() { p.totals.run(ctx, g) })
		}
		if p.directory != nil {
			p.start(func() {
				p.directory.Watch(ctx, func() {
					resolveDirectory(ctx, p.directory, p.log)
					g.ReapplyDirectory()
				})
			})
		}
		p.start(func() { p.egress.watch(ctx, p.log, func() { g.ReapplyPolicy() }) })
		var handedOver bool
		if handedOver, err = p.serveSignals(ctx, g); handedOver {
			// The exit of the process releases the rest. Closing it here would take processor time
			// from the successor.
			p.closeServers()
			return err
		}
	}
	if p.removeControl != nil {
		p.removeControl()
	}
	p.notify("STOPPING=1")
	p.shutdown(g)
	return err
}

// shutdown closes all sessions and stops the gateway.
func (p *Process) shutdown(g *router.Gateway) {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	p.registration.stopDevice() // whose last traffic the gateway records
	notified, sessions := g.Shutdown(ctx)
	p.totals.close()
	p.registration.close()
	if notified < sessions {
		p.log.Warn("not all clients were notified of the end", zap.Float64("timeout_seconds", shutdownTimeout.Seconds()))
	}
	p.log.Info("stopped", zap.Int("sessions_closed", sessions), zap.Int("clients_notified", notified))
}

// announceReady serves metrics, prints the URIs, logs "ready" and notifies systemd.
func (p *Process) announceReady(ctx context.Context, g *router.Gateway, inherited map[string]*os.File) error {
	defer closeFiles(inherited)
	a := advertise(g, p.config)
	p.advertised.Store(a)
	if p.predecessor != nil {
		stats := g.Stats()
		p.history.noteUpgrade(&Upgraded{At: p.started, From: p.parent, To: os.Getpid(), Sessions: int(stats.Sessions), Flows: int(stats.Flows)})
	}
	metricsErr := p.serveMetrics(ctx, g, inherited)
	p.serveControl(ctx, g, inherited)
	if p.predecessor == nil {
		if metricsErr != nil {
			return metricsErr
		}
		if err := p.OnReady(a); err != nil { // its reader may have ended
			p.log.Warn("cannot print the URIs", zap.Error(err))
		}
	} else {
		if metricsErr != nil { // the sessions that were taken over must not end for this
			p.log.Error("cannot serve metrics", zap.Error(metricsErr))
		}
		if err := awaitExit(p.predecessor); err != nil {
			p.log.Warn("handover connection closed unexpectedly", zap.Error(err))
		}
		p.totals.load(true) // which the predecessor has written last of all
	}
	if a.loopbackOnly {
		p.log.Warn(`no global address: the URI works on this machine only; set "public" in the configuration to the name or address that clients use`)
	}
	p.log.Info("ready", zap.Strings("uris", a.URIs), zap.Strings("listen", a.Listen), zap.Strings("listen_tcp", a.ListenTCP), zap.String("access", a.Access))
	p.notify("READY=1")
	return nil
}

// notify reports a state to systemd; a failure is logged.
func (p *Process) notify(state string) {
	if err := Notify(state); err != nil {
		p.log.Warn("cannot notify systemd", zap.Error(err))
	}
}

// serveSignals handles reload and upgrade signals until ctx is done or a successor has taken over.
func (p *Process) serveSignals(ctx context.Context, g *router.Gateway) (handedOver bool, err error) {
	return p.handleSignals(ctx,
		func() { p.reload(ctx, g) },
		func(ctx context.Context) (successor, error) { return p.upgrade(ctx, g) })
}

// successor is a process that has taken over.
type successor interface{ Signal(os.Signal) error }

// handleSignals is serveSignals with its two actions. It answers other signals during an upgrade, which
// takes as long as the successor does, and passes on to the successor those that it may have missed.
func (p *Process) handleSignals(ctx context.Context, reload func(), upgrade func(context.Context) (successor, error)) (handedOver bool, err error) {
	type result struct {
		next successor
		err  error
	}
	var (
		signals  = p.signals.upgrade // nil during an upgrade: the next one waits
		results  = make(chan result, 1)
		slow     <-chan time.Time
		reloaded bool       // during the upgrade
		waiting  chan error // of the command to upgrade; nil: a signal's
	)
	start := func() {
		ctx, cancel := context.WithTimeoutCause(ctx, upgradeTimeout, fmt.Errorf("the successor has not taken over within %v", upgradeTimeout))
		next, err := upgrade(ctx)
		cancel()
		results <- result{next, err}
	}
	begin := func() {
		signals, slow, reloaded = nil, time.After(upgradeSlow), false
		p.start(start)
	}
	answer := func(err error) {
		if waiting != nil {
			waiting <- err
			waiting = nil
		}
	}
	for {
		var r result
		select {
		case c := <-p.commands:
			switch {
			case !c.upgrade:
				reload()
				reloaded = true
				c.done <- nil
			case signals == nil:
				c.done <- errors.New("an upgrade is under way")
			default:
				waiting = c.done
				begin()
			}
			continue
		case <-ctx.Done():
			if signals != nil {
				return false, nil
			}
			r = <-results // the end of ctx fails the upgrade, unless the successor owns the sessions
			if r.err != nil && !errors.Is(r.err, router.ErrLost) {
				return false, nil
			}
		case <-p.signals.reload:
			reload()
			reloaded = true
			continue
		case <-signals:
			begin()
			continue
		case <-slow:
			p.log.Warn("the successor has not taken over yet", zap.Float64("waited_seconds", upgradeSlow.Seconds()), zap.Float64("timeout_seconds", upgradeTimeout.Seconds()))
			continue
		case r = <-results:
			signals, slow = p.signals.upgrade, nil
		}
		answer(r.err)
		switch {
		case errors.Is(r.err, router.ErrLost):
			return true, r.err
		case r.err != nil:
			p.history.noteUpgrade(&Upgraded{At: time.Now(), Error: r.err.Error(), From: os.Getpid()})
			p.log.Error("upgrade failed; keeping this process", zap.Error(r.err))
			continue
		}
		if reloaded { // the successor may have read the configuration before
			_ = r.next.Signal(syscall.SIGHUP) // it may have ended
		}
		if ctx.Err() != nil {
			_ = r.next.Signal(syscall.SIGTERM)
		}
		return true, nil
	}
}

// loadIdentity reads the gateway's identity. If the configuration names no file, it is created on the
// first start.
func loadIdentity(c *config.Config, log *zap.Logger) (*identity.PrivateKey, error) {
	path := c.IdentityFile()
	if c.Identity != "" {
		return identity.Load(path)
	}
	key, created, err := config.LoadOrCreateIdentity(path)
	if created {
		log.Info("created the gateway's identity", zap.String("file", path), zap.Stringer("identity", key.Public()))
	}
	return key, err
}

func resolveDirectory(ctx context.Context, d *router.Directory, log *zap.Logger) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	if err := d.Refresh(ctx); err != nil {
		log.Warn("cannot resolve a gateway of the directory; forwarding to it fails until that succeeds", zap.Error(err))
	}
}
