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

// initInherited disables GRO if the previous owner enabled it and this one does not want
// it, and initializes the drop counter.
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

// Indexes of SO_MEMINFO.
const (
	memInfoDrops = 8
	memInfoVars  = 9
)

// dropsOf returns the kernel's drop counter of a socket, or 0 if unknown.
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
