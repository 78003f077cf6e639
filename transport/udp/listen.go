package udp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"lewes/state/path"
	"lewes/transport"
)

// Listener is the set of sockets that Listen bound.
type Listener struct {
	// Groups has one entry per bound address, in the order of Config.Addrs, Failed one
	// per address that could not be bound.
	Groups []Group
	Failed []*transport.BindError
}

// Group is the set of sockets on one address.
type Group struct {
	Addr netip.AddrPort
	// Conns is indexed by shard. It has a single entry if the system cannot distribute
	// datagrams over sockets.
	Conns []*Conn
	// Steered reports whether the kernel chooses among Conns as Steer.Shard does, and
	// not by a hash of the addresses.
	Steered bool
}

// Shards returns the number of shards with sockets.
func (l *Listener) Shards() int {
	n := 0
	for _, g := range l.Groups {
		n = max(n, len(g.Conns))
	}
	return n
}

// Shard returns the sockets of one shard, one per address.
func (l *Listener) Shard(shard int) []*Conn {
	var conns []*Conn
	for _, g := range l.Groups {
		if shard < len(g.Conns) {
			conns = append(conns, g.Conns[shard])
		}
	}
	return conns
}

// Close closes all sockets.
func (l *Listener) Close() error {
	var errs []error
	for _, g := range l.Groups {
		for _, c := range g.Conns {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// Listen binds the configured addresses. It succeeds if at least one is bound;
// Listener.Failed describes the others. Otherwise the error joins all failures.
func Listen(ctx context.Context, cfg Config) (*Listener, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("udp: listen: %w", err)
	}
	cfg.Notify = deduplicate(cfg.Notify)
	l := listen(ctx, &cfg)
	// A port that the system chose for one family may be taken in the other.
	for tries := 0; cfg.Port == 0 && len(cfg.Addrs) == 0 && tries < 8 && transport.PortTaken(l.Failed); tries++ {
		_ = l.Close()
		l = listen(ctx, &cfg)
	}
	if len(l.Groups) > 0 {
		return l, nil
	}
	return nil, transport.BindFailed(l.Failed)
}

func listen(ctx context.Context, cfg *Config) *Listener {
	l := new(Listener)
	port := cfg.Port
	for _, addr := range transport.BindAddrs(cfg.Addrs) {
		if addr.Port() == 0 {
			addr = netip.AddrPortFrom(addr.Addr(), port)
		}
		g, err := bindGroup(ctx, addr, cfg)
		if err != nil {
			l.Failed = append(l.Failed, transport.NewBindError("udp", addr, err))
			continue
		}
		l.Groups = append(l.Groups, g)
		if port == 0 && len(cfg.Addrs) == 0 {
			port = g.Addr.Port()
		}
	}
	return l
}

// bindGroup binds one socket per shard to an address. The first is bound without SO_REUSEPORT, so
// that a second gateway on the same port fails instead of taking half of the datagrams.
func bindGroup(ctx context.Context, addr netip.AddrPort, cfg *Config) (Group, error) {
	first, err := bind(ctx, addr, cfg, false)
	if err != nil {
		return Group{}, err
	}
	g := Group{Addr: first.local, Conns: []*Conn{first}}
	if cfg.Steer.Shards < 2 {
		return g, nil
	}
	if err := share(first.raw); err != nil {
		first.emit(NotSteered, err, "one socket serves all shards")
		return g, nil
	}
	for len(g.Conns) < cfg.Steer.Shards {
		c, err := bind(ctx, g.Addr, cfg, true)
		if err != nil {
			for _, c := range g.Conns {
				_ = c.Close()
			}
			return Group{}, fmt.Errorf("shard %d: %w", len(g.Conns), err)
		}
		g.Conns = append(g.Conns, c)
	}
	if err := cfg.Steer.attach(first.raw); err != nil {
		first.emit(NotSteered, err, "the kernel distributes datagrams by its own hash: most are forwarded between shards")
		return g, nil
	}
	g.Steered = true
	return g, nil
}

// bind binds one socket; shared sets SO_REUSEPORT.
func bind(ctx context.Context, addr netip.AddrPort, cfg *Config, shared bool) (*Conn, error) {
	network := "udp4"
	if addr.Addr().Is6() {
		network = "udp6"
	}
	var s setup
	lc := net.ListenConfig{Control: func(network, _ string, raw syscall.RawConn) (err error) {
		if shared {
			if err := share(raw); err != nil {
				return err
			}
		}
		s, err = prepare(network, raw, &cfg.Options, false)
		return err
	}}
	pc, err := lc.ListenPacket(ctx, network, addr.String())
	if err != nil {
		return nil, err
	}
	u := pc.(*net.UDPConn)
	c, err := newConn(u, netip.AddrPort{}, &cfg.Options, s)
	if err != nil {
		_ = u.Close()
		return nil, err
	}
	return c, nil
}

// ErrInvalidTarget means the target lacks an address or a port.
var ErrInvalidTarget = errors.New("udp: target needs an address and a port")

// Dial returns a socket connected to target, on a local port chosen by Options.Ports or the
// system. It receives datagrams and ICMP errors of the target only.
func Dial(target netip.AddrPort, o Options) (*Conn, error) {
	return DialFrom(netip.AddrPort{}, target, o)
}

// DialFrom is Dial from a local address. The system chooses the address if it is the zero
// Addr, and the port if it is 0.
func DialFrom(local, target netip.AddrPort, o Options) (*Conn, error) {
	target = unmap(target)
	if !target.IsValid() || target.Port() == 0 || target.Addr().IsUnspecified() {
		return nil, fmt.Errorf("%w, got %s", ErrInvalidTarget, target)
	}
	network := "udp4"
	if target.Addr().Is6() {
		network = "udp6"
	}
	if zone := target.Addr().Zone(); zone != "" {
		target = netip.AddrPortFrom(target.Addr().WithZone(zoneName(zoneIndex(zone))), target.Port())
	}
	var s setup
	bound := portBinding{target: target}
	chosen := local.Addr().IsValid() || local.Port() != 0
	if !chosen && portsSupported {
		bound.ports = o.Ports
	}
	dialer := net.Dialer{Control: func(network, _ string, raw syscall.RawConn) (err error) {
		if s, err = prepare(network, raw, &o, true); err == nil && bound.ports != nil {
			err = bound.bind(network, raw)
		}
		return err
	}}
	if chosen {
		dialer.LocalAddr = net.UDPAddrFromAddrPort(local)
	}
	pc, err := dialer.Dial(network, target.String())
	if err != nil {
		bound.release()
		var errno syscall.Errno
		if errors.As(err, &errno) { // without net's text, which contains the full address
			err = wrapErrno(errno)
		}
		return nil, fmt.Errorf("udp: connect to %s: %w", path.MaskAddrPort(target), err)
	}
	u := pc.(*net.UDPConn)
	c, err := newConn(u, target, &o, s)
	if err != nil {
		_ = u.Close()
		bound.release()
		return nil, fmt.Errorf("udp: connect to %s: %w", path.MaskAddrPort(target), err)
	}
	c.ports = bound.ports
	if c.ports != nil {
		c.discardReceived()
	}
	// Between bind and connect the socket receives datagrams from anyone.
	c.checkPeer = chosen || c.ports != nil
	return c, nil
}
