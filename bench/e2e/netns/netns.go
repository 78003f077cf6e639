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

// Role keeps a namespace alive and sets it up. The call is "ip", with the arguments of the
// program of that name.
var Role = worker.Start(func(context.Context, worker.None) (*worker.Service, error) {
	return &worker.Service{
		Result: worker.None{},
		Calls: map[string]worker.Handler{
			"ip": worker.Method(func(ctx context.Context, args []string) (worker.None, error) { return worker.None{}, ip(ctx, args) }),
		},
	}, nil
})

// RoleName is the name by which a program has Role.
const RoleName = "network"

// ErrNoIP means that the program that sets networks up is not there.
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
	Worker *worker.Process // who keeps it
	Addr   netip.Addr      // of one of a Pair: its address on the wire between them
}

// New makes a machine that has a loopback device and nothing else. The error wraps
// worker.ErrNoNamespaces, or ErrNoIP, where that is why it cannot.
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

// Join joins two machines by a pair of virtual Ethernet devices, which are called by name
// and 0 or 1, with the addresses that each is to have. It returns when the wire carries.
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

// Up gives a device addresses and switches it on. It returns when they are of use: nobody
// is asked whether he has them, but it takes the kernel a moment after the device is up
// to take what comes for one of IPv6.
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
	// patience is how long an address may take to be of use, and again when it is tried
	// once more.
	patience = 10 * time.Second
	again    = 10 * time.Millisecond
)

// awaitAddr waits until the machine takes datagrams for one of its addresses.
func (m *Machine) awaitAddr(ctx context.Context, a netip.Addr) error {
	at, err := m.listen(ctx, a)
	if err != nil {
		return err
	}
	defer at.Close()
	return reach(ctx, at, at)
}

// awaitWay waits until datagrams come from an address of one machine to one of another. The
// first ones may find the wire not ready, or nobody who says where the address is.
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

// listen makes a socket in the machine, as soon as that has the address.
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
		if err := to.SetReadDeadline(time.Now().Add(again)); err != nil {
			return err
		}
		_, err := to.Read(make([]byte, 1))
		return err
	})
}

// insist calls f until it does not fail.
func insist(ctx context.Context, a netip.Addr, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return fmt.Errorf("address %s is of no use: %w", a, err)
		}
	}
}

// Pair is two machines and a wire.
type Pair [2]*Machine

// Wire is the network between the machines.
var Wire = netip.MustParsePrefix("192.0.2.0/24")

// NewPair makes two machines. Its errors are those of New.
func NewPair(ctx context.Context, l worker.Launcher) (*Pair, error) {
	p := new(Pair)
	if err := p.set(ctx, l); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// set sets the machines up.
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

// Where says how to run a worker in the machine.
func (m *Machine) Where() worker.Where { return worker.Where{In: m.Worker} }

// Close lets go of the machine. Workers in it are stopped before.
func (m *Machine) Close() { m.Worker.Stop() }

// Close lets go of the machines.
func (p *Pair) Close() {
	for _, m := range p {
		if m != nil {
			m.Close()
		}
	}
}
