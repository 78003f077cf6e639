package tcp

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// fastOpen lets a connection's packet travel with its first segment (RFC 7413). The
// kernel does so where the gateway gave it a cookie before, and connects as ever where
// not; a kernel that does not know how is no loss.
func fastOpen(_, _ string, raw syscall.RawConn) error {
	return raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1)
	})
}
