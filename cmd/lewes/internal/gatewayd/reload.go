package gatewayd

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"lewes/cmd/lewes/internal/config"
	"lewes/router"
)

// effect is what applies a changed key.
type effect int

const (
	byReload  effect = iota + 1 // SIGHUP
	byUpgrade                   // SIGUSR2: the next process
	byRestart                   // not possible with the present sockets and sessions
)

// effects lists keys, and tables whose keys are all alike. The others take an upgrade.
var effects = map[string]effect{
	"access":       byReload,
	"egress":       byReload,
	"flows":        byReload,
	"forward":      byReload,
	"gateway":      byReload,
	"log.level":    byReload,
	"memory_limit": byReload,
	"session.max":  byReload,

	"registration.issuers": byReload,

	"access.totals": byUpgrade,
	"egress.ports":  byUpgrade,

	"identity":         byRestart,
	"state_dir":        byRestart,
	"listen.addresses": byRestart,
	"listen.port":      byRestart,
	"listen.shards":    byRestart,
}

func effectOf(key string) effect {
	table, _, _ := strings.Cut(key, ".")
	for _, name := range []string{key, table} {
		if e := effects[name]; e != 0 {
			return e
		}
	}
	return byUpgrade
}

// changes returns the keys in which two configurations differ, by their effect.
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

// reload reads the configuration and applies it. A configuration with an error changes nothing.
func (p *Process) reload(ctx context.Context, g *router.Gateway) {
	next, err := p.Load()
	if err == nil {
		err = p.apply(ctx, g, next)
	}
	if err != nil {
		p.history.noteReload(&Reloaded{At: time.Now(), Error: err.Error(), Changed: []string{}})
		p.log.Error("cannot reload the configuration; keeping the previous one", zap.Error(err))
	}
}

// apply applies the keys that can change while the gateway serves, and logs the others.
func (p *Process) apply(ctx context.Context, g *router.Gateway, next *config.Config) error {
	found := changes(p.config, next)
	if p.directory == nil && slices.Contains(found[byReload], "gateway") {
		found[byReload] = slices.DeleteFunc(found[byReload], func(key string) bool { return key == "gateway" })
		found[byUpgrade] = append(found[byUpgrade], "gateway")
	}
	level, err := zap.ParseAtomicLevel(string(next.Log.Level))
	if err != nil {
		return fmt.Errorf("log.level: %w", err)
	}
	sessions, flows := 0, 0
	if next.Access != p.config.Access {
		before, err := p.access.apply(next, true)
		if err != nil { // the only step that can fail comes first
			return err
		}
		sessions = p.access.reapply(p.access.rule.Load(), before, g)
		p.access.watch(ctx, g, p.start)
	}
	if !slices.Equal(next.Registration.Issuers, p.config.Registration.Issuers) {
		p.issuers.replace(next.Registration.Issuers)
	}
	p.level.SetLevel(level.Level())
	limitMemory(next)
	fitted := *next
	fitted.TCP = p.config.TCP // which a reload does not change
	limits, _ := fitOpenFiles(&fitted, openFiles(), p.log)
	g.SetLimits(limits)
	if p.directory != nil && slices.Contains(found[byReload], "gateway") {
		p.directory.Replace(directoryOf(next))
		p.gatewayNames.Store(gatewayNames(next))
		resolveDirectory(ctx, p.directory, p.log)
		flows = g.ReapplyDirectory()
	}
	if !reflect.DeepEqual(next.Egress, p.config.Egress) {
		logWarnings(next, p.log)
	}
	if err := p.egress.replace(next); err != nil {
		p.log.Warn("cannot read the host's addresses; the known ones stay denied", zap.Error(err))
	}
	if slices.ContainsFunc(slices.Concat(found[byReload], found[byUpgrade]), decidesTargets) {
		flows += g.ReapplyPolicy()
	}
	p.log.Info("reloaded the configuration",
		zap.Strings("changed", found[byReload]), zap.Strings("needs_upgrade", found[byUpgrade]), zap.Strings("needs_restart", found[byRestart]),
		zap.Int("sessions_closed", sessions), zap.Int("flows_closed", flows))
	p.history.noteReload(&Reloaded{
		At: time.Now(), Changed: append([]string{}, found[byReload]...), NeedsUpgrade: found[byUpgrade], NeedsRestart: found[byRestart],
		SessionsClosed: sessions, FlowsClosed: flows,
	})
	p.commitConfig(next)
	return nil
}

// decidesTargets reports whether the targets that clients may reach depend on a key.
func decidesTargets(key string) bool {
	return strings.HasPrefix(key, "egress.") || key == "public" || key == "gateway"
}

// commitConfig records the keys that apply has applied, so that the next reload reports the others
// again.
func (p *Process) commitConfig(next *config.Config) {
	now := *p.config
	now.Access, now.Egress, now.Flows, now.Forward = next.Access, next.Egress, next.Flows, next.Forward
	now.Log.Level, now.MemoryLimit, now.Session.Max = next.Log.Level, next.MemoryLimit, next.Session.Max
	now.Registration.Issuers = next.Registration.Issuers
	now.Access.Totals, now.Egress.Ports = p.config.Access.Totals, p.config.Egress.Ports
	if p.directory != nil {
		now.Gateways = next.Gateways
	}
	p.config = &now
}
