package link

import (
	"os"

	"golang.org/x/sys/unix"
)

// openTUN creates a TUN device in the network namespace of the calling thread. It exists until it
// is closed. Packets have no extra header (IFF_NO_PI), and no offload is enabled, so the kernel
// sends whole packets with checksums.
func openTUN(name string) (Device, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("opening /dev/net/tun", err)
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("TUNSETIFF", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}
