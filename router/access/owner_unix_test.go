//go:build unix

package access

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestEditKeepsOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give files away")
	}
	const user, group = 54321, 54322
	wantOwner := func(path string) {
		t.Helper()
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		s, ok := info.Sys().(*syscall.Stat_t)
		if !ok || s.Uid != user || s.Gid != group || info.Mode().Perm() != 0o600 {
			t.Errorf("%s belongs to %d:%d with mode %v, want %d:%d and 0600", path, s.Uid, s.Gid, info.Mode(), user, group)
		}
	}

	path := file(t, client(1).String()+" anna\n")
	if err := os.Chown(path, user, group); err != nil {
		t.Fatal(err)
	}
	if err := Add(path, Entry{Identity: client(2)}); err != nil {
		t.Fatal(err)
	}
	wantOwner(path)
	if _, err := Remove(path, "anna"); err != nil {
		t.Fatal(err)
	}
	wantOwner(path)

	// A new file gets the directory's owner, so that the gateway can read a file that
	// an administrator creates.
	dir := t.TempDir()
	if err := os.Chown(dir, user, group); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "clients")
	if err := Add(path, Entry{Identity: client(1)}); err != nil {
		t.Fatal(err)
	}
	wantOwner(path)
}
