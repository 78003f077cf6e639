package udp

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func checkInherit() error { return nil }

func cookieOf(raw syscall.RawConn) (cookie uint64, err error) {
	err = onFD(raw, func(fd int) (err error) {
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
		return os.NewSyscallError("getsockopt SO_COOKIE", err)
	})
	return cookie, unwrapNetError(err)
}

// initInherited takes back what the last owner of the socket wanted and this one
// does not, and begins to count what the kernel drops where the last one stopped.
func (c *Conn) initInherited(o *Options) error {
	return onFD(c.raw, func(fd int) error {
		if (o.NoGRO || o.Portable) && Probe().GRO == nil {
			if err := unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 0); err != nil {
				return os.NewSyscallError("setsockopt UDP_GRO", err)
			}
		}
		if m, ok := c.io.(*mmsg); ok {
			m.drops = dropsOf(fd)
		}
		return nil
	})
}

// The figures of SO_MEMINFO.
const (
	memInfoDrops = 8
	memInfoVars  = 9
)

// dropsOf returns how many datagrams the kernel has dropped at a socket, 0 where it
// does not say.
func dropsOf(fd int) uint32 {
	var info [memInfoVars]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if e != 0 || size < uint32(unsafe.Sizeof(info)) {
		return 0
	}
	return info[memInfoDrops]
}
