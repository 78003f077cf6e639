//go:build unix

package udp

import "golang.org/x/sys/unix"

// readable says whether fd has something to receive: a datagram or an error.
func readable(fd uintptr) bool { return poll(fd, unix.POLLIN, 0) }

func poll(fd uintptr, events int16, milliseconds int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for {
		n, err := unix.Poll(fds, milliseconds)
		if err != unix.EINTR {
			return n > 0
		}
	}
}
