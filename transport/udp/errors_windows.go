package udp

import (
	"syscall"

	"golang.org/x/sys/windows"
)

// errorKind classifies e.
func errorKind(e syscall.Errno) ErrorKind {
	switch e {
	case windows.WSAEMSGSIZE:
		return TooLarge
	case windows.WSAEWOULDBLOCK:
		return Full
	case windows.WSAENOBUFS:
		return NoBuffers
	case windows.WSAECONNREFUSED, windows.WSAECONNRESET, windows.ERROR_PORT_UNREACHABLE:
		return Refused
	case windows.WSAEHOSTUNREACH, windows.WSAENETUNREACH, windows.WSAEHOSTDOWN, windows.WSAENETDOWN, windows.WSAENETRESET,
		windows.ERROR_HOST_UNREACHABLE, windows.ERROR_NETWORK_UNREACHABLE:
		return Unreachable
	case windows.WSAEACCES:
		return Denied
	case syscall.EINVAL, syscall.EAFNOSUPPORT, windows.WSAEINVAL, windows.WSAEADDRNOTAVAIL, windows.WSAEAFNOSUPPORT, windows.WSAEDESTADDRREQ:
		return Address
	}
	return Other
}
