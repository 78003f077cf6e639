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

// fastOpenQueue bounds the connections whose data came with the first segment and
// that are not accepted yet.
const fastOpenQueue = 256

// prepare sets a listening socket's options before it is bound; patience is how long
// a peer may take to acknowledge. What an old kernel lacks is done without.
func prepare(raw syscall.RawConn, patience time.Duration, shared bool) error {
	return onFD(raw, func(fd int) error {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN, fastOpenQueue)
		// Connections take it over: what a peer does not acknowledge after the close
		// does not stay with the kernel for minutes.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(patience.Milliseconds()))
		if shared {
			return reusePort(fd)
		}
		return nil
	})
}

// share lets other sockets of this user listen on the same address.
func share(l *net.TCPListener) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	return onFD(raw, reusePort)
}

func reusePort(fd int) error {
	return os.NewSyscallError("setsockopt SO_REUSEPORT", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
}

// fastOpens reports whether the kernel takes data with the first segment: the socket
// says so, and the system allows servers it (the second bit of tcp_fastopen).
func fastOpens(l *net.TCPListener) bool {
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
