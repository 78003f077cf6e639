// Package netns gives a bench two machines: network namespaces with nothing in them but what
// the bench puts there, joined by a pair of virtual Ethernet devices. They have no
// names and no way out, and are gone when the last process in them is.
//
// Addresses are of the networks that are kept for documentation, which nobody has.
package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"

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

// Machine is one of the two: a namespace, and its address on the wire between them.
type Machine struct {
	Worker *worker.Process // who keeps it
	Addr   netip.Addr
}

// Pair is two machines and a wire.
type Pair [2]Machine

// Wire is the network between the machines.
var Wire = netip.MustParsePrefix("192.0.2.0/24")

// NewPair makes two machines. The error wraps worker.ErrNoNamespaces, or ErrNoIP, where
// that is why it cannot.
func NewPair(ctx context.Context, l worker.Launcher) (*Pair, error) {
	if _, err := exec.LookPath("ip"); err != nil {
		return nil, ErrNoIP
	}
	p := new(Pair)
	if err := p.set(ctx, l); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// set sets the machines up.
func (p *Pair) set(ctx context.Context, l worker.Launcher) (err error) {
	addr := Wire.Addr()
	for i := range p {
		addr = addr.Next()
		p[i].Addr = addr
		if p[i].Worker, err = l.Start(ctx, RoleName, worker.None{}, nil, worker.Where{New: true}); err != nil {
			return err
		}
	}
	if err := p[0].IP(ctx, "link", "add", "wire0", "type", "veth", "peer", "name", "wire1", "netns", strconv.Itoa(p[1].Worker.PID())); err != nil {
		return err
	}
	for i := range p {
		device := "wire" + strconv.Itoa(i)
		for _, args := range [][]string{
			{"link", "set", "lo", "up"},
			{"addr", "add", netip.PrefixFrom(p[i].Addr, Wire.Bits()).String(), "dev", device},
			{"link", "set", device, "up"},
		} {
			if err := p[i].IP(ctx, args...); err != nil {
				return err
			}
		}
	}
	return nil
}

// IP runs the program ip in the machine.
func (m *Machine) IP(ctx context.Context, args ...string) error {
	return m.Worker.Call(ctx, "ip", args, nil)
}

// Where says how to run a worker in the machine.
func (m *Machine) Where() worker.Where { return worker.Where{In: m.Worker} }

// Close lets go of the machines. Workers in them are stopped before.
func (p *Pair) Close() {
	for _, m := range p {
		if m.Worker != nil {
			m.Worker.Stop()
		}
	}
}
