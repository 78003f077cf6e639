package udp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"

	"lewes/transport"
)

// InheritedGroup is a Group bound by another process.
type InheritedGroup struct {
	Addr    netip.AddrPort
	Steered bool
	Files   []*os.File // by shard, as in Group.Conns
}

// Inherit returns a Listener with sockets that another process bound with Listen, and
// with the Options of cfg; its Addrs, Port and Steer took effect there. Datagrams that
// wait in the sockets' buffers are received. Inherit always closes the files. On systems
// other than Linux the error wraps errors.ErrUnsupported.
func Inherit(cfg Config, groups []InheritedGroup) (*Listener, error) {
	cfg.Notify = deduplicate(cfg.Notify)
	l := new(Listener)
	var errs []error
	for _, from := range groups {
		g := Group{Steered: from.Steered}
		for _, file := range from.Files {
			c, err := inherit(file, &cfg.Options, false)
			if err == nil && c.local != from.Addr {
				err = fmt.Errorf("udp: inherited socket for %s is bound to %s", from.Addr, c.local)
			}
			if err != nil {
				errs = append(errs, err)
				continue
			}
			g.Addr = c.local
			g.Conns = append(g.Conns, c)
		}
		if len(g.Conns) > 0 {
			l.Groups = append(l.Groups, g)
		}
	}
	if len(l.Groups) == 0 {
		errs = append(errs, errors.New("udp: no inherited sockets"))
	}
	if err := errors.Join(errs...); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// InheritConn returns a Conn with a connected socket that another process made with
// Dial. It closes the file. Linux only.
func InheritConn(file *os.File, o Options) (*Conn, error) { return inherit(file, &o, true) }

func inherit(file *os.File, o *Options, connected bool) (*Conn, error) {
	defer file.Close()
	if err := checkInherit(); err != nil {
		return nil, err
	}
	pc, err := net.FilePacketConn(file)
	if err != nil {
		return nil, fmt.Errorf("udp: inherit socket: %w", transport.SystemError(err))
	}
	c, err := inheritConn(pc, o, connected)
	if err != nil {
		_ = pc.Close()
		return nil, fmt.Errorf("udp: inherit socket: %w", err)
	}
	return c, nil
}

var (
	errNotUDP       = errors.New("not a UDP socket")
	errNotConnected = errors.New("not connected")
	errConnected    = errors.New("connected")
)

func inheritConn(pc net.PacketConn, o *Options, connected bool) (*Conn, error) {
	u, ok := pc.(*net.UDPConn)
	if !ok {
		return nil, errNotUDP
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, err
	}
	var peer netip.AddrPort
	if remote, ok := u.RemoteAddr().(*net.UDPAddr); ok {
		peer = unmap(remote.AddrPort())
	}
	switch {
	case connected && !peer.IsValid():
		return nil, errNotConnected
	case !connected && peer.IsValid():
		return nil, errConnected
	}
	network := "udp4"
	if u.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap().Is6() {
		network = "udp6"
	}
	s, err := prepare(network, raw, o, connected)
	if err != nil {
		return nil, err
	}
	c, err := newConn(u, peer, o, s)
	if err != nil {
		return nil, err
	}
	if err := c.initInherited(o); err != nil {
		return nil, err
	}
	if connected && o.Ports != nil {
		c.ports = o.Ports
		c.ports.Hold(c.local.Port(), c.peer.Peer)
	}
	return c, nil
}

// Cookie returns the kernel's identifier of the socket (SO_COOKIE), which is the same in
// all processes and unique until reboot. Linux only.
func (c *Conn) Cookie() (uint64, error) { return cookieOf(c.raw) }

// Descriptors calls f with the descriptors of the conns that are not closed. They stay
// open until f returns; f must not close them. It is used to pass sockets to another
// process, at most MaxDescriptors at once.
func Descriptors(conns []*Conn, f func(fds []int) error) error {
	return withDescriptors(conns, make([]int, 0, len(conns)), f)
}

// MaxDescriptors is Linux's limit of descriptors per message (SCM_MAX_FD).
const MaxDescriptors = 253

func withDescriptors(conns []*Conn, fds []int, f func([]int) error) (err error) {
	if len(conns) == 0 {
		return f(fds)
	}
	closed := conns[0].raw.Control(func(fd uintptr) { err = withDescriptors(conns[1:], append(fds, int(fd)), f) })
	if closed != nil {
		return withDescriptors(conns[1:], fds, f)
	}
	return err
}

// Steer maps receiver indexes to shards. Shard and the BPF program that Listen attaches
// to its sockets implement the same keyed function, so that a peer cannot choose indexes
// that share a shard.
type Steer struct {
	// Secret is random. Its lowest bit is taken as 1: an odd factor preserves all bits
	// of the index.
	Secret uint32
	// Shards is the number of shards. Below 2 all indexes map to shard 0.
	Shards int
}

// Shard returns the shard of a receiver index: (index * secret) >> 16 modulo Shards, in
// 32-bit arithmetic. Index 0 and packets too short to have an index map to shard 0.
func (s Steer) Shard(index uint32) int {
	if s.Shards < 2 {
		return 0
	}
	return int(index * (s.Secret | 1) >> 16 % uint32(s.Shards))
}

// zoneName returns the zone of a link-local peer: the interface index in decimal
// ("fe80::1%2"), which needs no lookup per packet and survives a rename.
func zoneName(index uint32) string { return strconv.FormatUint(uint64(index), 10) }

// zoneIndex returns the interface index of a zone, a number or a name; 0 if unknown.
func zoneIndex(zone string) uint32 {
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n)
	}
	ifi, err := net.InterfaceByName(zone)
	if err != nil {
		return 0
	}
	return uint32(ifi.Index)
}
