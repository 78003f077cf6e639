package tcp

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"lewes/transport"
)

// Defaults of Config. Section 12 of PROTOCOL.md defines the first five.
const (
	DefaultMaxConnections = 10_000
	DefaultMaxPerSource   = 64
	DefaultReceiveTimeout = 5 * time.Second
	DefaultWriteTimeout   = 5 * time.Second
	DefaultMaxAnswer      = 256 << 10
	DefaultMaxReceiving   = 64 << 20
	DefaultMaxUnread      = 64 << 20
)

// closeGrace is how long Close lets peers read answers that are already queued.
const closeGrace = 250 * time.Millisecond

// Config configures Listen. A bound of zero means its default.
type Config struct {
	// Addrs are the addresses to bind; empty means every address of both families, as does an entry
	// without an address (netip.AddrPort{}). Entries with port 0 use Port.
	Addrs []netip.AddrPort
	// Port is the default port of Addrs. With 0 the system chooses one, the same for both families.
	Port uint16
	// Inherited are listeners bound by another process. The Listener owns them, including those
	// whose address is not in Addrs, and does not bind their addresses again.
	Inherited []*net.TCPListener

	// Shards is the number of ShardListeners, at least 1. On Linux each address has as
	// many sockets, among which the kernel distributes connections.
	Shards int
	// Steer returns the shard of a packet; nil means shard 0. It is called
	// concurrently and must not retain the packet.
	Steer func(packet []byte) int

	// MaxConnections and MaxPerSource bound the open connections, in total and per
	// source: an IPv4 address or an IPv6 /64. At a bound, the oldest connection without
	// an authentic packet is reset: of the source, or of the IPv4 address or IPv6 /48 with
	// most of them. A new connection is reset if there is none.
	MaxConnections, MaxPerSource int
	// ReceiveTimeout is the lifetime of a connection unless End or Hold changes it. It
	// includes the time to receive the packet.
	ReceiveTimeout time.Duration
	// WriteTimeout is how long the peer may take to read all its answers.
	WriteTimeout time.Duration
	// MaxAnswer bounds the bytes queued for one connection, length prefixes included.
	MaxAnswer int
	// MaxReceiving bounds the bytes of all receive buffers, including packets that wait
	// for ReadBatch. A quarter is reserved for packets of datagram size. A connection
	// that would exceed it is closed.
	MaxReceiving int

	// MaxUnread bounds the bytes of all send buffers: answers that the peers have not read.
	// The connections with most are reset.
	MaxUnread int

	// Notify receives warnings for the operator, at most one every 10 s. It must not
	// block, and may be nil.
	Notify func(error)
}

func (c *Config) setDefaults() {
	c.Shards = max(1, c.Shards)
	c.MaxConnections = cmp.Or(c.MaxConnections, DefaultMaxConnections)
	c.MaxPerSource = cmp.Or(c.MaxPerSource, DefaultMaxPerSource)
	c.ReceiveTimeout = cmp.Or(c.ReceiveTimeout, DefaultReceiveTimeout)
	c.WriteTimeout = cmp.Or(c.WriteTimeout, DefaultWriteTimeout)
	c.MaxAnswer = cmp.Or(c.MaxAnswer, DefaultMaxAnswer)
	c.MaxReceiving = cmp.Or(c.MaxReceiving, DefaultMaxReceiving)
	c.MaxUnread = cmp.Or(c.MaxUnread, DefaultMaxUnread)
	if c.Steer == nil {
		c.Steer = func([]byte) int { return 0 }
	}
	if c.Notify == nil {
		c.Notify = func(error) {}
	}
}

// Listener accepts connections on all bound addresses. Close also closes its connections.
type Listener struct {
	Shards []*ShardListener
	// Groups has one entry per bound address, Failed one per address that could not be bound.
	Groups []Group
	Failed []*transport.BindError

	// Immutable after Listen.
	config Config

	// Safe for concurrent use.
	counters   counters
	conns      connTable
	places     places
	budget     bufferBudget
	unread     unreadBudget
	lastConn   atomic.Uint64 // number of the newest connection
	notifiedAt atomic.Int64  // last call of Notify, in Unix nanoseconds

	stopped   chan struct{} // closed when accepting ends
	closed    chan struct{}
	stopOnce  sync.Once
	acceptors sync.WaitGroup
	serving   sync.WaitGroup

	mu   sync.Mutex
	open map[*serverConn]struct{} // guarded by mu; nil after Close
}

// Group is the set of listeners on one address.
type Group struct {
	Addr      netip.AddrPort
	Listeners []*net.TCPListener
	// FastOpen reports whether the kernel accepts data in the SYN (RFC 7413).
	FastOpen bool
}

// Listen binds the configured addresses and starts accepting. It succeeds if at least
// one address is bound or inherited; Listener.Failed describes the others. Otherwise the
// error joins the failures of all addresses.
func Listen(ctx context.Context, config Config) (*Listener, error) {
	config.setDefaults()
	groups, err := groupInherited(config.Inherited)
	if err != nil {
		return nil, err
	}
	l := &Listener{
		config:  config,
		places:  newPlaces(config.MaxConnections, config.MaxPerSource),
		budget:  bufferBudget{limit: int64(config.MaxReceiving)},
		unread:  unreadBudget{limit: config.MaxUnread},
		open:    make(map[*serverConn]struct{}),
		stopped: make(chan struct{}),
		closed:  make(chan struct{}),
	}
	l.bind(ctx, groups)
	// A port that the system chose for one family may be taken in the other.
	for tries := 0; config.Port == 0 && len(config.Addrs) == 0 && len(groups) == 0 && tries < 8 && transport.PortTaken(l.Failed); tries++ {
		l.closeListeners()
		l.bind(ctx, nil)
	}
	if len(l.Groups) == 0 {
		return nil, transport.BindFailed(l.Failed)
	}
	for range config.Shards {
		l.Shards = append(l.Shards, newShardListener(l))
	}
	l.startAccepting()
	return l, nil
}

