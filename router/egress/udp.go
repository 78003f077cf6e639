package egress

import (
	"errors"
	"net/netip"
	"os"
	"syscall"

	"lewes/router/account"
	"lewes/transport"
	"lewes/transport/udp"
)

// UDP opens connected UDP sockets. They hold no buffer while they are idle.
type UDP struct {
	Options udp.Options
	Ports   *Ports // nil: the system chooses
}

// Dial opens a socket to target for an account; the zero Key is the gateway itself.
func (e *UDP) Dial(target netip.AddrPort, by account.Key) (transport.Conn, error) {
	o := e.options()
	if e.Ports != nil {
		o.Ports = &share{e.Ports, by}
	}
	return udp.Dial(target, o)
}

// Inherit takes over a socket that another process dialled, and closes the file.
func (e *UDP) Inherit(file *os.File) (transport.Conn, error) {
	o := e.options()
	if e.Ports != nil {
		o.Ports = e.Ports
	}
	return udp.InheritConn(file, o)
}

func (e *UDP) options() udp.Options {
	o := e.Options
	o.Pooled = true
	o.Fragment = true // targets do not discover the path MTU
	return o
}

// Shortage returns what the machine ran out of if Dial failed for that reason and not because of the
// target, otherwise "".
func Shortage(err error) string {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return ""
	}
	switch transport.PortableErrno(errno) {
	case syscall.EMFILE, syscall.ENFILE:
		return "file descriptors"
	case syscall.ENOBUFS, syscall.ENOMEM:
		return "memory for sockets"
	case syscall.EADDRNOTAVAIL, syscall.EADDRINUSE, syscall.EAGAIN:
		return "local ports"
	}
	return ""
}
