package udp

import (
	"os"

	"golang.org/x/sys/windows"
)

// From ws2ipdef.h; both families have the same number.
const optDontFragment = 14

func dontFragment(fd uintptr, v6 bool) error {
	level := windows.IPPROTO_IP
	if v6 {
		level = windows.IPPROTO_IPV6
	}
	return os.NewSyscallError("setsockopt", windows.SetsockoptInt(windows.Handle(fd), level, optDontFragment, 1))
}
