package router

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

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
	failed   atomic.Bool   // the last Refresh could not resolve a name
	wanted   chan struct{} // a client wants a gateway whose name has not been resolved

	mu     sync.Mutex // serialises changes of known, and guards silent
	silent silentAddrs
}

// Retries of names that could not be resolved.
const (
	minResolvePause = time.Second
	maxResolvePause = time.Minute
)

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
	d := &Directory{resolver: resolver, wanted: make(chan struct{}, 1)}
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
	d.mu.Lock()
	defer d.mu.Unlock()
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
		now.trusted[addrs[0]] = g.Identity
		addrs = d.silent.order(time.Now(), g.Host, addrs)
		now.byIdentity[g.Identity] = resolved{addrs, g.Port}
		for _, addr := range addrs {
			now.targets[netip.AddrPortFrom(addr, g.Port)] = true
		}
	}
	d.known.Store(now)
	d.failed.Store(len(errs) > 0)
	return errors.Join(errs...)
}

// Watch calls refresh, which calls Refresh, until ctx is done: 1, 2, 4 … s after a name could not be
// resolved, and when a client wants such a gateway, at most once a second.
func (d *Directory) Watch(ctx context.Context, refresh func()) {
	pause := minResolvePause
	for {
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-d.wanted:
			timer.Reset(minResolvePause)
			select {
			case <-ctx.Done():
				timer.Stop()
				return
			case <-timer.C:
			}
		case <-timer.C:
			if !d.failed.Load() {
				pause = minResolvePause
				continue
			}
		}
		refresh()
		pause = min(2*pause, maxResolvePause)
	}
}

// unresolved reports whether the directory lists a gateway whose name has not been resolved yet, and
// makes Watch try again.
func (d *Directory) unresolved(id identity.PublicKey) bool {
	if !d.lists(id) {
		return false
	}
	select {
	case d.wanted <- struct{}{}:
	default:
	}
	return true
}

// lists reports whether the directory contains a gateway, resolved or not.
func (d *Directory) lists(id identity.PublicKey) bool {
	return d != nil && slices.ContainsFunc(*d.gateways.Load(), func(g uri.Gateway) bool { return g.Identity == id })
}

// demote makes an address that does not answer the last of its gateway's, for minutes.
func (d *Directory) demote(now time.Time, id identity.PublicKey, addr netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	next := *d.known.Load()
	g := next.byIdentity[id]
	at := slices.IndexFunc(*d.gateways.Load(), func(g uri.Gateway) bool { return g.Identity == id })
	if len(g.addrs) < 2 || g.addrs[0] != addr || at < 0 {
		return
	}
	host := (*d.gateways.Load())[at].Host
	d.silent.add(now, host, addr)
	g.addrs = d.silent.order(now, host, g.addrs)
	next.byIdentity = maps.Clone(next.byIdentity)
	next.byIdentity[id] = g
	d.known.Store(&next)
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
