//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// wishes returns what is asked of a gateway by signals, from now on: SIGHUP to read
// its configuration again, SIGUSR2 to start its successor. Each has a channel of its
// own, so that none is lost for another one that waits.
func wishes() (asked wished, stop func()) {
	reload, upgrade := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	signal.Notify(upgrade, syscall.SIGUSR2)
	return wished{reload, upgrade}, func() {
		signal.Stop(reload)
		signal.Stop(upgrade)
	}
}
