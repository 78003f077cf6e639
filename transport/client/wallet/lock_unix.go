//go:build unix

package wallet

import (
	"os"

	"golang.org/x/sys/unix"
)

// lockFile takes the lock that a file stands for, which ends with the process at the latest.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		if err == unix.EWOULDBLOCK {
			err = errLocked
		}
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}
