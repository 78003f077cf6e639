//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// wishOf says what a signal asks of a gateway.
var wishOf = map[os.Signal]wish{
	syscall.SIGHUP:  wishReload,
	syscall.SIGUSR2: wishUpgrade,
}

// wishes returns what is asked of a gateway by signals, from now on: SIGHUP to read
// its configuration again, SIGUSR2 to start its successor.
func wishes() (asked <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP, syscall.SIGUSR2)
	return c, func() { signal.Stop(c) }
}
