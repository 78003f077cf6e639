package tcp

import (
	"syscall"

	"golang.org/x/sys/windows"

	"lewes/transport"
)

// convertErrno returns the error that e stands for, or nil.
func convertErrno(e syscall.Errno) error {
	switch e {
	case windows.WSAECONNREFUSED:
		return transport.ErrRefused
	case windows.WSAECONNRESET, windows.WSAECONNABORTED, windows.WSAESHUTDOWN:
		return ErrAborted
	case windows.WSAETIMEDOUT:
		return ErrTimeout
	case windows.WSAEHOSTUNREACH, windows.WSAENETUNREACH, windows.WSAEHOSTDOWN, windows.WSAENETDOWN:
		return transport.ErrUnreachable
	case windows.WSAEACCES:
		return transport.ErrDenied
	case syscall.EINVAL, windows.WSAEINVAL, windows.WSAEADDRNOTAVAIL, windows.WSAEAFNOSUPPORT:
		return transport.ErrAddress
	case windows.WSAENOBUFS, windows.WSAEMFILE:
		return transport.ErrFull
	}
	return nil
}
