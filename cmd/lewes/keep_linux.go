package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"lewes/router"
)

const (
	// keptState and keptSocket are by what names systemd keeps a gateway's state, and
	// its sockets, for the next one (FDNAME= of sd_notify(3)).
	keptState  = "lewes-state"
	keptSocket = "lewes-socket"
	// firstKept is the first descriptor that systemd passes (sd_listen_fds(3)).
	firstKept = 3
)

// leave has systemd keep the gateway's sockets and, in memory that is no file, its
// sessions, for the next process of the service. After an error the gateway goes on,
// and nothing is kept.
func leave(g *router.Gateway) (err error) {
	if os.Getenv("NOTIFY_SOCKET") == "" {
		return errors.New("systemd does not listen to this process (Type=notify)")
	}
	fd, err := unix.MemfdCreate(keptState, unix.MFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	file := os.NewFile(uintptr(fd), keptState)
	defer file.Close()
	defer func() {
		if err != nil {
			_ = file.Truncate(0)
			err = errors.Join(err, forgetKept())
		}
	}()
	if err := keep(keptState, fd); err != nil { // without it the sockets would be of no use
		return err
	}
	return g.Store(file, func(fds []int) error { return keep(keptSocket, fds...) })
}

// keep has systemd keep descriptors, whatever becomes of their sockets.
func keep(name string, fds ...int) error {
	return notifyWith("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, fds...)
}

// forgetKept has systemd close what it keeps.
func forgetKept() error {
	return errors.Join(notify("FDSTOREREMOVE=1\nFDNAME="+keptState), notify("FDSTOREREMOVE=1\nFDNAME="+keptSocket))
}

// notifyWith is notify with descriptors.
func notifyWith(state string, fds ...int) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: os.Getenv("NOTIFY_SOCKET"), Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("leaving sockets with systemd: %w", err)
	}
	defer conn.Close()
	if err = conn.SetWriteDeadline(time.Now().Add(notifyPatience)); err == nil {
		err = send(conn, []byte(state), syscall.UnixRights(fds...))
	}
	if err != nil {
		return fmt.Errorf("leaving sockets with systemd: %w", err)
	}
	return nil
}

// send sends a datagram with a control message on a connected socket, which net does
// not.
func send(conn *net.UnixConn, b, control []byte) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		failed = syscall.Sendmsg(int(fd), b, control, nil, 0)
		return failed != syscall.EAGAIN
	})
	if failed == nil {
		return err
	}
	return os.NewSyscallError("sendmsg", failed)
}

// keptFiles returns what the last process of the service has left, nil for the state
// if there is nothing. From then on only this process has it.
func keptFiles() (state *os.File, sockets []*os.File, err error) {
	pid, n := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		_ = os.Unsetenv(name) // a successor's are not these
	}
	if pid != strconv.Itoa(os.Getpid()) {
		return nil, nil, nil
	}
	count, err := strconv.ParseUint(n, 10, 31)
	if err != nil {
		return nil, nil, fmt.Errorf("LISTEN_FDS=%q is no number", n)
	}
	for i := range int(count) {
		syscall.CloseOnExec(firstKept + i)
		file, name := os.NewFile(uintptr(firstKept+i), "kept"), ""
		if i < len(names) {
			name = names[i]
		}
		switch {
		case name == keptSocket:
			sockets = append(sockets, file)
		case name == keptState && state == nil:
			state = file
		default:
			_ = file.Close()
		}
	}
	if state == nil && sockets == nil {
		return nil, nil, nil
	}
	return state, sockets, forgetKept()
}
