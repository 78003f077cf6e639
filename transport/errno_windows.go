package transport

import (
	"syscall"

	"golang.org/x/sys/windows"
)

// portable maps errors of Windows to their Unix counterparts.
var portable = map[syscall.Errno]syscall.Errno{
	windows.ERROR_HOST_UNREACHABLE:    syscall.EHOSTUNREACH,
	windows.ERROR_NETWORK_UNREACHABLE: syscall.ENETUNREACH,
	windows.ERROR_PORT_UNREACHABLE:    syscall.ECONNREFUSED,
	windows.WSAEACCES:                 syscall.EACCES,
	windows.WSAEADDRNOTAVAIL:          syscall.EADDRNOTAVAIL,
	windows.WSAEAFNOSUPPORT:           syscall.EAFNOSUPPORT,
	windows.WSAECONNABORTED:           syscall.ECONNABORTED,
	windows.WSAECONNREFUSED:           syscall.ECONNREFUSED,
	windows.WSAECONNRESET:             syscall.ECONNRESET,
	windows.WSAEDESTADDRREQ:           syscall.EDESTADDRREQ,
	windows.WSAEHOSTDOWN:              syscall.EHOSTDOWN,
	windows.WSAEHOSTUNREACH:           syscall.EHOSTUNREACH,
	windows.WSAEINVAL:                 syscall.EINVAL,
	windows.WSAEMFILE:                 syscall.EMFILE,
	windows.WSAEMSGSIZE:               syscall.EMSGSIZE,
	windows.WSAENETDOWN:               syscall.ENETDOWN,
	windows.WSAENETRESET:              syscall.EPROTO, // TTL expired
	windows.WSAENETUNREACH:            syscall.ENETUNREACH,
	windows.WSAENOBUFS:                syscall.ENOBUFS,
	windows.WSAESHUTDOWN:              syscall.EPIPE,
	windows.WSAETIMEDOUT:              syscall.ETIMEDOUT,
	windows.WSAEWOULDBLOCK:            syscall.EAGAIN,
}

// PortableErrno returns the Unix counterpart of e, or e if it has none.
func PortableErrno(e syscall.Errno) syscall.Errno {
	if p, ok := portable[e]; ok {
		return p
	}
	return e
}
