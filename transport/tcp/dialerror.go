package tcp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"

	"lewes/state/path"
)

// dialError gives what went wrong with a connection its name, and leaves out the
// addresses that package net writes.
func dialError(to netip.AddrPort, err error) error {
	var errno syscall.Errno
	var timeout net.Error
	switch {
	case errors.Is(err, ErrBadLength):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = fmt.Errorf("%w: in the middle of an answer", ErrAborted)
	case errors.As(err, &errno):
		err = cause(errno)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		err = ErrTimeout
	}
	return fmt.Errorf("tcp: %s: %w", path.MaskAddrPort(to), err)
}

// cause gives e its name.
func cause(e syscall.Errno) error {
	named := reason(e)
	if named == nil {
		return e
	}
	return fmt.Errorf("%w (%w)", named, e)
}
