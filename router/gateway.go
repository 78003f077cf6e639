package router

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"lewes/crypto/identity"
	"lewes/router/account"
	"lewes/router/egress"
	"lewes/router/meter"
	"lewes/router/unlisted"
	"lewes/state"
	"lewes/state/wire"
	"lewes/transport/tcp"
	"lewes/transport/udp"
)

// Gateway is a running gateway.
type Gateway struct {
	config   Config
	limits   atomic.Pointer[Limits]
	budgets  *state.GatewayBudgets
	accounts *account.Book
	meter    *meter.Book // nil: nothing is counted
	log      *zap.Logger
	listener *udp.Listener
	tcp      *tcp.Listener // nil: TCP is not served
	shards   []*Shard
	kems     *state.KEMKeys
	sockets  udp.Counters  // of the sockets towards clients
	egress   udp.Counters  // of the sockets towards targets and other gateways
	ports    *egress.Ports // of those sockets; nil with a Config.Egress of its own
	memory   memory
	queued   atomic.Int64 // bytes that wait for sessions on TCP
	wall     wallClock

	shortages shortages
	unlisted  unlisted.Book
	draining  atomic.Bool
	measured  atomic.Int64 // last MeasureRTT, Unix nanoseconds

	inputs      []input
	readers     sync.WaitGroup
	returnLoops sync.WaitGroup
	background  sync.WaitGroup
	stop        context.CancelFunc
	stopMeter   func() // nil: the meter does not run
}

// Start binds the gateway's addresses and serves them until Shutdown or Close. It fails when no
// address can be bound; if only some cannot, it logs them.
func Start(config Config) (*Gateway, error) {
	g, err := newGateway(config)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	g.stop = stop
	if err := g.open(ctx, nil); err != nil {
		stop()
		return nil, err
	}
	g.serve(ctx)
	return g, nil
}

// newGateway returns a gateway without sockets.
func newGateway(config Config) (*Gateway, error) {
	if err := config.fill(); err != nil {
		return nil, err
	}
	kems, err := state.NewKEMKeys(config.Clock(), config.KEMs, config.Rand)
	if err != nil {
		return nil, err
	}
	g := &Gateway{config: config, log: config.Logger, kems: kems, memory: memory{read: readMemory, collect: runtime.GC}}
	g.limits.Store(config.Limits.withDefaults())
	g.accounts = g.newAccounts()
	g.meter = g.newMeter()
	if g.budgets, err = state.NewGatewayBudgets(config.Clock(), g.handshakeConfig(), config.Shards); err != nil {
		return nil, err
	}
	if g.config.Egress == nil {
		g.ports = egress.NewPorts(config.Ports, config.Clock)
		g.config.Egress = &egress.UDP{Options: udp.Options{
			NoGSO:    config.Listen.NoGSO,
			NoGRO:    config.Listen.NoGRO,
			Portable: config.Listen.Portable,
			Counters: &g.egress,
		}, Ports: g.ports}
	}
	return g, nil
}

// newAccounts returns the gateway's accounts, which follow its limits and its list of clients.
func (g *Gateway) newAccounts() *account.Book {
	return account.NewBook(
		func() (gateway, each account.Bounds) { return g.limits.Load().accountBounds() },
		func(id identity.PublicKey) account.Limits { return g.config.standing(id).Limits },
	)
}

// open creates the shards with newly bound sockets, or with those of a predecessor.
func (g *Gateway) open(ctx context.Context, from *takeoverHello) error {
	listen, err := g.listenConfig(from)
	if err != nil {
		return err
	}
	var listener *udp.Listener
	if from == nil {
		listener, err = udp.Listen(ctx, listen)
	} else {
		listener, err = udp.Inherit(listen, from.udp)
	}
	if err != nil {
		return err
	}
	for _, failed := range listener.Failed {
		g.log.Warn("cannot serve an address over UDP", zap.Error(failed))
	}
	g.listener = listener
	handshake := g.handshakeConfig()
	for i := range g.config.Shards {
		out, conns := socketsOf(listener, i)
		s, err := newShard(g, i, listen.Steer, handshake, out)
		if err != nil {
			_ = listener.Close()
			return err
		}
		g.shards = append(g.shards, s)
		if !listen.Portable {
			g.addReturnLoop(s)
		}
		for _, conn := range conns {
			g.inputs = append(g.inputs, input{s, conn})
		}
	}
	if from == nil {
		g.listenTCP(ctx, nil)
	}
	return nil
}

