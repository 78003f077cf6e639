//go:build !linux

package tcp

import (
	"errors"
	"net"
	"syscall"
	"time"
)

// fastOpen is nil: TCP Fast Open is supported on Linux only.
var fastOpen func(network, address string, raw syscall.RawConn) error

func prepare(syscall.RawConn, time.Duration, bool) error { return nil }
func allowReusePort(*net.TCPListener) error              { return errors.ErrUnsupported }
func fastOpenEnabled(*net.TCPListener) bool              { return false }
