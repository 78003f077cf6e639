//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package issuer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// lock fails if another issuer uses the directory.
func lock(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("state directory of the issuer: %w", err)
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		_ = d.Close()
		return nil, fmt.Errorf("another issuer uses %s; find it with: fuser -v %s", dir, dir)
	}
	return func() { _ = d.Close() }, nil // closing unlocks
}

// chownLikeDirectory gives a new file of root to the owner of its directory: root makes vouchers for an issuer that
// runs as another user.
func chownLikeDirectory(f *os.File) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(filepath.Dir(f.Name()))
	if err != nil {
		return err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && owner.Uid != 0 {
		return f.Chown(int(owner.Uid), int(owner.Gid))
	}
	return nil
}
