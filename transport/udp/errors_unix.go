//go:build unix

package udp

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// errorKind classifies e.
func errorKind(e syscall.Errno) ErrorKind {
	switch e {
	case syscall.EMSGSIZE:
		return TooLarge
	case syscall.EAGAIN:
		return Full
	case syscall.ENOBUFS, syscall.ENOMEM:
		return NoBuffers
	case syscall.ECONNREFUSED, syscall.ECONNRESET:
		return Refused
	case syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.ENETDOWN,
		syscall.ENOPROTOOPT, syscall.EPROTO: // ENOPROTOOPT and EPROTO: other ICMP errors
		return Unreachable
	case syscall.EPERM, syscall.EACCES:
		return Denied
	case syscall.EINVAL, syscall.EADDRNOTAVAIL, syscall.EAFNOSUPPORT, syscall.EDESTADDRREQ, syscall.ENODEV, syscall.ENXIO:
		return Address
	}
	return Other
}

// readable reports whether fd has a datagram or an error queued.
func readable(fd uintptr) bool { return poll(fd, unix.POLLIN, 0) }

func poll(fd uintptr, events int16, milliseconds int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for {
		n, err := unix.Poll(fds, milliseconds)
		if err != unix.EINTR {
			return n > 0
		}
	}
}
