package gatewayd

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"lewes/cmd/lewes/internal/config"
	"lewes/crypto/identity"
	"lewes/router"
	"lewes/router/access"
	"lewes/router/account"
	"lewes/router/unlisted"
)

// clientsInterval is how often the list of clients is checked for changes, by a stat that takes about a
// microsecond. Two checks find a change, so that it applies within 200 ms.
const clientsInterval = 80 * time.Millisecond

// accessControl decides which clients may use the gateway. standing is safe for concurrent use; the other
// methods belong to the process's main goroutine.
type accessControl struct {
	rule      atomic.Pointer[accessRule]
	stale     atomic.Bool // the file has changed and cannot be used
	log       *zap.Logger
	relimit   func(changed []identity.PublicKey) // applies limits of bandwidth; nil: none are
	stopWatch func()
}

// accessRule is the access section of one configuration, with the list as it was read. It is immutable.
type accessRule struct {
	open   bool
	counts bool // the bandwidth of listed clients is counted
	path   string
	list   *access.List // nil if open
}

// newAccessControl returns the access control of a starting gateway. Invalid lines of its list are
// logged and admit no client; strict makes them an error.
func newAccessControl(c *config.Config, strict bool, log *zap.Logger) (*accessControl, error) {
	a := &accessControl{log: log}
	if _, err := a.apply(c, strict); err != nil {
		return nil, err
	}
	if list := a.rule.Load().list; list != nil {
		var invalid *access.InvalidError
		if errors.As(list.Err(), &invalid) {
			for _, l := range invalid.Lines {
				log.Error("a line of the list of clients is invalid and admits no client", zap.String("file", l.Path), zap.Int("line", l.Line), zap.String("value", l.Value), zap.Error(l.Err), zap.Int("invalid_lines", invalid.Count))
			}
		}
	}
	return a, nil
}

// apply switches to another configuration, and returns the rule that it replaces. strict makes an
// invalid line in the list an error. After an error the previous configuration is still in effect.
func (a *accessControl) apply(c *config.Config, strict bool) (before *accessRule, err error) {
	rule := &accessRule{open: c.Access.Mode == config.AccessOpen, counts: c.Registration.Access == config.RegistrationListed, path: c.ClientsFile()}
	if rule.open {
		a.log.Warn("access is open: anyone with the gateway's URI may use it")
		return a.rule.Swap(rule), nil
	}
	if rule.list, err = access.Load(rule.path); err != nil {
		return nil, err
	}
	if err := rule.list.Err(); err != nil && strict {
		return nil, err
	}
	before = a.rule.Swap(rule)
	a.stale.Store(false)
	a.warn(rule)
	return before, nil
}

// invalid reports whether lines of the list in effect are invalid, as they may be at the start.
func (a *accessControl) invalid() bool {
	list := a.rule.Load().list
	return list != nil && list.Err() != nil
}

// reapply applies the difference of a rule from the one that it replaces to the gateway, and returns the
// number of sessions that it closes.
func (a *accessControl) reapply(r, before *accessRule, gateway *router.Gateway) (closed int) {
	switch {
	case r.open:
		return 0
	case before.open:
		return gateway.ReapplyAccess()
	}
	removed, changed := r.diff(before, time.Now())
	if a.relimit != nil {
		a.relimit(changed)
	}
	return gateway.ReapplyClients(removed, changed)
}

// diff returns the clients that a replaced rule admits and this one does not, and those with new limits.
func (r *accessRule) diff(before *accessRule, now time.Time) (removed, changed []identity.PublicKey) {
	added, removed, changed := access.Diff(before.list, r.list)
	changed = append(changed, added...) // added again with other limits
	for _, client := range changed {
		if limits, _ := r.list.Find(client); limits.Expired(now) {
			removed = append(removed, client)
		}
	}
	return removed, changed
}

// warn logs what is probably a mistake in the list of a rule.
func (a *accessControl) warn(r *accessRule) {
	if len(r.list.Entries()) == 0 {
		a.log.Warn("the list of clients is empty: no client may use this gateway", zap.String("add_with", AddClientCommand(r.path)))
	}
	if r.list.LimitsBytes() && !r.counts {
		a.log.Warn("limits of bytes in the list of clients have no effect; set registration.access = \"listed\"")
	}
}

