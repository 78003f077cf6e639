package main

import (
	"go.uber.org/zap"

	"lewes/router/access"
)

// openGuard lets everybody in, listedGuard those on a list.

func openGuard() *guard {
	g := &guard{log: zap.NewNop()}
	g.rule.Store(&accessRule{open: true})
	return g
}

func listedGuard(list *access.List) *guard {
	g := &guard{log: zap.NewNop()}
	rule := new(accessRule)
	rule.list.Store(list)
	g.rule.Store(rule)
	return g
}
