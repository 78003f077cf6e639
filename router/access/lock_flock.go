//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package access

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// lock keeps other editors of a folder's lists waiting until unlock. The folder is
// what is locked, since the files in it are replaced. A file system that has no
// such locks is used without: replace still looks for changes.
func lock(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(d.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return func() { _ = d.Close() }, nil // which unlocks
}
