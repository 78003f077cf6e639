package tcp

import (
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// fastOpenQueue bounds the connections with data in the SYN that are not accepted yet.
const fastOpenQueue = 256

// fastOpen lets the packet travel in the SYN (RFC 7413) if the kernel has a cookie of the
// gateway; without one, or on an old kernel, connecting works as usual.
func fastOpen(_, _ string, raw syscall.RawConn) error {
	return raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1)
	})
}

// prepare sets the options of a listening socket before it is bound. Options that the
// kernel lacks are skipped. Connections inherit userTimeout, which bounds how long the
// kernel keeps unacknowledged data after the close.
func prepare(raw syscall.RawConn, userTimeout time.Duration, shared bool) error {
	return onFD(raw, func(fd int) error {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN, fastOpenQueue)
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
		if shared {
			return reusePort(fd)
		}
		return nil
	})
}

// allowReusePort lets other sockets of this user listen on the same address.
func allowReusePort(l *net.TCPListener) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	return onFD(raw, reusePort)
}

func reusePort(fd int) error {
	return os.NewSyscallError("setsockopt SO_REUSEPORT", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
}

// fastOpenEnabled reports whether the socket and the system (second bit of
// net.ipv4.tcp_fastopen) accept data in the SYN.
func fastOpenEnabled(l *net.TCPListener) bool {
	raw, err := l.SyscallConn()
	if err != nil {
		return false
	}
	err = onFD(raw, func(fd int) error {
		queue, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN)
		if err == nil && queue == 0 {
			return unix.EOPNOTSUPP
		}
		return err
	})
	if err != nil {
		return false
	}
	text, err := os.ReadFile("/proc/sys/net/ipv4/tcp_fastopen")
	if err != nil {
		return false
	}
	flags, err := strconv.Atoi(strings.TrimSpace(string(text)))
	return err == nil && flags&2 != 0
}

func onFD(raw syscall.RawConn, f func(fd int) error) (err error) {
	if e := raw.Control(func(fd uintptr) { err = f(int(fd)) }); e != nil {
		return e
	}
	return err
}