// groupInherited groups inherited listeners by address.
func groupInherited(listeners []*net.TCPListener) ([]Group, error) {
	var groups []Group
next:
	for _, listener := range listeners {
		at := addrPort(listener.Addr())
		if !at.IsValid() {
			return nil, errors.New("tcp: inherited listener has no address")
		}
		for i := range groups {
			if groups[i].Addr == at {
				groups[i].Listeners = append(groups[i].Listeners, listener)
				continue next
			}
		}
		groups = append(groups, newGroup(listener))
	}
	return groups, nil
}

func newGroup(first *net.TCPListener) Group {
	return Group{Addr: addrPort(first.Addr()), Listeners: []*net.TCPListener{first}, FastOpen: fastOpenEnabled(first)}
}

// bind binds the configured addresses that are not in groups.
func (l *Listener) bind(ctx context.Context, groups []Group) {
	l.Groups, l.Failed = groups, nil
	port := l.config.Port
	for _, addr := range transport.BindAddrs(l.config.Addrs) {
		if addr.Port() == 0 {
			addr = netip.AddrPortFrom(addr.Addr(), port)
		}
		if l.bound(addr) {
			continue
		}
		g, err := bindGroup(ctx, addr, &l.config)
		if err != nil {
			l.Failed = append(l.Failed, transport.NewBindError("tcp", addr, err))
			continue
		}
		l.Groups = append(l.Groups, g)
		if port == 0 && len(l.config.Addrs) == 0 {
			port = g.Addr.Port()
		}
	}
}

// bound reports whether an address is bound. Port 0 matches any port.
func (l *Listener) bound(addr netip.AddrPort) bool {
	for _, g := range l.Groups {
		if g.Addr == addr || addr.Port() == 0 && g.Addr.Addr() == addr.Addr() {
			return true
		}
	}
	return false
}

// bindGroup binds one listener per shard to an address. The first is bound without
// SO_REUSEPORT, so that a second gateway on the same port fails.
func bindGroup(ctx context.Context, addr netip.AddrPort, c *Config) (Group, error) {
	first, err := bindOne(ctx, addr, c, false)
	if err != nil {
		return Group{}, err
	}
	g := newGroup(first)
	if c.Shards < 2 || allowReusePort(first) != nil {
		return g, nil // one listener accepts for all shards
	}
	for len(g.Listeners) < c.Shards {
		other, err := bindOne(ctx, g.Addr, c, true)
		if err != nil {
			break // the listeners bound so far accept for it
		}
		g.Listeners = append(g.Listeners, other)
	}
	return g, nil
}

func bindOne(ctx context.Context, addr netip.AddrPort, c *Config, shared bool) (*net.TCPListener, error) {
	network := "tcp4"
	if addr.Addr().Is6() {
		network = "tcp6"
	}
	config := net.ListenConfig{
		KeepAlive: -1, // connections are too short-lived for it
		Control: func(_, _ string, raw syscall.RawConn) error {
			return prepare(raw, c.WriteTimeout, shared)
		},
	}
	listener, err := config.Listen(ctx, network, addr.String())
	if err != nil {
		return nil, err
	}
	return listener.(*net.TCPListener), nil
}

// Pause stops accepting until Resume; new connections wait in the kernel and open ones
// continue. It must not be called concurrently with Close.
func (l *Listener) Pause() {
	l.setDeadline(time.Unix(1, 0))
	l.acceptors.Wait()
}

// Resume accepts connections again after Pause.
func (l *Listener) Resume() {
	l.setDeadline(time.Time{})
	l.startAccepting()
}

func (l *Listener) setDeadline(t time.Time) {
	for _, g := range l.Groups {
		for _, listener := range g.Listeners {
			_ = listener.SetDeadline(t)
		}
	}
}

func (l *Listener) startAccepting() {
	for _, g := range l.Groups {
		for _, listener := range g.Listeners {
			l.acceptors.Go(func() { l.accept(g.Addr, listener) })
		}
	}
}

func (l *Listener) closeListeners() {
	for _, g := range l.Groups {
		for _, listener := range g.Listeners {
			_ = listener.Close()
		}
	}
}

// stopAccepting closes the listening sockets. Open connections continue, and so does
// accepting by a process that holds a duplicate of a descriptor.
func (l *Listener) stopAccepting() {
	l.stopOnce.Do(func() { close(l.stopped) })
	l.closeListeners()
	l.acceptors.Wait()
}

// Close stops accepting, closes all connections and waits for their goroutines. Answers
// that are already queued are sent if the peers read them promptly.
func (l *Listener) Close() error {
	l.stopAccepting()
	l.mu.Lock()
	if l.open != nil {
		close(l.closed)
		for c := range l.open {
			_ = c.conn.SetReadDeadline(time.Now())
			_ = c.conn.SetWriteDeadline(time.Now().Add(closeGrace))
		}
		l.open = nil
	}
	l.mu.Unlock()
	for _, s := range l.Shards {
		_ = s.Close()
	}
	l.serving.Wait()
	return nil
}

// addrPort returns the address of a TCP socket, never IPv4-mapped.
func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok && t != nil {
		at := t.AddrPort()
		return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	}
	return netip.AddrPort{}
}