// listenConfig returns the configuration of the UDP sockets. The steering of a predecessor stays,
// because its sessions live in the shards that it selects.
func (g *Gateway) listenConfig(from *takeoverHello) (udp.Config, error) {
	listen := g.config.Listen
	listen.Counters = &g.sockets
	if listen.Notify == nil {
		listen.Notify = func(e udp.Event) {
			g.log.Warn("UDP socket is degraded", zap.Stringer("condition", e.Kind), zap.Stringer("listen", e.Local), zap.String("detail", e.Detail), zap.Error(e.Err))
		}
	}
	if from != nil {
		listen.Steer = from.steer
		return listen, nil
	}
	var secret [4]byte
	if _, err := g.config.Rand.Read(secret[:]); err != nil {
		return listen, fmt.Errorf("router: drawing the steering secret: %w", err)
	}
	listen.Steer = udp.Steer{Secret: binary.LittleEndian.Uint32(secret[:]), Shards: g.config.Shards}
	return listen, nil
}

// handshakeConfig returns the configuration that the shards' responders share. The
// bounds are those of the gateway.
func (g *Gateway) handshakeConfig() *state.GatewayConfig {
	c := &g.config
	return &state.GatewayConfig{
		Budgets:         g.budgets,
		Identity:        c.Identity,
		KEMs:            g.kems,
		Suites:          c.Suites,
		Tolerance:       c.Tolerance,
		Admit:           func(id identity.PublicKey) bool { return c.standing(id).Admitted },
		Trusted:         c.Directory.Trusts,
		Full:            g.memory.short.Load,
		WallClock:       g.wall.corrected,
		MaxHandshakes:   c.MaxRecords,
		HandshakeTTL:    c.RecordTTL,
		Memory:          int64(c.HandshakeMemory),
		CookieThreshold: c.TriesASecond,
		Rate:            c.Rate,
		Burst:           c.Burst,
		TrustedRate:     c.TrustedRate,
		Session: state.SessionConfig{
			Rand:      c.Rand,
			Terms:     c.Terms,
			MaxPacket: maxPacket,
		},
	}
}

// serve starts the readers, the return loops and the background work.
func (g *Gateway) serve(ctx context.Context) {
	for _, s := range g.shards {
		g.startReturnLoop(s)
	}
	g.startReaders()
	g.runMeter()
	g.background.Go(func() { g.renewKeys(ctx) })
	changed := make(chan struct{}, 1)
	g.background.Go(func() { g.watchNetwork(ctx, changed) })
	g.background.Go(func() { g.refreshPolicy(ctx, changed) })
	g.background.Go(func() { g.watchMemory(ctx) })
	if g.config.Wall != nil {
		g.background.Go(func() { g.watchClock(ctx) })
	}
	if g.config.Directory != nil {
		g.background.Go(func() { g.refreshDirectory(ctx) })
	}
}

// Addrs returns the UDP addresses that the gateway serves.
func (g *Gateway) Addrs() []netip.AddrPort {
	var addrs []netip.AddrPort
	for _, group := range g.listener.Groups {
		addrs = append(addrs, group.Addr)
	}
	return addrs
}

// TCPAddrs returns the TCP addresses that the gateway serves.
func (g *Gateway) TCPAddrs() []netip.AddrPort {
	if g.tcp == nil {
		return nil
	}
	var addrs []netip.AddrPort
	for _, group := range g.tcp.Groups {
		addrs = append(addrs, group.Addr)
	}
	return addrs
}

// Identity returns the gateway's public identity.
func (g *Gateway) Identity() identity.PublicKey { return g.config.Identity.Public() }

