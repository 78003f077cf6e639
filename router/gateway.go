package router

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"time"

	"go.uber.org/zap"

	"lewes/crypto/identity"
	"lewes/crypto/seal"
	"lewes/state"
	"lewes/state/wire"
	"lewes/transport"
	"lewes/transport/tcp"
	"lewes/transport/udp"
)

// batchSize is how many trains a shard reads at once.
const batchSize = 32

// defaultMaxPacket fits an MTU of 1500 under IPv6 and UDP headers.
const defaultMaxPacket = 1452

// How often the directory's names are resolved again, and the host's own
// addresses read again, which the policy denies.
const (
	resolveEvery = 5 * time.Minute
	addressEvery = time.Minute
)

// Gateway is a running gateway.
type Gateway struct {
	config   Config
	log      *zap.Logger
	listener *udp.Listener
	tcp      *tcp.Listener // nil: not served
	shards   []*Shard
	kems     *state.KEMKeys
	sockets  udp.Counters // towards clients
	egress   udp.Counters // towards targets and other gateways
	memory   memory
	wall     wallClock

	feeds   []feed // what the readers read
	readers sync.WaitGroup
	pumps   sync.WaitGroup
	chores  sync.WaitGroup
	stop    context.CancelFunc
}

// feed is a socket whose packets go to a shard.
type feed struct {
	shard *Shard
	conn  transport.Conn
}

// Start binds the gateway's addresses and serves them until Shutdown or Close.
// It fails when no address can be bound; one of several that cannot is logged.
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
	if g.config.Egress == nil {
		g.config.Egress = &UDPEgress{Options: udp.Options{
			NoGSO:    config.Listen.NoGSO,
			NoGRO:    config.Listen.NoGRO,
			Portable: config.Listen.Portable,
			Counters: &g.egress,
		}}
	}
	return g, nil
}

// serve begins to read, and does beside it what there is to do.
func (g *Gateway) serve(ctx context.Context) {
	for _, s := range g.shards {
		g.startReturning(s)
	}
	g.startReaders()
	g.chore(func() { g.renewKeys(ctx) })
	g.chore(func() { g.refreshPolicy(ctx) })
	g.chore(func() { g.watchMemory(ctx) })
	if g.config.Wall != nil {
		g.chore(func() { g.watchClock(ctx) })
	}
	if g.config.Directory != nil {
		g.chore(func() { g.refreshDirectory(ctx) })
	}
}

func (g *Gateway) startReaders() {
	for _, f := range g.feeds {
		g.readers.Add(1)
		go g.read(f.shard, f.conn)
	}
}

// fill sets what the configuration leaves open.
func (c *Config) fill() error {
	switch {
	case c.Identity == nil:
		return errors.New("router: a gateway needs an identity")
	case c.Policy == nil:
		return errors.New("router: a gateway needs an egress policy")
	case len(c.KEMs) == 0:
		return errors.New("router: a gateway needs at least one KEM")
	}
	if n := c.Terms.MaxDatagram; n != 0 && n < wire.MaxHandshakeDatagram {
		return fmt.Errorf("router: max_datagram %d is too small for a handshake: use at least %d", n, wire.MaxHandshakeDatagram)
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Rand == nil {
		c.Rand = rand.Reader
	}
	if c.Clock == nil {
		start := time.Now()
		c.Clock = func() time.Time { return start.Add(time.Since(start)) }
		if c.Wall == nil {
			c.Wall = time.Now
		}
	}
	if c.Resolver == nil {
		c.Resolver = net.DefaultResolver
	}
	c.Terms.IdleTTL = or(c.Terms.IdleTTL, 24*time.Hour)
	c.Terms.RekeyAfter = or(c.Terms.RekeyAfter, 15*time.Minute)
	c.Terms.MaxDatagram = min(or(c.Terms.MaxDatagram, wire.MaxUDPPacket), wire.MaxUDPPacket)
	c.MaxPacket = or(c.MaxPacket, defaultMaxPacket)
	c.Suites = or(c.Suites, seal.Offer())
	c.Shards = or(c.Shards, runtime.GOMAXPROCS(0))
	return nil
}

// open makes the shards, with sockets that it binds, or with those of a predecessor.
func (g *Gateway) open(ctx context.Context, from *bequest) error {
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
		g.log.Warn("an address cannot be served", zap.Error(failed))
	}
	g.listener = listener
	handshake := g.handshakeConfig()
	for i := range g.config.Shards {
		out, conns := socketsOf(listener, i)
		s, err := newShard(i, listen.Steer, &g.config, handshake, out, g.config.Clock, &g.pumps)
		if err != nil {
			_ = listener.Close()
			return err
		}
		g.shards = append(g.shards, s)
		if !listen.Portable {
			g.returnByLoop(s)
		}
		for _, conn := range conns {
			g.feeds = append(g.feeds, feed{s, conn})
		}
	}
	if from == nil {
		g.listenTCP(ctx, nil)
	}
	return nil
}

