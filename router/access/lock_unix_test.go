//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package access

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// hold locks a directory as any user can who may read it.
func hold(t *testing.T, dir string) *os.File {
	t.Helper()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	if err := unix.Flock(int(d.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestLockHasDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := file(t, "")
		d := hold(t, filepath.Dir(path))
		start := time.Now()
		err := Add(path, Entry{Identity: client(1)})
		if !errors.Is(err, ErrLocked) || content(t, path) != "" {
			t.Fatalf("error %v, want ErrLocked", err)
		}
		if waited := time.Since(start); waited != lockTimeout {
			t.Errorf("waited for %v of virtual time, want %v", waited, lockTimeout)
		}
		for _, text := range []string{path, "fuser -v " + filepath.Dir(path), "try again"} {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%q lacks %q", err, text)
			}
		}
		// A lock that is released in time delays the edit only.
		time.AfterFunc(lockTimeout/2, func() { _ = d.Close() })
		if err := Add(path, Entry{Identity: client(1)}); err != nil {
			t.Error(err)
		}
	})
}
