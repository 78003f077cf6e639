package main

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.uber.org/zap"

	"lewes/cmd/config"
	"lewes/router"
)

// How a key of the configuration that has changed takes effect.
type effect int

const (
	atOnce    effect = iota + 1 // by SIGHUP
	atUpgrade                   // with the next process (SIGUSR2)
	atRestart                   // not with sockets and sessions as they are
)

// effects says it for keys, and for tables in which all keys are alike. What is not
// here takes an upgrade.
var effects = map[string]effect{
	"access":       atOnce,
	"egress":       atOnce,
	"flows":        atOnce,
	"forward":      atOnce,
	"gateway":      atOnce,
	"log.level":    atOnce,
	"memory_limit": atOnce,
	"session.max":  atOnce,

	"identity":         atRestart,
	"state_dir":        atRestart,
	"listen.addresses": atRestart,
	"listen.port":      atRestart,
	"listen.shards":    atRestart,
}

func effectOf(key string) effect {
	for _, name := range []string{key, strings.SplitN(key, ".", 2)[0]} {
		if e := effects[name]; e != 0 {
			return e
		}
	}
	return atUpgrade
}

// changes returns the keys in which two configurations differ, by how they take
// effect.
func changes(before, after *config.Config) map[effect][]string {
	found := make(map[effect][]string)
	var compare func(table string, a, b reflect.Value)
	compare = func(table string, a, b reflect.Value) {
		for i := range a.NumField() {
			key := table + a.Type().Field(i).Tag.Get("toml")
			switch x, y := a.Field(i), b.Field(i); {
			case x.Kind() == reflect.Struct:
				compare(key+".", x, y)
			case !reflect.DeepEqual(x.Interface(), y.Interface()):
				found[effectOf(key)] = append(found[effectOf(key)], key)
			}
		}
	}
	compare("", reflect.ValueOf(before).Elem(), reflect.ValueOf(after).Elem())
	return found
}

// reload reads the configuration again. All of it is checked before any of it is
// applied; if it cannot be read, the last one goes on to hold.
func (p *gatewayProcess) reload(ctx context.Context, g *router.Gateway) {
	next, err := p.load()
	if err == nil {
		err = p.apply(ctx, g, next)
	}
	if err != nil {
		p.log.Error("the configuration cannot be read again; the last one goes on to hold", zap.Error(err))
	}
}

// apply makes a configuration hold, as far as that goes while the gateway serves, and
// says what that leaves out.
func (p *gatewayProcess) apply(ctx context.Context, g *router.Gateway, next *config.Config) error {
	found := changes(p.config, next)
	if p.directory == nil && slices.Contains(found[atOnce], "gateway") {
		found[atOnce] = slices.DeleteFunc(found[atOnce], func(key string) bool { return key == "gateway" })
		found[atUpgrade] = append(found[atUpgrade], "gateway")
	}
	level, err := zap.ParseAtomicLevel(string(next.Log.Level))
	if err != nil {
		return fmt.Errorf("log.level: %w", err)
	}
	closed := 0
	if next.Access != p.config.Access {
		if err := p.guard.set(next); err != nil { // the only step that can fail comes first
			return err
		}
		closed = g.ReapplyAccess()
		p.guard.watch(ctx, g, p.chores)
	}
	p.level.SetLevel(level.Level())
	limitMemory(next)
	g.SetLimits(limitsOf(next))
	if p.directory != nil && slices.Contains(found[atOnce], "gateway") {
		p.directory.Replace(gatewaysOf(next))
		resolveDirectory(ctx, p.directory, p.log)
	}
	if err := p.policy.Replace(policyConfig(next)); err != nil {
		p.log.Warn("the host's own addresses cannot be read; those known are denied", zap.Error(err))
	}
	p.log.Info("read the configuration again",
		zap.Strings("changed", found[atOnce]), zap.Strings("needs_upgrade", found[atUpgrade]), zap.Strings("needs_restart", found[atRestart]),
		zap.Int("sessions_closed", closed), zap.Int("flows_closed", g.ReapplyPolicy()))
	p.settle(next)
	return nil
}

// settle notes what holds now, so that the next reading names again what this one did
// not apply.
func (p *gatewayProcess) settle(next *config.Config) {
	now := *p.config
	now.Access, now.Egress, now.Flows, now.Forward = next.Access, next.Egress, next.Flows, next.Forward
	now.Log.Level, now.MemoryLimit, now.Session.Max = next.Log.Level, next.MemoryLimit, next.Session.Max
	if p.directory != nil {
		now.Gateways = next.Gateways
	}
	p.config = &now
}
