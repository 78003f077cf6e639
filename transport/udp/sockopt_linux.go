package udp

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// prepare sets what a socket needs before it is bound, so that its first datagram
// is received like every other.
func prepare(network string, raw syscall.RawConn, o *Options, connected bool) (s setup, err error) {
	v6 := network == "udp6"
	if e := raw.Control(func(fd uintptr) {
		s, err = prepareFD(int(fd), v6, o, connected)
	}); e != nil {
		return s, e
	}
	return s, err
}

func prepareFD(fd int, v6 bool, o *Options, connected bool) (s setup, err error) {
	s.receiveBuffer = setBuffer(fd, unix.SO_RCVBUF, unix.SO_RCVBUFFORCE, bufferAsked(o.ReceiveBuffer))
	s.sendBuffer = setBuffer(fd, unix.SO_SNDBUF, unix.SO_SNDBUFFORCE, bufferAsked(o.SendBuffer))
	// A kernel without this counter (before 2.6.33) drops as well, and does not say
	// so.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)
	if !connected {
		level, opt := unix.SOL_IP, unix.IP_PKTINFO
		if v6 {
			level, opt = unix.SOL_IPV6, unix.IPV6_RECVPKTINFO
		}
		if err := unix.SetsockoptInt(fd, level, opt, 1); err != nil {
			return s, fmt.Errorf("ask for the address that a datagram came to: %w", os.NewSyscallError("setsockopt", err))
		}
	}
	if connected && !o.Portable {
		level, opt := unix.SOL_IP, unix.IP_RECVERR
		if v6 {
			level, opt = unix.SOL_IPV6, unix.IPV6_RECVERR
		}
		// Without it errors are told of as on other systems.
		_ = unix.SetsockoptInt(fd, level, opt, 1)
	}
	if !o.Fragment {
		level, opt, probe := unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE
		if v6 {
			level, opt, probe = unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE
		}
		s.mayFragment = os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, opt, probe))
	}
	return s, nil
}

// setBuffer asks for a socket buffer, past the system's limit first, which needs
// CAP_NET_ADMIN.
func setBuffer(fd, opt, force, size int) Buffer {
	if size > 0 && unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, size) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt, size) // what was granted is read back
	}
	granted, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, opt)
	if err != nil {
		return Buffer{Requested: size}
	}
	return Buffer{Requested: size, Granted: granted / 2} // the kernel doubles it for its own needs
}

// joinReceived switches UDP_GRO on.
func joinReceived(raw syscall.RawConn) (err error) {
	return onFD(raw, func(fd int) error {
		return os.NewSyscallError("setsockopt UDP_GRO", unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_GRO, 1))
	})
}

// share lets other sockets of this user bind the same address.
func share(raw syscall.RawConn) error {
	return onFD(raw, func(fd int) error {
		return os.NewSyscallError("setsockopt SO_REUSEPORT", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	})
}

func onFD(raw syscall.RawConn, f func(fd int) error) (err error) {
	if e := raw.Control(func(fd uintptr) { err = f(int(fd)) }); e != nil {
		return e
	}
	return err
}
