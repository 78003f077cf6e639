package gatewayd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"lewes/cmd/lewes/internal/config"
	"lewes/router"
	"lewes/router/policy"
)

const (
	publicInterval      = 5 * time.Minute  // of the resolution of public names
	publicRetryInterval = 30 * time.Second // the same while one does not resolve
	resolveTimeout      = 5 * time.Second  // of all names, also of other gateways
)

// egress holds the egress policy and the gateway's own addresses.
type egress struct {
	policy   *policy.Policy
	resolver router.Resolver
	replaced chan struct{} // capacity 1: names has changed

	mu    sync.Mutex
	own   []netip.Addr
	names map[string][]netip.Addr // addresses of the public names, nil if unknown
}

// newEgress returns the egress policy of a configuration, which denies this machine's addresses.
// An error concerns the system's routing table; then the addresses of the interfaces remain. The
// table stays open until the process ends.
func newEgress(c *config.Config, resolver router.Resolver) (*egress, error) {
	e := &egress{resolver: resolver, replaced: make(chan struct{}, 1)}
	settings := e.configure(c)
	routes, err := policy.OpenRoutes()
	switch {
	case err == nil:
		settings.Routes = routes
	case errors.Is(err, errors.ErrUnsupported):
		err = nil
	}
	e.policy = policy.New(settings)
	return e, err
}

// replace applies another configuration.
func (e *egress) replace(c *config.Config) error {
	err := e.policy.Replace(e.configure(c))
	select {
	case e.replaced <- struct{}{}:
	default:
	}
	return err
}

func (e *egress) configure(c *config.Config) policy.Config {
	e.mu.Lock()
	defer e.mu.Unlock()
	names := make(map[string][]netip.Addr)
	e.own = slices.Clone(c.Egress.Own)
	for _, h := range c.Public {
		if addr, err := netip.ParseAddr(h.Name); err == nil {
			e.own = append(e.own, addr)
		} else {
			names[h.Name] = e.names[h.Name]
		}
	}
	e.names = names
	settings := c.Egress.Policy()
	settings.Own = e.addresses
	return settings
}

// addresses returns the gateway's own addresses.
func (e *egress) addresses() []netip.Addr {
	e.mu.Lock()
	own := slices.Clone(e.own)
	for _, addrs := range e.names {
		own = append(own, addrs...)
	}
	e.mu.Unlock()
	return policy.HostAddrs(own...)()
}

// logWarnings logs the egress rules without an effect.
func logWarnings(c *config.Config, log *zap.Logger) {
	for _, w := range c.Warnings() {
		log.Warn("egress rule without effect", zap.String("key", w.Key), zap.String("reason", w.Reason))
	}
}

// resolve resolves the public names, and reports whether their addresses have changed. A name that
// does not resolve keeps its addresses; the error names all of these.
func (e *egress) resolve(ctx context.Context) (changed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	e.mu.Lock()
	names := make([]string, 0, len(e.names))
	for name := range e.names {
		names = append(names, name)
	}
	e.mu.Unlock()
	slices.Sort(names)
	var errs []error
	for _, name := range names {
		addrs, err := e.resolver.LookupNetIP(ctx, "ip", name)
		if err != nil {
			errs = append(errs, fmt.Errorf("public name %s: %w", name, err))
			continue
		}
		slices.SortFunc(addrs, netip.Addr.Compare)
		e.mu.Lock()
		if known, still := e.names[name]; still && !slices.Equal(known, addrs) {
			e.names[name], changed = addrs, true
		}
		e.mu.Unlock()
	}
	return changed, errors.Join(errs...)
}

// watch resolves the public names until ctx is done. apply is called when an address has changed.
func (e *egress) watch(ctx context.Context, log *zap.Logger, apply func()) {
	failing := false
	for {
		changed, err := e.resolve(ctx)
		if changed {
			if _, err := e.policy.Refresh(); err != nil {
				log.Warn("cannot read the host's addresses; the known ones stay denied", zap.Error(err))
			}
			apply()
		}
		if err != nil && !failing && ctx.Err() == nil {
			log.Warn("cannot resolve a public name; the addresses that it gets are not denied as targets until that succeeds", zap.Error(err))
		}
		failing = err != nil
		interval := publicInterval
		if failing {
			interval = publicRetryInterval
		}
		select {
		case <-ctx.Done():
			return
		case <-e.replaced:
		case <-time.After(interval):
		}
	}
}

// EgressPolicy returns the policy that a gateway with a configuration has on this machine. The error
// concerns public names and gateways that do not resolve and a routing table that cannot be read; the
// policy is without them.
func EgressPolicy(ctx context.Context, c *config.Config) (*policy.Policy, error) {
	e, routesErr := newEgress(c, net.DefaultResolver)
	_, namesErr := e.resolve(ctx)
	_, refreshErr := e.policy.Refresh()
	directory := router.NewDirectory(directoryOf(c), net.DefaultResolver)
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	directoryErr := directory.Refresh(ctx)
	e.policy.DenyGateways(directory.Serves)
	return e.policy, errors.Join(routesErr, namesErr, refreshErr, directoryErr)
}
