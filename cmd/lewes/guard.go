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

// guard says who may use the gateway.
type guard struct {
	open bool
	path string
	list atomic.Pointer[access.List]
	log  *zap.Logger
}

// newGuard reads the list of clients for the first time.
func newGuard(c *config.Config, log *zap.Logger) (*guard, error) {
	g := &guard{open: c.Access.Mode == config.AccessOpen, path: c.ClientsFile(), log: log}
	if g.open {
		log.Warn(`access is open: everybody who knows this gateway's URI may use it`)
		return g, nil
	}
	list, err := access.Load(g.path)
	if err != nil {
		return nil, err
	}
	g.list.Store(list)
	g.sayIfEmpty(list)
	return g, nil
}

// sayIfEmpty says the line to type where nobody may use the gateway.
func (g *guard) sayIfEmpty(list *access.List) {
	if len(list.Entries()) == 0 {
		g.log.Warn("nobody may use this gateway yet; to list a client, type: " + addLine(g.path))
	}
}

// admit returns what a router asks; nil admits everybody.
func (g *guard) admit() func(identity.PublicKey) bool {
	if g.open {
		return nil
	}
	return func(client identity.PublicKey) bool { return g.list.Load().Contains(client) }
}

// watch reads the list again when it changes, until ctx is done.
func (g *guard) watch(ctx context.Context, gateway *router.Gateway) {
	if g.open {
		return
	}
	first := true
	access.Watch(ctx, g.path, clientsInterval, func(list *access.List) {
		before := len(g.list.Swap(list).Entries())
		closed := gateway.Readmit()
		if now := len(list.Entries()); !first || now != before {
			g.log.Info("read the list of clients again", zap.Int("clients", now), zap.Int("sessions_closed", closed))
			g.sayIfEmpty(list)
		}
		first = false
	}, func(err error) {
		g.log.Error("the list of clients has changed and cannot be read; the last one goes on to hold", zap.Error(err))
	})
}
