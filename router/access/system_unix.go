//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package access

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lock keeps other editors of the lists in a directory waiting until unlock. It
// locks the directory, since the files in it are replaced. File systems without
// such locks are used without: replace still checks for changes. It returns
// ErrLocked if another program holds the lock for longer than lockTimeout.
func lock(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for until := time.Now().Add(lockTimeout); ; time.Sleep(lockRetry) {
		err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return func() { _ = d.Close() }, nil // closing unlocks
		}
		if !time.Now().Before(until) {
			_ = d.Close()
			return nil, fmt.Errorf("%w: its directory %s, for more than %v; find the program with: fuser -v %s, end it and try again", ErrLocked, dir, lockTimeout, dir)
		}
	}
}

// chownLike gives f the owner and the group of another file.
func chownLike(f *os.File, like fs.FileInfo) error {
	want, ok := like.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if have, ok := info.Sys().(*syscall.Stat_t); ok && have.Uid == want.Uid && have.Gid == want.Gid {
		return nil
	}
	return f.Chown(int(want.Uid), int(want.Gid))
}