// Unlisted returns the identities refused in the last hour because they are not listed, the latest first.
func (g *Gateway) Unlisted() []unlisted.Entry { return g.unlisted.All(g.config.Clock()) }

// Socket describes one of the gateway's UDP sockets towards clients.
type Socket struct {
	Addr                      netip.AddrPort
	Shard                     int
	ReceiveBuffer, SendBuffer udp.Buffer
	GSO, GRO                  udp.Offload
}

// Sockets returns the gateway's UDP sockets towards clients.
func (g *Gateway) Sockets() []Socket {
	var all []Socket
	for _, group := range g.listener.Groups {
		for i, conn := range group.Conns {
			s := conn.Stats()
			all = append(all, Socket{group.Addr, i, s.ReceiveBuffer, s.SendBuffer, s.GSO, s.GRO})
		}
	}
	return all
}

// Traffic returns the counters of the UDP sockets towards clients, and of those towards targets
// and other gateways.
func (g *Gateway) Traffic() (clients, egress udp.Stats) {
	return g.sockets.Stats(), g.egress.Stats()
}

// TCP returns the counters of the TCP port; zero if it is not served.
func (g *Gateway) TCP() tcp.Stats {
	if g.tcp == nil {
		return tcp.Stats{}
	}
	return g.tcp.Stats()
}

// Stats returns the sum of all shards' counters.
func (g *Gateway) Stats() Stats {
	var sum Stats
	for _, s := range g.shards {
		one := s.Stats()
		sum.add(&one)
	}
	sum.MemoryUsed, sum.MemoryLimit = g.memory.used.Load(), g.memory.limit.Load()
	sum.QueuedBytes = uint64(g.queued.Load())
	sum.HandshakeMemory = uint64(g.budgets.Memory(state.Proved))
	sum.HandshakeOthers = uint64(g.budgets.Memory(state.Unproved))
	sum.ClockJumps = g.wall.jumps.Load()
	sum.LedgerUp = 1
	if r := g.config.Registration.Registrar; r != nil {
		if r.LedgerErr() != nil {
			sum.LedgerUp = 0
		}
		sum.RegistrationsUnderWay = uint64(r.UnderWay())
	}
	g.addMeterStats(&sum)
	return sum
}

// Close stops serving without notifying clients. It returns when every goroutine of the gateway
// has ended.
func (g *Gateway) Close() {
	g.stop()
	_ = g.listener.Close()
	if g.tcp != nil {
		_ = g.tcp.Close()
	}
	g.readers.Wait()
	for _, s := range g.shards {
		s.close()
	}
	g.returnLoops.Wait()
	for _, s := range g.shards {
		if s.returns != nil {
			s.returns.poller.Close()
		}
	}
	g.background.Wait()
	g.closeMeter()
}

// listenTCP serves the gateway's TCP port, with the listeners of a predecessor if there are any; it
// owns them. A gateway that cannot bind the port serves UDP alone.
func (g *Gateway) listenTCP(ctx context.Context, inherited []*net.TCPListener) {
	if !g.config.TCP.On {
		for _, listener := range inherited {
			_ = listener.Close()
		}
		return
	}
	steer := g.shards[0].steer
	listen := g.config.TCP.Listen
	listen.Inherited = inherited
	listen.Shards = g.config.Shards
	listen.Steer = func(packet []byte) int {
		index, _ := wire.ReceiverIdx(packet)
		return steer.Shard(index)
	}
	listen.MaxAnswer = g.config.TCP.MaxHeld + answerRoom
	if listen.Notify == nil {
		listen.Notify = func(err error) { g.log.Warn("TCP listener is degraded", zap.Error(err)) }
	}
	listener, err := tcp.Listen(ctx, listen)
	if err != nil {
		g.log.Warn("cannot serve TCP; clients in networks that block UDP cannot reach this gateway", zap.Error(err))
		return
	}
	for _, failed := range listener.Failed {
		g.log.Warn("cannot serve an address over TCP", zap.Error(failed))
	}
	g.tcp = listener
	for i, s := range g.shards {
		s.queues.out = listener.Shards[i]
		g.inputs = append(g.inputs, input{s, listener.Shards[i]})
	}
}
