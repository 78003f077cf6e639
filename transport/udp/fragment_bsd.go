//go:build darwin || freebsd

package udp

import (
	"os"

	"golang.org/x/sys/unix"
)

func dontFragment(fd uintptr, v6 bool) error {
	level, opt := unix.IPPROTO_IP, unix.IP_DONTFRAG
	if v6 {
		level, opt = unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG
	}
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(int(fd), level, opt, 1))
}
