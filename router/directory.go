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

type known struct {
	byIdentity map[identityKey]netip.AddrPort
	addrs      map[netip.Addr]bool
}

// NewDirectory returns a directory of gateways. Refresh resolves their names.
func NewDirectory(gateways []uri.Gateway, resolver Resolver) *Directory {
	d := &Directory{resolver: resolver}
	d.Replace(gateways)
	d.known.Store(&known{})
	return d
}

// Replace replaces the gateways with the next Refresh. Open flows to removed gateways stay; new ones
// are refused.
func (d *Directory) Replace(gateways []uri.Gateway) {
	gateways = slices.Clone(gateways)
	d.gateways.Store(&gateways)
}

// Refresh resolves every gateway's host name. A name that cannot be resolved keeps its address; the
// error names all of these.
func (d *Directory) Refresh(ctx context.Context) error {
	before := d.known.Load()
	now := &known{byIdentity: make(map[identityKey]netip.AddrPort), addrs: make(map[netip.Addr]bool)}
	var errs []error
	for _, g := range *d.gateways.Load() {
		addr, err := d.resolve(ctx, g.Host)
		if err != nil {
			errs = append(errs, fmt.Errorf("gateway %s: %w", g.Host, err))
			if last, ok := before.byIdentity[g.Identity]; ok {
				addr = last.Addr()
			} else {
				continue
			}
		}
		now.byIdentity[g.Identity] = netip.AddrPortFrom(addr, g.Port)
		now.addrs[addr] = true
	}
	d.known.Store(now)
	return errors.Join(errs...)
}

func (d *Directory) resolve(ctx context.Context, host string) (netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.Unmap(), nil
	}
	addrs, err := d.resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.Addr{}, err
	}
	if len(addrs) == 0 {
		return netip.Addr{}, fmt.Errorf("%s has no address", host)
	}
	return addrs[0].Unmap(), nil
}

// Find returns the address of a gateway.
func (d *Directory) Find(id identity.PublicKey) (netip.AddrPort, bool) {
	if d == nil {
		return netip.AddrPort{}, false
	}
	addr, ok := d.known.Load().byIdentity[id]
	return addr, ok
}

// Trusts reports whether an address belongs to a gateway of the directory. Handshakes from there have
// a budget of their own.
func (d *Directory) Trusts(addr netip.Addr) bool {
	return d != nil && d.known.Load().addrs[addr.Unmap()]
}
