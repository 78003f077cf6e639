package udp

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const portsSupported = true

// portTries bounds the ports that bind tries: sockets of other programs may have some of them.
const portTries = 16

// bind binds a socket that is not connected yet. SO_REUSEADDR lets several sockets share a port; the
// kernel passes datagrams to the one that is connected to their source.
func (b *portBinding) bind(network string, raw syscall.RawConn) error {
	return onFD(raw, func(fd int) error {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return os.NewSyscallError("setsockopt SO_REUSEADDR", err)
		}
		for range portTries {
			var err error
			if b.port, err = b.ports.Take(b.target); err != nil {
				b.port = 0
				return err
			}
			var local unix.Sockaddr = &unix.SockaddrInet4{Port: int(b.port)}
			if network == "udp6" {
				local = &unix.SockaddrInet6{Port: int(b.port)}
			}
			if err = unix.Bind(fd, local); err == nil {
				return nil
			}
			b.release()
			if err != unix.EADDRINUSE {
				return os.NewSyscallError("bind", err)
			}
		}
		return os.NewSyscallError("bind", unix.EADDRNOTAVAIL)
	})
}

// maxDiscarded bounds discardReceived. It exceeds the datagrams that fit into the receive buffer.
const maxDiscarded = 1 << 14

// discardReceived drops what a socket received before it was connected: datagrams of anyone, and late
// ones of its peer to an earlier socket on the port.
func (c *Conn) discardReceived() {
	_ = onFD(c.raw, func(fd int) error {
		for range maxDiscarded {
			switch _, _, err := unix.Recvfrom(fd, nil, unix.MSG_DONTWAIT); err {
			case nil:
				c.counters.unexpectedSource.Add(1)
			case unix.EINTR:
			default:
				return nil
			}
		}
		return nil
	})
}
