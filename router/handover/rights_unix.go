//go:build unix

package handover

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

var (
	rightsSpace = syscall.CmsgSpace(4 * MaxFiles)
	errTooMany  = syscall.Errno(syscall.ETOOMANYREFS)

	errCut = errors.New("handover: lost descriptors: too many open files")
)

// rightsOf returns the control message for descriptors.
func rightsOf(fds []int) []byte {
	if len(fds) == 0 {
		return nil
	}
	return syscall.UnixRights(fds...)
}

// filesOf returns the descriptors in control messages.
func filesOf(oob []byte, flags int) (files []*os.File, err error) {
	if len(oob) > 0 {
		messages, err := syscall.ParseSocketControlMessage(oob)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFrame, err)
		}
		for i := range messages {
			fds, err := syscall.ParseUnixRights(&messages[i])
			if err != nil {
				return files, fmt.Errorf("%w: %w", ErrFrame, err)
			}
			for _, fd := range fds {
				files = append(files, os.NewFile(uintptr(fd), "passed"))
			}
		}
	}
	if flags&syscall.MSG_CTRUNC != 0 {
		return files, errCut
	}
	return files, nil
}

// Pair returns the two ends of a handover connection: one for this process, and a file for a successor,
// which the caller closes after starting that process.
func Pair() (*Conn, *os.File, error) {
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, fmt.Errorf("handover: %w", os.NewSyscallError("socketpair", err))
	}
	theirs := os.NewFile(uintptr(fds[1]), "handover")
	file := os.NewFile(uintptr(fds[0]), "handover")
	defer file.Close()
	c, err := net.FileConn(file)
	if err != nil {
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("handover: %w", err)
	}
	return New(c.(*net.UnixConn)), theirs, nil
}
