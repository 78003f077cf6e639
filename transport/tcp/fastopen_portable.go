//go:build !linux

package tcp

import "syscall"

// fastOpen is nil where no option of the socket does it.
var fastOpen func(network, address string, raw syscall.RawConn) error