// standing returns what the list of clients says of a client.
func (a *accessControl) standing(client identity.PublicKey) account.Standing {
	rule := a.rule.Load()
	if rule.open {
		return account.Standing{Admitted: true}
	}
	limits, listed := rule.list.Find(client)
	return account.Standing{Admitted: listed && !limits.Expired(time.Now()), Listed: listed, Limits: limits}
}

// expireInterval is how often sessions of clients whose last day has ended are looked for.
const expireInterval = 10 * time.Second

// closeExpired closes the sessions of clients whose last day ends, by Gateway.ReapplyClients, until ctx is
// done.
func (a *accessControl) closeExpired(ctx context.Context, reapply func(removed, changed []identity.PublicKey) int) {
	ticker := time.NewTicker(expireInterval)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		list, now := a.rule.Load().list, time.Now()
		if list != nil {
			if expired := list.Expired(last, now); len(expired) > 0 {
				closed := reapply(expired, nil)
				a.log.Info("clients of the list have expired", zap.Int("clients", len(expired)), zap.Int("sessions_closed", closed))
			}
		}
		last = now
	}
}

// listed reports whether a client is in the list.
func (a *accessControl) listed(client identity.PublicKey) bool { return a.standing(client).Listed }

// logUnlisted logs a client that is refused because it is not in the list. It is called under a shard's
// lock; the log bounds the lines.
func (a *accessControl) logUnlisted(e unlisted.Entry) {
	if a.listed(e.Identity) {
		if line := a.log.Check(zap.InfoLevel, "refused a client whose last day in the list has ended"); line != nil {
			line.Write(zap.Stringer("identity", e.Identity))
		}
		return
	}
	if line := a.log.Check(zap.WarnLevel, "refused a client that is not in the list; add it only if you know this identity"); line != nil {
		line.Write(zap.Stringer("source", e.Source), zap.String("add_with", ClientsCommand("add", a.rule.Load().path, e.Identity.String())))
	}
}

// watch reloads the list when its file changes, until ctx is done or watch is called again.
func (a *accessControl) watch(ctx context.Context, gateway *router.Gateway, start func(func())) {
	if a.stopWatch != nil {
		a.stopWatch()
	}
	ctx, a.stopWatch = context.WithCancel(ctx)
	rule := a.rule.Load()
	if rule.open {
		return
	}
	start(func() { a.closeExpired(ctx, gateway.ReapplyClients) })
	start(func() {
		access.Watch(ctx, rule.list, clientsInterval, func(list *access.List) {
			a.stale.Store(false)
			before := rule
			rule = &accessRule{counts: before.counts, path: before.path, list: list}
			if !a.rule.CompareAndSwap(before, rule) {
				return // a reload has replaced it
			}
			closed := a.reapply(rule, before, gateway)
			a.log.Info("reloaded the list of clients", zap.Int("clients", len(list.Entries())), zap.Int("sessions_closed", closed))
			a.warn(rule)
		}, func(err error) {
			a.stale.Store(true)
			a.log.Error("cannot reload the list of clients; keeping the previous one", zap.Error(err))
		})
	})
}

// AddClientCommand returns the command that adds a client to the list at path.
func AddClientCommand(path string) string { return ClientsCommand("add", path, "IDENTITY NAME") }

// ClientsCommand returns a command of "lewes clients" for the list at path.
func ClientsCommand(command, path, arguments string) string {
	if c, err := config.LoadOrDefault("", ""); err == nil && c.ClientsFile() == path && os.Getenv("STATE_DIRECTORY") == "" {
		return "lewes clients " + command + " " + arguments
	}
	if absolute, err := filepath.Abs(path); err == nil {
		path = absolute
	}
	return "lewes clients " + command + " --file " + shellQuote(path) + " " + arguments
}

// shellQuote returns s as one word of a POSIX shell.
func shellQuote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-:+@,", r)
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
