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

// ErrNoInheritance says that this system hands no sockets from one process to
// another, as Linux does.
var ErrNoInheritance = errors.New("udp: sockets can be handed from one process to another on Linux alone")

// InheritedGroup is a Group that another process has bound.
type InheritedGroup struct {
	Addr    netip.AddrPort
	Steered bool
	Files   []*os.File // by shard, as in Group.Conns
}

// Inherit makes a Listener of sockets that another process has bound by Listen, with
// the options of cfg; its Addrs, Port and Steer have taken effect there. What waits
// in the sockets' buffers is received. Inherit closes the files, whatever comes of
// it. Linux only: the error is ErrNoInheritance elsewhere.
func Inherit(cfg Config, groups []InheritedGroup) (*Listener, error) {
	cfg.Notify = deduplicate(cfg.Notify)
	l := new(Listener)
	var errs []error
	for _, from := range groups {
		g := Group{Steered: from.Steered}
		for _, file := range from.Files {
			c, err := inherit(file, &cfg.Options, false)
			if err == nil && c.local != from.Addr {
				err = fmt.Errorf("udp: a socket of %s is bound to %s", from.Addr, c.local)
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
		errs = append(errs, errors.New("udp: no socket to inherit"))
	}
	if err := errors.Join(errs...); err != nil {
		_ = l.Close()
		return nil, err
	}
	return l, nil
}

// InheritConn makes a Conn of a connected socket that another process has made by
// Dial. It closes the file. Linux only.
func InheritConn(file *os.File, o Options) (*Conn, error) { return inherit(file, &o, true) }

func inherit(file *os.File, o *Options, connected bool) (*Conn, error) {
	defer file.Close()
	if err := checkInherit(); err != nil {
		return nil, err
	}
	pc, err := net.FilePacketConn(file)
	if err != nil {
		return nil, fmt.Errorf("udp: inherit a socket: %w", transport.SystemError(err))
	}
	c, err := inheritConn(pc, o, connected)
	if err != nil {
		_ = pc.Close()
		return nil, fmt.Errorf("udp: inherit a socket: %w", err)
	}
	return c, nil
}

var (
	errNotUDP       = errors.New("it is no UDP socket")
	errNotConnected = errors.New("it is not connected")
	errConnected    = errors.New("it is connected")
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
		peer = remote.AddrPort()
		peer = netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
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
	return c, c.initInherited(o)
}

// Cookie returns the number by which the system knows the socket, in whatever
// process: no other has it until the next start of the machine. Linux only.
func (c *Conn) Cookie() (uint64, error) { return cookieOf(c.raw) }

// Descriptors calls f with the descriptors of conns, which stay open until it
// returns; those of closed ones are left out. f must not close them. It is how
// sockets get to another process, at most MaxDescriptors at once.
func Descriptors(conns []*Conn, f func(fds []int) error) error {
	return withDescriptors(conns, make([]int, 0, len(conns)), f)
}

// MaxDescriptors is how many descriptors Linux passes in one message (SCM_MAX_FD).
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

// Steer spreads sessions over shards by their receiver_idx: the kernel by the BPF
// program that Listen attaches to its sockets, everything else by Shard, and the two
// agree. It hides from a peer, who chooses indexes, which of them meet in one
// shard.
type Steer struct {
	// Secret is random. Its lowest bit counts as set: an odd factor keeps every
	// bit of the index.
	Secret uint32
	// Shards is how many there are. Below 2 everything is in shard 0.
	Shards int
}

// Shard returns the shard of a receiver index: (index * secret) >> 16 modulo
// Shards, in 32 bits. Index 0, which no session has, is in shard 0, and so is a
// packet too short to have one.
func (s Steer) Shard(index uint32) int {
	if s.Shards < 2 {
		return 0
	}
	return int(index * (s.Secret | 1) >> 16 % uint32(s.Shards))
}

// A link-local peer's zone is the interface's number in decimal ("fe80::1%2"):
// numbers need no look-up for each packet, and a renamed interface keeps its peers.

func zoneName(index uint32) string { return strconv.FormatUint(uint64(index), 10) }

// zoneIndex returns the number of an interface by its zone, a number or a name; 0
// where there is none.
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
