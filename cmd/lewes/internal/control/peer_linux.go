package control

import (
	"net"

	"golang.org/x/sys/unix"
)

// peerOf returns the process that has connected (SO_PEERCRED).
func peerOf(c *net.UnixConn) peer {
	raw, err := c.SyscallConn()
	if err != nil {
		return peer{}
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || credErr != nil {
		return peer{}
	}
	return peer{known: true, uid: int(cred.Uid), pid: int(cred.Pid)}
}
