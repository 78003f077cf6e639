package access

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// ErrChanged means that a file was changed by something else while it was edited.
var ErrChanged = errors.New("something else changed it meanwhile")

// replace puts text in the place of the file at path. before is what that file was
// when it was read, nil if there was none.
func replace(path string, text []byte, before fs.FileInfo) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("access: list of clients %s cannot be written: %w", path, err)
		}
	}()
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*.tmp") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name()) // the error at hand is the one to tell
		}
	}()
	if _, err := f.Write(text); err != nil {
		return err
	}
	if err := keepAccess(f, dir, before); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if !stampOf(path).same(stamp{info: before}) {
		return fmt.Errorf("%w; try again", ErrChanged)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// keepAccess gives a new file the mode and the owner of the one that it replaces.
// One that replaces none belongs to whom the folder belongs to, where we may give
// it away: what an administrator makes for a service, the service has to read.
func keepAccess(f *os.File, dir string, before fs.FileInfo) error {
	if before != nil {
		// The owner first: a change of owner may change the mode.
		if err := giveTo(f, before); err != nil {
			return fmt.Errorf("its owner cannot be kept: %w", err)
		}
		return f.Chmod(before.Mode().Perm())
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if err := giveTo(f, info); err != nil && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}

// syncDir makes the name of a new file durable. Windows cannot sync a folder and
// does not need it.
func syncDir(path string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
