//go:build unix

package gatewayd

import (
	"os"
	"os/signal"
	"syscall"
)

// notifySignals subscribes to SIGHUP (reload) and SIGUSR2 (upgrade).
func notifySignals() (s signals, stop func()) {
	reload, upgrade := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	signal.Notify(upgrade, syscall.SIGUSR2)
	return signals{reload, upgrade}, func() {
		signal.Stop(reload)
		signal.Stop(upgrade)
	}
}
