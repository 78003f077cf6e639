package network

import (
	"context"
	"errors"
	"net/netip"

	"lewes/bench/e2e/link"
	"lewes/bench/e2e/netns"
	"lewes/bench/worker"
)

// Addresses on the link, on the wires behind it, and of the NAT.
var (
	ClientAddrs  = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")}
	GatewayAddrs = []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("2001:db8::2/64")}
	NATAddrs     = []netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2")}

	EntryToExit  = [2]netip.Prefix{netip.MustParsePrefix("198.51.100.1/30"), netip.MustParsePrefix("198.51.100.2/30")}
	ExitToTarget = [2]netip.Prefix{netip.MustParsePrefix("198.51.100.5/30"), netip.MustParsePrefix("198.51.100.6/30")}
)

// Network is machines and the link between the first two. Close releases it.
type Network struct {
	Machine map[string]*netns.Machine
	Link    *link.Link // from the client (end A) to its first gateway (end B)

	first *netns.Machine // the first gateway's
}

// New makes machines of these names: the client, its first gateway, and others, which Wire joins.
// Its errors are those of netns.New and link.Join.
func New(ctx context.Context, l worker.Launcher, client, gateway string, others ...string) (*Network, error) {
	n := &Network{Machine: make(map[string]*netns.Machine)}
	if err := n.set(ctx, l, append([]string{client, gateway}, others...)); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

func (n *Network) set(ctx context.Context, l worker.Launcher, names []string) (err error) {
	for _, name := range names {
		if n.Machine[name], err = netns.New(ctx, l); err != nil {
			delete(n.Machine, name)
			return err
		}
	}
	n.first = n.Machine[names[1]]
	n.Link, err = link.Join(ctx, link.End{Machine: n.Machine[names[0]], Addrs: ClientAddrs}, link.End{Machine: n.first, Addrs: GatewayAddrs}, 1)
	return err
}

// Wire joins two machines without faults.
func (n *Network) Wire(ctx context.Context, a, b string, addrs [2]netip.Prefix) error {
	return netns.Join(ctx, n.Machine[a], n.Machine[b], a[:3]+"-"+b[:3], addrs[:1], addrs[1:])
}

// NAT puts a NAT between the client and its first gateway.
func (n *Network) NAT(ctx context.Context) error {
	for _, a := range NATAddrs {
		if err := n.first.IP(ctx, "route", "add", a.String(), "dev", "link0"); err != nil {
			return err
		}
	}
	n.Link.Translate(NATAddrs...)
	return nil
}

// Unavailable reports whether an error of New means that this system or user cannot have such a
// network.
func Unavailable(err error) bool {
	return errors.Is(err, worker.ErrNoNamespaces) || errors.Is(err, netns.ErrNoIP)
}

// Close releases the link and the machines. Processes in them must have been killed.
func (n *Network) Close() {
	if n.Link != nil {
		_ = n.Link.Close()
	}
	for _, m := range n.Machine {
		m.Close()
	}
}
