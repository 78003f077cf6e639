//go:build unix

package tcp

import (
	"syscall"

	"lewes/transport"
)

// convertErrno returns the error that e stands for, or nil.
func convertErrno(e syscall.Errno) error {
	switch e {
	case syscall.ECONNREFUSED:
		return transport.ErrRefused
	case syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED:
		return ErrAborted
	case syscall.ETIMEDOUT:
		return ErrTimeout
	case syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.ENETDOWN:
		return transport.ErrUnreachable
	case syscall.EPERM, syscall.EACCES:
		return transport.ErrDenied
	case syscall.EINVAL, syscall.EADDRNOTAVAIL, syscall.EAFNOSUPPORT:
		return transport.ErrAddress
	case syscall.ENOBUFS, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE:
		return transport.ErrFull
	}
	return nil
}
