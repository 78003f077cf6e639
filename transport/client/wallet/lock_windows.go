package wallet

import (
	"os"

	"golang.org/x/sys/windows"
)

// lockFile takes the lock that a file stands for, which ends with the process at the latest.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	if err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, new(windows.Overlapped)); err != nil {
		_ = f.Close()
		if err == windows.ERROR_LOCK_VIOLATION {
			err = errLocked
		}
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}
