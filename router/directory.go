package router

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"lewes/crypto/identity"
	"lewes/transport/uri"
)

// identityKey is a gateway's identity as a map key.
type identityKey = identity.PublicKey

// Directory holds the gateways that this one forwards to, by identity. A client names an identity,
// never an address (section 8).
type Directory struct {
	gateways atomic.Pointer[[]uri.Gateway]
	resolver Resolver
	known    atomic.Pointer[known]
}

// known is immutable.
type known struct {
	byIdentity map[identityKey]resolved
	trusted    map[netip.Addr]identityKey
	targets    map[netip.AddrPort]bool
}

// resolved is a gateway's addresses, the one in use first, and its UDP port.
type resolved struct {
	addrs []netip.Addr
	port  uint16
}

// NewDirectory returns a directory of gateways. Refresh resolves their names.
func NewDirectory(gateways []uri.Gateway, resolver Resolver) *Directory {
	d := &Directory{resolver: resolver}
	d.Replace(gateways)
	d.known.Store(&known{})
	return d
}

// Replace replaces the gateways with the next Refresh. Gateway.ReapplyDirectory ends the open flows to
// removed gateways.
func (d *Directory) Replace(gateways []uri.Gateway) {
	gateways = slices.Clone(gateways)
	d.gateways.Store(&gateways)
}

// Refresh resolves every gateway's host name. A name that cannot be resolved keeps its address; the
// error names all of these.
func (d *Directory) Refresh(ctx context.Context) error {
	before := d.known.Load()
	now := &known{byIdentity: make(map[identityKey]resolved), trusted: make(map[netip.Addr]identityKey), targets: make(map[netip.AddrPort]bool)}
	var errs []error
	for _, g := range *d.gateways.Load() {
		addrs, err := d.resolve(ctx, g.Host)
		if err != nil {
			errs = append(errs, fmt.Errorf("gateway %s: %w", g.Host, err))
			if addrs = before.byIdentity[g.Identity].addrs; len(addrs) == 0 {
				continue
			}
		}
		now.byIdentity[g.Identity] = resolved{addrs, g.Port}
		now.trusted[addrs[0]] = g.Identity
		for _, addr := range addrs {
			now.targets[netip.AddrPortFrom(addr, g.Port)] = true
		}
	}
	d.known.Store(now)
	return errors.Join(errs...)
}

// resolve returns at least one address without an error.
func (d *Directory) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr.Unmap()}, nil
	}
	found, err := d.resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s has no address", host)
	}
	addrs := make([]netip.Addr, len(found))
	for i, addr := range found {
		addrs[i] = addr.Unmap()
	}
	return addrs, nil
}

// Find returns the address of a gateway.
func (d *Directory) Find(id identity.PublicKey) (netip.AddrPort, bool) {
	if d == nil {
		return netip.AddrPort{}, false
	}
	g, ok := d.known.Load().byIdentity[id]
	if !ok {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(g.addrs[0], g.port), true
}

// Serves reports whether a gateway of the directory receives packets at an address and UDP port. A
// name's further addresses count as well.
func (d *Directory) Serves(target netip.AddrPort) bool {
	return d != nil && d.known.Load().targets[target]
}

// Trusts reports whether an address belongs to a gateway of the directory. Handshakes from there have
// a budget of their own.
func (d *Directory) Trusts(addr netip.Addr) bool {
	return d.at(addr) != identity.PublicKey{}
}
