package main

import (
	"context"
	"sync/atomic"

	"go.uber.org/zap"

	"lewes/cmd/config"
	"lewes/crypto/identity"
	"lewes/router"
	"lewes/router/access"
)

// guard says who may use the gateway. Its owner calls its methods, any goroutine what
// admit returns.
type guard struct {
	rule  atomic.Pointer[accessRule]
	log   *zap.Logger
	leave func() // the file that is watched
}

// accessRule is who may use the gateway, by a configuration.
type accessRule struct {
	open bool
	path string
	list atomic.Pointer[access.List] // nil where everybody may
}

// newGuard reads the list of clients for the first time.
func newGuard(c *config.Config, log *zap.Logger) (*guard, error) {
	g := &guard{log: log}
	return g, g.set(c)
}

// set makes it the guard of another configuration. After an error nothing has changed.
func (g *guard) set(c *config.Config) error {
	rule := &accessRule{open: c.Access.Mode == config.AccessOpen, path: c.ClientsFile()}
	if rule.open {
		g.log.Warn(`access is open: everybody who knows this gateway's URI may use it`)
		g.rule.Store(rule)
		return nil
	}
	list, err := access.Load(rule.path)
	if err != nil {
		return err
	}
	rule.list.Store(list)
	g.rule.Store(rule)
	g.sayIfEmpty(rule, list)
	return nil
}

// sayIfEmpty says the line to type where nobody may use the gateway.
func (g *guard) sayIfEmpty(rule *accessRule, list *access.List) {
	if len(list.Entries()) == 0 {
		g.log.Warn("nobody may use this gateway yet; to list a client, type: " + addLine(rule.path))
	}
}

// admit returns what a router asks.
func (g *guard) admit() func(identity.PublicKey) bool {
	return func(client identity.PublicKey) bool {
		rule := g.rule.Load()
		return rule.open || rule.list.Load().Contains(client)
	}
}

// watch reads the list again when it changes, in a goroutine of its own, until ctx is
// done or watch is called again.
func (g *guard) watch(ctx context.Context, gateway *router.Gateway, start func(func())) {
	if g.leave != nil {
		g.leave()
	}
	ctx, g.leave = context.WithCancel(ctx)
	rule := g.rule.Load()
	if rule.open {
		return
	}
	start(func() {
		first := true
		access.Watch(ctx, rule.path, clientsInterval, func(list *access.List) {
			before := len(rule.list.Swap(list).Entries())
			closed := gateway.ReapplyAccess()
			if now := len(list.Entries()); !first || now != before {
				g.log.Info("read the list of clients again", zap.Int("clients", now), zap.Int("sessions_closed", closed))
				g.sayIfEmpty(rule, list)
			}
			first = false
		}, func(err error) {
			g.log.Error("the list of clients has changed and cannot be read; the last one goes on to hold", zap.Error(err))
		})
	})
}
