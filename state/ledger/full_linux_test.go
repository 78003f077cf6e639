package ledger

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// smallDisk mounts a file system of a size in a new directory.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// A full disk fails the changes that meet it and nothing else: what was answered stays, and once there is space the ledger
// goes on.
func TestDiskFull(t *testing.T) {
	dir := smallDisk(t, "1m")
	ballast := filepath.Join(dir, "ballast")
	path := filepath.Join(dir, "ledger")
	l := open(t, path)
	if err := os.WriteFile(ballast, make([]byte, 800<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	spent := 0
	for ; spent < 10_000; spent++ {
		if _, err = l.Commit(context.Background(), numbered("", spent)); err != nil {
			break
		}
	}
	if spent < spenders || !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "free space") {
		t.Fatalf("after %d tickets: %v", spent, err)
	}
	if found, _, err := l.Spent(*numbered("", spent).Ticket, numbered("", spent).Account, [32]byte{}); found || err != nil {
		t.Errorf("the refused ticket: %v, %v", found, err)
	}
	if !errors.Is(l.Err(), ErrFull) || l.Stats().Failures == 0 {
		t.Errorf("state %v, %+v", l.Err(), l.Stats())
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if r := commit(t, l, numbered("", spent)); r.Outcome != New {
		t.Errorf("with space: %v", r.Outcome)
	}
	if s := l.Stats(); l.Err() != nil || s.Transactions != uint64(spent)+1 || s.Accounts != spenders {
		t.Errorf("state %v, %+v", l.Err(), s)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if r, err := Check(path); err != nil || r.Err() != nil || r.Spent != spent+1 {
		t.Errorf("%v, %+v", err, r)
	}
}

func TestReadOnlyDisk(t *testing.T) {
	dir := smallDisk(t, "4m")
	path := filepath.Join(dir, "ledger")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Skipf("cannot remount: %v", err)
	}
	if _, err := Open(path, Options{Gateway: gateway, Now: start}); !errors.Is(err, ErrReadOnly) || !strings.Contains(err.Error(), "writable") {
		t.Errorf("%v", err)
	}
	if r, err := Check(path); err != nil || r.Err() != nil {
		t.Errorf("%v, %+v", err, r)
	}
	if _, err := Open(filepath.Join(dir, "other"), Options{Gateway: gateway, Now: start}); !errors.Is(err, ErrReadOnly) {
		t.Errorf("new: %v", err)
	}
}
