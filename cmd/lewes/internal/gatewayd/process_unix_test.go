//go:build unix

package gatewayd

import (
	"context"
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"lewes/router"
)

// signalled is a successor that records its signals.
type signalled struct{ got []os.Signal }

func (s *signalled) Signal(sig os.Signal) error {
	s.got = append(s.got, sig)
	return nil
}

// upgrading is a process in virtual time that is told to upgrade.
type upgrading struct {
	reload, upgrade chan os.Signal
	reloads         int
	logs            *observer.ObservedLogs
	next            signalled
	release         chan error // ends the upgrade

	ended      bool
	handedOver bool
	err        error
}

// startUpgrade runs handleSignals until it has begun an upgrade.
func startUpgrade(ctx context.Context) *upgrading {
	core, logs := observer.New(zap.WarnLevel)
	u := &upgrading{reload: make(chan os.Signal, 1), upgrade: make(chan os.Signal, 1), logs: logs, release: make(chan error)}
	p := &Process{signals: signals{u.reload, u.upgrade}, log: zap.New(core), start: func(f func()) { go f() }}
	go func() {
		u.handedOver, u.err = p.handleSignals(ctx, func() { u.reloads++ }, func(ctx context.Context) (successor, error) {
			select {
			case err := <-u.release:
				return &u.next, err
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		})
		u.ended = true
	}()
	u.upgrade <- syscall.SIGUSR2
	synctest.Wait()
	return u
}

// after sleeps and returns the messages logged so far.
func (u *upgrading) after(d time.Duration) string {
	time.Sleep(d)
	synctest.Wait()
	var all []string
	for _, e := range u.logs.All() {
		all = append(all, e.Message)
	}
	return strings.Join(all, "\n")
}

func TestHungSuccessorIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		u := startUpgrade(ctx)
		if got := u.after(upgradeSlow - 1); got != "" {
			t.Fatalf("logged too early: %s", got)
		}
		const slow, failed = "the successor has not taken over yet", "upgrade failed; keeping this process"
		if got := u.after(1); got != slow {
			t.Fatalf("logged %q after %v", got, upgradeSlow)
		}
		u.reload <- syscall.SIGHUP
		u.after(0)
		if u.reloads != 1 {
			t.Fatal("the reload waits for the upgrade")
		}
		if got := u.after(upgradeTimeout - upgradeSlow - 1); got != slow {
			t.Fatalf("logged %q before the timeout", got)
		}
		if got := u.after(1); got != slow+"\n"+failed {
			t.Fatalf("logged %q after %v", got, upgradeTimeout)
		}
		if err := u.logs.All()[1].ContextMap()["error"]; err != "the successor has not taken over within 20s" {
			t.Errorf("error %v", err)
		}
		// The next upgrade works.
		u.upgrade <- syscall.SIGUSR2
		u.release <- nil
		u.after(0)
		if !u.ended || !u.handedOver || u.err != nil || len(u.next.got) != 0 {
			t.Errorf("%+v", u)
		}
		cancel()
	})
}

func TestSignalsDuringUpgrade(t *testing.T) {
	for _, test := range []struct {
		name         string
		hangup, stop bool
		err          error
		handedOver   bool
		passed       []os.Signal
	}{
		{"none", false, false, nil, true, nil},
		{"a reload", true, false, nil, true, []os.Signal{syscall.SIGHUP}},
		{"the end, too late", false, true, nil, true, []os.Signal{syscall.SIGTERM}},
		{"both", true, true, nil, true, []os.Signal{syscall.SIGHUP, syscall.SIGTERM}},
		{"the end", false, true, errors.New("interrupted"), false, nil},
		{"the end of a lost gateway", false, true, router.ErrLost, true, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				core, _ := observer.New(zap.WarnLevel)
				reload, upgrade := make(chan os.Signal, 1), make(chan os.Signal, 1)
				p := &Process{signals: signals{reload, upgrade}, log: zap.New(core), start: func(f func()) { go f() }}
				var next signalled
				upgrade <- syscall.SIGUSR2
				handedOver, err := p.handleSignals(ctx, func() {}, func(context.Context) (successor, error) {
					if test.hangup {
						reload <- syscall.SIGHUP
						synctest.Wait()
					}
					if test.stop {
						cancel()
						synctest.Wait()
					}
					return &next, test.err
				})
				if handedOver != test.handedOver || errors.Is(err, router.ErrLost) != (test.err == router.ErrLost) || !slices.Equal(next.got, test.passed) {
					t.Errorf("handed over %v, %v, signals passed on %v", handedOver, err, next.got)
				}
			})
		})
	}
}

// TestShutdownEndsBeforeServiceManagerKills compares the time for notifications with the unit's.
func TestShutdownEndsBeforeServiceManagerKills(t *testing.T) {
	unit, err := os.ReadFile("../../../../deploy/lewes-gateway.service")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^TimeoutStopSec=(\S+)$`).FindSubmatch(unit)
	if found == nil {
		t.Fatal("the unit has no TimeoutStopSec")
	}
	kills, err := time.ParseDuration(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	const docker = 10 * time.Second // docker stop
	if least := min(kills, docker); shutdownTimeout > least-time.Second {
		t.Errorf("clients are notified for up to %v, the process is killed after %v", shutdownTimeout, least)
	}
}