// listenConfig is how the gateway's sockets are to be. The steering goes on as it was
// with a predecessor: its sessions live where it sends them.
func (g *Gateway) listenConfig(from *bequest) (udp.Config, error) {
	listen := g.config.Listen
	listen.Counters = &g.sockets
	if listen.Notify == nil {
		listen.Notify = func(e udp.Event) { g.log.Warn(e.String()) }
	}
	if from != nil {
		listen.Steer = from.steer
		return listen, nil
	}
	var secret [4]byte
	if _, err := g.config.Rand.Read(secret[:]); err != nil {
		return listen, fmt.Errorf("drawing the steering secret: %w", err)
	}
	listen.Steer = udp.Steer{Secret: binary.LittleEndian.Uint32(secret[:]), Shards: g.config.Shards}
	return listen, nil
}

// startReturning runs a shard's loop until it is stopped.
func (g *Gateway) startReturning(s *Shard) {
	if s.returns == nil {
		return
	}
	s.pumps.Add(1)
	go func() {
		defer s.pumps.Done()
		if err := s.returns.run(); err != nil {
			g.log.Error("nothing comes back to this shard's clients any more", zap.Int("shard", s.id), zap.Error(err))
		}
	}()
}

// returnByLoop makes the loop that brings back what a shard's flows are answered. Where
// there is none, each flow has a pump.
func (g *Gateway) returnByLoop(s *Shard) {
	loop, err := newReturnLoop(s)
	if err == nil {
		s.returns = loop
		return
	}
	if !errors.Is(err, errors.ErrUnsupported) {
		g.log.Warn("flows' sockets cannot be polled together; each has a goroutine of its own", zap.Int("shard", s.id), zap.Error(err))
	}
}

func (g *Gateway) handshakeConfig() *state.GatewayConfig {
	c := &g.config
	shards := float64(c.Shards)
	return &state.GatewayConfig{
		Identity:        c.Identity,
		KEMs:            g.kems,
		Suites:          c.Suites,
		Tolerance:       c.Tolerance,
		Admit:           c.Admit,
		Trusted:         c.Directory.Trusts,
		Full:            g.memory.short.Load,
		WallClock:       g.wall.corrected,
		MaxHandshakes:   max(1, or(c.MaxRecords, 1<<16)/c.Shards),
		HandshakeTTL:    c.RecordTTL,
		MaxEarlyBytes:   or(c.MaxEarly, 64<<20) / c.Shards,
		CookieThreshold: max(1, or(c.TriesASecond, 500)/c.Shards),
		// A source's hellos spread over the shards by their random index.
		Rate:        or(c.Rate, 20) / shards,
		Burst:       max(1, (or(c.Burst, 40)+c.Shards-1)/c.Shards),
		TrustedRate: or(c.TrustedRate, 1000) / shards,
		Session: state.SessionConfig{
			Rand:         c.Rand,
			Terms:        c.Terms,
			RekeyPackets: c.RekeyPackets,
			DemotedTTL:   c.DemotedTTL,
			MaxPacket:    c.MaxPacket,
		},
	}
}

// read feeds a shard from one of its sockets until the socket is closed or the
// gateway pauses, which lets the datagrams wait in the socket.
func (g *Gateway) read(s *Shard, conn transport.Conn) {
	defer g.readers.Done()
	if g.config.Pin {
		if err := pin(s.id); err != nil {
			g.log.Warn("a shard cannot be pinned to a processor; it runs where the system puts it", zap.Int("shard", s.id), zap.Error(err))
		}
	}
	batch := make([]transport.Packet, batchSize)
	var elsewhere []transport.Packet
	for {
		n, err := conn.ReadBatch(batch)
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		now := g.config.Clock()
		elsewhere = s.Receive(now, batch[:n], elsewhere[:0])
		if len(elsewhere) > 0 {
			g.handOver(elsewhere)
		}
	}
}

// handOver gives packets to the shards that own them: by reference, in batches,
// in the goroutine that has read them. Its own shard's turn is over by then.
func (g *Gateway) handOver(packets []transport.Packet) {
	for _, s := range g.shards {
		var batch [64]transport.Packet
		mine := batch[:0]
		for _, p := range packets {
			index, _ := wire.ReceiverIdx(p.Data)
			if s.steer.Shard(index) != s.id {
				continue
			}
			if mine = append(mine, p); len(mine) == cap(mine) {
				s.receiveFromElsewhere(g.config.Clock(), mine)
				mine = mine[:0]
			}
		}
		if len(mine) > 0 {
			s.receiveFromElsewhere(g.config.Clock(), mine)
		}
	}
}

