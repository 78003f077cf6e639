package router

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"

	"lewes/router/policy"
	"lewes/state/wire"
	"lewes/transport/uri"
)

// Shows R8.31.
func TestPlainFlowToDirectoryGatewayIsDenied(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.Resolver = memResolver{"exit.example": {exitAddr.Addr(), target.Addr()}}
		c.Directory = NewDirectory([]uri.Gateway{{Identity: exitID, Host: "exit.example", Port: exitAddr.Port()}}, c.Resolver)
		if err := c.Directory.Refresh(context.Background()); err != nil {
			t.Fatal(err)
		}
	})
	p := r.connect(2, clientAt)
	for i, denied := range []netip.AddrPort{exitAddr, netip.AddrPortFrom(target.Addr(), exitAddr.Port())} {
		p.data(uint16(i), denied, "x")
		if got := p.closedWith(); got != []string{"0:1 ", "1:1 "}[i] {
			t.Errorf("%v: %q", denied, got)
		}
	}
	p.named(2, "exit.example", exitAddr.Port(), "x")
	p.receive(1)
	if got := p.closedWith(); got != "2:1 " {
		t.Errorf("by name: %q", got)
	}
	if len(r.egress.conns) != 0 {
		t.Error("a socket was opened")
	}
	// Other services of the same machine, and the gateway through a forward.
	p.data(3, netip.AddrPortFrom(exitAddr.Addr(), 53), "x")
	p.forward(4, &exitID, inner(100, true))
	if got := p.closedWith(); got != "" || len(r.egress.conns) != 2 {
		t.Errorf("%q, %d sockets, want 2", got, len(r.egress.conns))
	}
}

// swapResolver resolves every name to one address.
type swapResolver struct{ addr atomic.Pointer[netip.Addr] }

func (r *swapResolver) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{*r.addr.Load()}, nil
}

// Shows R8.31, R8.32.
func TestDirectoryChangeClosesPlainFlows(t *testing.T) {
	resolver := new(swapResolver)
	resolver.addr.Store(new(exitAddr.Addr()))
	var gateways *Directory
	g, at := started(t, func(c *Config) {
		gateways = NewDirectory(nil, resolver)
		c.Directory = gateways
	})
	gateways.Replace([]uri.Gateway{{Identity: exitID, Host: "exit.example", Port: at.Port()}})
	g.resolveDirectory(t.Context())
	l := dialLive(t, 2, loopback(g))
	l.connect()
	l.echo(at, "before")
	resolver.addr.Store(new(at.Addr()))
	g.resolveDirectory(t.Context())
	waitUntil(t, func() bool { return g.Stats().Flows == 0 })
	m := &wire.EncryptedData{FlowID: 1, Flags: wire.FlagTarget, Target: wire.AddrTarget(at), Payload: []byte("x")}
	if err := l.session.Send(wire.TypeEncryptedData, m, &l.out); err != nil {
		t.Fatal(err)
	}
	if !l.until(func() bool { return g.Stats().FlowsRefused > 0 }) {
		t.Error("a flow to the new address is not refused")
	}
}

// network is a routing table that changes.
type network struct {
	local   atomic.Pointer[netip.Addr]
	changed chan struct{}
}

func (n *network) Route(addr netip.Addr) (policy.Route, error) {
	if local := n.local.Load(); local != nil && *local == addr {
		return policy.RouteLocal, nil
	}
	return policy.RouteRemote, nil
}

func (n *network) Wait(ctx context.Context) error {
	select {
	case <-n.changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// An address that becomes the gateway's own ends the flows to it.
//
// Shows R8.32.
func TestNetworkChangeClosesFlows(t *testing.T) {
	routes := &network{changed: make(chan struct{})}
	g, _ := started(t, func(c *Config) {
		c.Policy = policy.New(policy.Config{Routes: routes})
		c.Egress = &memEgress{conns: map[netip.AddrPort]*memConn{}}
	})
	l := dialLive(t, 2, loopback(g))
	l.connect()
	for i, to := range []netip.AddrPort{target, exitAddr} {
		m := &wire.EncryptedData{FlowID: uint16(i), Flags: wire.FlagTarget, Target: wire.AddrTarget(to), Payload: []byte("x")}
		if err := l.session.Send(wire.TypeEncryptedData, m, &l.out); err != nil {
			t.Fatal(err)
		}
	}
	if !l.until(func() bool { return g.Stats().Flows == 2 }) {
		t.Fatal("the flows did not open")
	}
	routes.local.Store(new(target.Addr()))
	routes.changed <- struct{}{}
	waitUntil(t, func() bool { return g.Stats().Flows == 1 })
}
