package tcp

import (
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

// Listener is what Listen bound. Its connections end with Close.
type Listener struct {
	// shard listeners has one for each shard.
	Shards []*ShardListener
	// Groups has an entry for each address that was bound, Failed one for each that
	// was not.
	Groups []Group
	Failed []*transport.BindError

	config    Config
	counters  counters
	table     table
	sources   sources
	receiving memory
	numbers   atomic.Uint64 // of connections
	saidAt    atomic.Int64  // when Notify was called last, in Unix nanoseconds

	mu        sync.Mutex
	visits    map[*visit]struct{} // nil once closed
	stopped   chan struct{}       // nothing more is accepted
	closed    chan struct{}
	stopOnce  sync.Once
	acceptors sync.WaitGroup
	serving   sync.WaitGroup
}

// Group is the listeners of one address.
type Group struct {
	Addr      netip.AddrPort
	Listeners []*net.TCPListener
	// FastOpen says that a client may send its packet with its first segment.
	FastOpen bool
}

// Listen binds the addresses of config and accepts connections from then on. It
// succeeds if one address could be bound or was inherited; Listener.Failed says which
// could not and why. An error joins the reasons of all.
func Listen(ctx context.Context, config Config) (*Listener, error) {
	config.fill()
	groups, err := inherited(config.Inherited)
	if err != nil {
		return nil, err
	}
	l := &Listener{
		config:    config,
		sources:   sources{open: make(map[netip.Addr]int)},
		receiving: memory{limit: int64(config.MaxReceiving)},
		visits:    make(map[*visit]struct{}),
		stopped:   make(chan struct{}),
		closed:    make(chan struct{}),
	}
	l.bind(ctx, groups)
	// Both families on one port of the system's choice: what is free in one may be
	// taken in the other.
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

// inherited sorts listeners by their address.
func inherited(listeners []*net.TCPListener) ([]Group, error) {
	var groups []Group
next:
	for _, listener := range listeners {
		at := addrPort(listener.Addr())
		if !at.IsValid() {
			return nil, errors.New("tcp: a listener that was inherited has no address")
		}
		at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
		for i := range groups {
			if groups[i].Addr == at {
				groups[i].Listeners = append(groups[i].Listeners, listener)
				continue next
			}
		}
		groups = append(groups, Group{Addr: at, Listeners: []*net.TCPListener{listener}, FastOpen: fastOpens(listener)})
	}
	return groups, nil
}

// bind binds the addresses of the configuration that are not among groups.
func (l *Listener) bind(ctx context.Context, groups []Group) {
	l.Groups, l.Failed = groups, nil
	port := l.config.Port
	for _, addr := range transport.BindAddrs(l.config.Addrs) {
		if addr.Port() == 0 {
			addr = netip.AddrPortFrom(addr.Addr(), port)
		}
		if l.has(addr) {
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

// has reports whether an address is bound. Port 0 is any.
func (l *Listener) has(addr netip.AddrPort) bool {
	for _, g := range l.Groups {
		if g.Addr == addr || addr.Port() == 0 && g.Addr.Addr() == addr.Addr() {
			return true
		}
	}
	return false
}

// bindGroup binds the listeners of one address: the first alone, and only then those
// of the other shards beside it, so that a second gateway on the same port fails.
func bindGroup(ctx context.Context, addr netip.AddrPort, c *Config) (Group, error) {
	first, err := bindOne(ctx, addr, c, false)
	if err != nil {
		return Group{}, err
	}
	g := Group{Addr: addrPort(first.Addr()), Listeners: []*net.TCPListener{first}, FastOpen: fastOpens(first)}
	g.Addr = netip.AddrPortFrom(g.Addr.Addr().Unmap(), g.Addr.Port())
	if c.Shards < 2 || share(first) != nil {
		return g, nil // one accepts for all
	}
	for len(g.Listeners) < c.Shards {
		other, err := bindOne(ctx, g.Addr, c, true)
		if err != nil {
			break // those that there are accept for it
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
	listening := net.ListenConfig{
		KeepAlive: -1, // no connection lives long enough for it
		Control: func(_, _ string, raw syscall.RawConn) error {
			return prepare(raw, c.WriteTimeout, shared)
		},
	}
	listener, err := listening.Listen(ctx, network, addr.String())
	if err != nil {
		return nil, err
	}
	return listener.(*net.TCPListener), nil
}

// lastWords is how long Close lets peers take what is written to them.
const lastWords = 250 * time.Millisecond

// limitWriting sets how long the peer may take to read its answers.
func (l *Listener) limitWriting(v *visit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	patience := l.config.WriteTimeout
	if l.visits == nil {
		patience = min(patience, lastWords)
	}
	_ = v.conn.SetWriteDeadline(time.Now().Add(patience))
}

// stopAccepting ends listening. Connections that are there go on, and so do those
// that another process accepts by a duplicate of a listener's descriptor.
func (l *Listener) stopAccepting() {
	l.stopOnce.Do(func() { close(l.stopped) })
	l.closeListeners()
	l.acceptors.Wait()
}

// Pause stops accepting until Resume: connections that come wait in the system. Those
// that are there go on. It must not run beside Close.
func (l *Listener) Pause() {
	l.setDeadline(time.Unix(1, 0))
	l.acceptors.Wait()
}

// Resume accepts again.
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
			l.acceptors.Add(1)
			go l.accept(g.Addr, listener)
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

// Close ends listening and every connection, and waits until their goroutines have
// ended. Answers that are written already still go out, if the peers take them at
// once.
func (l *Listener) Close() error {
	l.stopAccepting()
	l.mu.Lock()
	if l.visits != nil {
		close(l.closed)
		for v := range l.visits {
			_ = v.conn.SetReadDeadline(time.Now())
			_ = v.conn.SetWriteDeadline(time.Now().Add(lastWords))
		}
		l.visits = nil
	}
	l.mu.Unlock()
	for _, i := range l.Shards {
		_ = i.Close()
	}
	l.serving.Wait()
	return nil
}
