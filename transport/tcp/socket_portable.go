//go:build !linux

package tcp

import (
	"errors"
	"net"
	"syscall"
	"time"
)

// errLinuxOnly: no other system spreads connections over the sockets of an address.
var errLinuxOnly = errors.New("exists on Linux alone")

func prepare(syscall.RawConn, time.Duration, bool) error { return nil }
func share(*net.TCPListener) error                       { return errLinuxOnly }
func fastOpens(*net.TCPListener) bool                    { return false }