func (s *Shard) receiveFromElsewhere(now time.Time, batch []transport.Packet) {
	s.Receive(now, batch, nil)
	s.mu.Lock()
	s.counters.HandedOver += uint64(len(batch))
	s.mu.Unlock()
}

// chore runs f beside the shards until the gateway is closed.
func (g *Gateway) chore(f func()) {
	g.chores.Add(1)
	go func() {
		defer g.chores.Done()
		f()
	}()
}

// renewKeys renews the KEM keys when they are due.
func (g *Gateway) renewKeys(ctx context.Context) {
	for {
		next, err := g.kems.Tick(g.config.Clock())
		if err != nil {
			g.log.Error("the KEM keys could not be renewed", zap.Error(err))
		}
		if !sleep(ctx, next.Sub(g.config.Clock())) {
			return
		}
	}
}

func (g *Gateway) refreshPolicy(ctx context.Context) {
	for sleep(ctx, addressEvery) {
		if err := g.config.Policy.Refresh(); err != nil {
			g.log.Warn("the host's own addresses cannot be read; those known are denied", zap.Error(err))
		}
	}
}

func (g *Gateway) refreshDirectory(ctx context.Context) {
	for sleep(ctx, resolveEvery) {
		if err := g.config.Directory.Refresh(ctx); err != nil {
			g.log.Warn("a gateway of the directory cannot be resolved; its last address is used", zap.Error(err))
		}
	}
}

// sleep waits for d and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(max(d, 0))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// Addrs returns the addresses that the gateway serves.
func (g *Gateway) Addrs() []netip.AddrPort {
	var addrs []netip.AddrPort
	for _, group := range g.listener.Groups {
		addrs = append(addrs, group.Addr)
	}
	return addrs
}

// Identity returns the gateway's public identity.
func (g *Gateway) Identity() identity.PublicKey { return g.config.Identity.Public() }

// Stats sums up the figures of all shards.
func (g *Gateway) Stats() Stats {
	var sum Stats
	for _, s := range g.shards {
		one := s.Stats()
		sum.add(&one)
	}
	sum.MemoryUsed, sum.MemoryLimit = g.memory.used.Load(), g.memory.limit.Load()
	sum.ClockJumps = g.wall.jumps.Load()
	return sum
}

// Socket is what one of the gateway's own sockets has been granted.
type Socket struct {
	Addr                      netip.AddrPort
	Shard                     int
	ReceiveBuffer, SendBuffer udp.Buffer
	GSO, GRO                  udp.Offload
}

// Sockets returns the gateway's own sockets.
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

// Traffic returns what passed the gateway's own sockets, and those towards targets
// and other gateways.
func (g *Gateway) Traffic() (clients, egress udp.Stats) {
	return g.sockets.Stats(), g.egress.Stats()
}

// Readmit closes the sessions of clients that are not admitted any more; the
// owner calls it when who is admitted has changed.
func (g *Gateway) Readmit() (closed int) {
	if g.config.Admit == nil {
		return 0
	}
	for _, s := range g.shards {
		closed += s.CloseUnless(func(t *state.Session) bool { return g.config.Admit(t.Peer()) })
	}
	return closed
}

// Shutdown closes every session, tells the clients so, and stops serving. It
// returns the number of sessions closed.
func (g *Gateway) Shutdown() (sessions int) {
	for _, s := range g.shards {
		sessions += s.Shutdown(wire.CloseShuttingDown, "the gateway is shutting down")
	}
	g.Close()
	return sessions
}

// Close stops serving at once and tells nobody. It waits until every goroutine of
// the gateway has ended.
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
	g.pumps.Wait()
	for _, s := range g.shards {
		if s.returns != nil {
			s.returns.poller.Close()
		}
	}
	g.chores.Wait()
}

// close ends what the shard still runs: its alarm, its flows, its ways to other
// gateways.
func (s *Shard) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true // whoever still comes back, with a name perhaps, comes too late
	s.alarm.Stop()
	s.down.stop()
	s.sessions.All(func(t *state.Session) { s.turnForget(t) })
	for s.turnCloseOne(time.Time{}) {
	}
	for _, n := range s.nexts {
		_ = n.conn.Close()
	}
	if s.returns != nil {
		s.returns.poller.Stop()
	}
}
