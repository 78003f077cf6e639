package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"lewes/bench/worker"
)

// Role keeps a namespace alive and configures it. Its call "ip" runs the program of that name.
var Role = worker.Start(func(context.Context, worker.None) (*worker.Service, error) {
	return &worker.Service{
		Result: worker.None{},
		Calls: map[string]worker.Handler{
			"ip": worker.Method(func(ctx context.Context, args []string) (worker.None, error) { return worker.None{}, ip(ctx, args) }),
		},
	}, nil
})

// RoleName is the name under which a program registers Role.
const RoleName = "network"

// ErrNoIP means that the program ip is missing.
var ErrNoIP = errors.New("the program ip (of iproute2) is not installed")

func ip(ctx context.Context, args []string) error {
	out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// Machine is a namespace.
type Machine struct {
	Worker *worker.Process // keeps the namespace alive
	Addr   netip.Addr      // in a Pair: the address on the wire
}

// New creates a machine with a loopback device only. The error wraps worker.ErrNoNamespaces or
// ErrNoIP where one of these is the reason.
func New(ctx context.Context, l worker.Launcher) (*Machine, error) {
	if _, err := exec.LookPath("ip"); err != nil {
		return nil, ErrNoIP
	}
	w, err := l.Start(ctx, RoleName, worker.None{}, nil, worker.Where{New: true})
	if err != nil {
		return nil, err
	}
	m := &Machine{Worker: w}
	if err := m.IP(ctx, "link", "set", "lo", "up"); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// Join joins two machines by a veth pair, named name+"0" and name+"1", with the given addresses.
// It returns once the wire carries packets.
func Join(ctx context.Context, a, b *Machine, name string, ofA, ofB []netip.Prefix) error {
	err := a.IP(ctx, "link", "add", name+"0", "type", "veth", "peer", "name", name+"1", "netns", strconv.Itoa(b.Worker.PID()))
	if err != nil {
		return err
	}
	if err := errors.Join(a.Up(ctx, name+"0", ofA...), b.Up(ctx, name+"1", ofB...)); err != nil {
		return err
	}
	for _, from := range ofA {
		for _, to := range ofB {
			if from.Masked() == to.Masked() {
				if err := awaitWay(ctx, a, b, from.Addr(), to.Addr()); err != nil {
					return fmt.Errorf("wire %s: %w", name, err)
				}
			}
		}
	}
	return nil
}

// Up assigns addresses to a device and enables it. It returns once the addresses are usable:
// there is no duplicate address detection, but the kernel accepts IPv6 packets only a moment
// after the device is up.
func (m *Machine) Up(ctx context.Context, device string, addrs ...netip.Prefix) error {
	for _, a := range addrs {
		args := []string{"addr", "add", a.String(), "dev", device}
		if a.Addr().Is6() {
			args = append(args, "nodad")
		}
		if err := m.IP(ctx, args...); err != nil {
			return err
		}
	}
	if err := m.IP(ctx, "link", "set", device, "up"); err != nil {
		return err
	}
	for _, a := range addrs {
		if err := m.awaitAddr(ctx, a.Addr()); err != nil {
			return fmt.Errorf("device %s: %w", device, err)
		}
	}
	return nil
}

const (
	// patience is how long an address may take to become usable, retry the interval of attempts.
	patience = 30 * time.Second
	retry    = 10 * time.Millisecond
)

// awaitAddr waits until the machine accepts datagrams to one of its addresses.
func (m *Machine) awaitAddr(ctx context.Context, a netip.Addr) error {
	at, err := m.listen(ctx, a)
	if err != nil {
		return err
	}
	defer at.Close()
	return reach(ctx, at, at)
}

// awaitWay waits until datagrams pass from an address of one machine to one of another. The first
// ones may be lost before the wire is ready or the neighbour is resolved.
func awaitWay(ctx context.Context, a, b *Machine, from, to netip.Addr) error {
	far, err := b.listen(ctx, to)
	if err != nil {
		return err
	}
	defer far.Close()
	near, err := a.listen(ctx, from)
	if err != nil {
		return err
	}
	defer near.Close()
	return reach(ctx, near, far)
}

// listen opens a socket in the machine once it has the address.
func (m *Machine) listen(ctx context.Context, a netip.Addr) (conn *net.UDPConn, err error) {
	err = insist(ctx, a, func() error {
		return m.Do(func() (err error) {
			conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0)))
			return err
		})
	})
	return conn, err
}

// reach sends datagrams from one socket to another until one arrives.
func reach(ctx context.Context, from, to *net.UDPConn) error {
	at := to.LocalAddr().(*net.UDPAddr).AddrPort()
	return insist(ctx, at.Addr(), func() error {
		if _, err := from.WriteToUDPAddrPort([]byte{1}, at); err != nil {
			return err
		}
		if err := to.SetReadDeadline(time.Now().Add(retry)); err != nil {
			return err
		}
		_, err := to.Read(make([]byte, 1))
		return err
	})
}

// insist calls f until it succeeds.
func insist(ctx context.Context, a netip.Addr, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(retry):
		case <-ctx.Done():
			return fmt.Errorf("address %s is not usable: %w", a, err)
		}
	}
}

// Pair is two machines joined by a wire.
type Pair [2]*Machine

// Wire is the network between the machines.
var Wire = netip.MustParsePrefix("192.0.2.0/24")

// NewPair creates two machines. Its errors are those of New.
func NewPair(ctx context.Context, l worker.Launcher) (*Pair, error) {
	p := new(Pair)
	if err := p.set(ctx, l); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// set creates and joins the machines.
func (p *Pair) set(ctx context.Context, l worker.Launcher) (err error) {
	var on [2][]netip.Prefix
	addr := Wire.Addr()
	for i := range p {
		if p[i], err = New(ctx, l); err != nil {
			return err
		}
		addr = addr.Next()
		p[i].Addr = addr
		on[i] = []netip.Prefix{netip.PrefixFrom(addr, Wire.Bits())}
	}
	return Join(ctx, p[0], p[1], "wire", on[0], on[1])
}

// IP runs the program ip in the machine.
func (m *Machine) IP(ctx context.Context, args ...string) error {
	return m.Worker.Call(ctx, "ip", args, nil)
}

// Where places a worker in the machine.
func (m *Machine) Where() worker.Where { return worker.Where{In: m.Worker} }

// Close releases the machine. Its workers must have been stopped.
func (m *Machine) Close() { m.Worker.Stop() }

// Close releases the machines.
func (p *Pair) Close() {
	for _, m := range p {
		if m != nil {
			m.Close()
		}
	}
}
