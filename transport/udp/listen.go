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

// Listener is what Listen bound.
type Listener struct {
	// Groups has an entry for each address that was bound, in the order of
	// Config.Addrs.
	Groups []Group
	// Failed has an entry for each address that was not.
	Failed []*transport.BindError
}

// Group is the sockets of one address.
type Group struct {
	Addr netip.AddrPort
	// Conns has the socket of each shard at the shard's place. It has one entry
	// alone where the system has no steering: then all shards' packets come there.
	Conns []*Conn
	// Steered says that the kernel chooses among Conns as Steer.Shard does. Otherwise
	// it chooses by a hash of the addresses.
	Steered bool
}

// Shards returns how many shards have sockets.
func (l *Listener) Shards() int {
	n := 0
	for _, g := range l.Groups {
		n = max(n, len(g.Conns))
	}
	return n
}

// Shard returns the sockets of one shard, one an address.
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

// Listen binds the addresses of cfg. It succeeds if one of them could be bound;
// Listener.Failed says which could not and why. An error joins the reasons of
// all.
func Listen(ctx context.Context, cfg Config) (*Listener, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("udp: listen: %w", err)
	}
	cfg.Notify = deduplicate(cfg.Notify)
	l := listen(ctx, &cfg)
	// Both families on one port of the system's choice: what is free in one may be
	// taken in the other.
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

// bindGroup binds the sockets of one address.
//
// The first binds alone and only then lets others join it: so a second gateway on the
// same port fails, instead of quietly taking half of the datagrams.
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
		first.emit(NotSteered, err, "the kernel spreads datagrams over the shards by its own hash: most take a detour over another shard")
		return g, nil
	}
	g.Steered = true
	return g, nil
}

// bind makes one socket; shared lets it join others on the same address.
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

// ErrInvalidTarget: the address to connect to names no host or no port.
var ErrInvalidTarget = errors.New("udp: target needs an address and a port")

// Dial returns a socket connected to target: it receives from there only, and the
// system reports on it when the target refuses what is sent (transport.ErrRefused). The
// local port is a new one of the system's choice.
func Dial(target netip.AddrPort, o Options) (*Conn, error) {
	return DialFrom(netip.AddrPort{}, target, o)
}

// DialFrom is Dial with the local address, the port, or both chosen by the caller; the
// zero Addr and port 0 leave them to the system.
func DialFrom(local, target netip.AddrPort, o Options) (*Conn, error) {
	target = netip.AddrPortFrom(target.Addr().Unmap(), target.Port())
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
	dialer := net.Dialer{Control: func(network, _ string, raw syscall.RawConn) (err error) {
		s, err = prepare(network, raw, &o, true)
		return err
	}}
	chosen := local.Addr().IsValid() || local.Port() != 0
	if chosen && !local.Addr().IsValid() {
		local = netip.AddrPortFrom(wildcard(network), local.Port())
	}
	var u *net.UDPConn
	var err error
	if chosen {
		u, err = dialer.DialUDP(context.Background(), network, local, target)
	} else {
		var c net.Conn
		if c, err = dialer.Dial(network, target.String()); err == nil {
			u = c.(*net.UDPConn)
		}
	}
	if err != nil {
		var errno syscall.Errno
		if errors.As(err, &errno) { // net's own text has the whole address
			err = wrapErrno(errno)
		}
		return nil, fmt.Errorf("udp: connect to %s: %w", path.MaskAddrPort(target), err)
	}
	c, err := newConn(u, target, &o, s)
	if err != nil {
		_ = u.Close()
		return nil, fmt.Errorf("udp: connect to %s: %w", path.MaskAddrPort(target), err)
	}
	// Between bind and connect the socket takes datagrams from anyone.
	c.checkPeer = chosen
	return c, nil
}

func wildcard(network string) netip.Addr {
	if network == "udp6" {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}
