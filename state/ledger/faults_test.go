package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"lewes/crypto/identity"
	"lewes/state/snapshot"
)

// filled returns the path of a closed ledger with something of everything.
func filled(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ledger")
	l := open(t, path)
	for n := range byte(40) {
		e := spendEntry(client(n), n, 10+uint32(n%2))
		e.Attach = peer(n, fmt.Sprintf("10.0.0.%d", n+2))
		e.Result = func(Account) []byte { return bytes.Repeat([]byte{n}, 100) }
		commit(t, l, e)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// alter changes a value of a closed ledger behind its back.
func alter(t testing.TB, path, bucket string, key []byte, change func([]byte) []byte) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		return b.Put(key, change(bytes.Clone(b.Get(key))))
	}); err != nil {
		t.Fatal(err)
	}
}

// A file that cannot be used gives a sentence with its path and a remedy, and is left as it is.
func TestUnusableFiles(t *testing.T) {
	now := Options{Gateway: gateway, Now: start}
	for name, test := range map[string]struct {
		prepare func(path string)
		options Options
		want    error
		piece   string
	}{
		"text": {func(path string) { os.WriteFile(path, bytes.Repeat([]byte("text\n"), 5000), 0o600) }, now, ErrForeign, "not this gateway's"},
		"another database": {func(path string) {
			os.Remove(path)
			db, _ := bolt.Open(path, 0o600, nil)
			db.Close()
		}, now, ErrForeign, "bucket"},
		"another gateway": {func(string) {}, Options{Gateway: identity.PublicKey{9}, Now: start}, ErrForeign, "belongs to"},
		"newer": {func(path string) {
			alter(t, path, bucketHeader, []byte(bucketHeader), func([]byte) []byte {
				return encodeValue(bucketHeader, []byte(bucketHeader), func(c *snapshot.Codec) {
					m, v := []byte(magic), uint32(version+1)
					c.Fixed(m)
					c.Uint32(&v)
				})
			})
		}, now, ErrNewer, "version 2"},
		"damaged header": {func(path string) {
			alter(t, path, bucketHeader, []byte(bucketHeader), func(b []byte) []byte { b[9]++; return b })
		}, now, ErrDamaged, "checksum"},
		"truncated": {func(path string) { os.Truncate(path, 9000) }, now, ErrDamaged, "damaged"},
		"one page":  {func(path string) { os.Truncate(path, 5000) }, now, ErrDamaged, "too small"},
		"empty":     {func(path string) { os.Truncate(path, 0) }, now, ErrDamaged, "empty"},
		"missing":   {func(path string) { os.Remove(path) }, now, ErrMissing, ".boot"},
		"clock":     {func(string) {}, Options{Gateway: gateway, Now: time.Unix(-1e10, 0)}, ErrClock, "16"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filled(t)
			test.prepare(path)
			before, _ := os.ReadFile(path)
			l, err := Open(path, test.options)
			if err == nil {
				_ = l.Close()
			}
			if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.piece) {
				t.Fatalf("%v", err)
			}
			if first, remedy, _ := strings.Cut(err.Error(), "\n"); !errors.Is(err, ErrClock) && (!strings.Contains(first, path) || remedy == "") {
				t.Errorf("no path or no remedy: %v", err)
			}
			if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
				t.Error("the file was changed")
			}
		})
	}
}

// A second process reports that the file is in use, and opens it afterwards.
func TestInUse(t *testing.T) {
	path := filled(t)
	l := open(t, path)
	if _, err := Open(path, Options{Gateway: gateway, Now: start}); !errors.Is(err, ErrInUse) {
		t.Errorf("%v", err)
	}
	if _, err := Check(path); !errors.Is(err, ErrInUse) {
		t.Errorf("check: %v", err)
	}
	opened := make(chan error)
	go func() {
		for {
			l, err := Open(path, Options{Gateway: gateway, Now: start})
			if err == nil {
				err = l.Close()
			}
			if !errors.Is(err, ErrInUse) {
				opened <- err
				return
			}
		}
	}()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; err != nil {
		t.Error(err)
	}
	if _, err := l.Commit(context.Background(), spendEntry(client(1), 1, 10)); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, _, err := l.Account(client(1)); !errors.Is(err, ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
}

// A damaged value fails those who need it, and no other.
func TestDamagedValue(t *testing.T) {
	path := filled(t)
	id := client(7)
	alter(t, path, bucketAccounts, id[:], func(b []byte) []byte { b[len(b)-1] ^= 1; return b })
	l := open(t, path)
	if _, _, err := l.Account(id); !errors.Is(err, ErrDamaged) {
		t.Errorf("%v", err)
	}
	if _, err := l.Commit(context.Background(), spendEntry(id, 90, 11)); !errors.Is(err, ErrDamaged) {
		t.Errorf("%v", err)
	}
	if err := l.Use(context.Background(), map[identity.PublicKey]uint64{id: 5, client(8): 5}, start); !errors.Is(err, ErrDamaged) {
		t.Errorf("%v", err)
	}
	if a, _, err := l.Account(client(8)); err != nil || a.Grants[0].Used != 5 {
		t.Errorf("%v, %+v", err, a)
	}
	if l.Err() != nil {
		t.Error(l.Err())
	}
	_ = l.Close()
	r, err := Check(path)
	if err != nil || len(r.Problems) != 1 || !strings.Contains(r.Err().Error(), fmt.Sprintf("%x", id[:])) {
		t.Errorf("%v, %q", err, r.Problems)
	}
}

// Damage anywhere in the file ends no process: it is an error, or does no harm.
func TestDamagedPages(t *testing.T) {
	whole, err := os.ReadFile(filled(t))
	if err != nil {
		t.Fatal(err)
	}
	rounds := 30
	if *long {
		rounds = 2000
	}
	r := rand.New(rand.NewPCG(1, 2))
	path := filepath.Join(t.TempDir(), "ledger")
	refused := 0
	for range rounds {
		b := bytes.Clone(whole)
		at := r.IntN(len(b))
		for i := range 1 + r.IntN(64) {
			if at+i < len(b) {
				b[at+i] ^= byte(1 + r.IntN(255))
			}
		}
		if r.IntN(8) == 0 {
			b = b[:at]
		}
		_ = os.Remove(bootFile(path))
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, checked := Check(path)
		l, err := Open(path, Options{Gateway: gateway, Now: start})
		if err != nil {
			refused++
			if checked == nil && !errors.Is(err, ErrDamaged) {
				t.Fatalf("check finds nothing, and open: %v", err)
			}
			continue
		}
		for n := range byte(10) {
			_, _, _ = l.Account(client(n))
			_, _ = l.Commit(context.Background(), spendEntry(client(n), n, 11))
		}
		_ = l.Use(context.Background(), map[identity.PublicKey]uint64{client(1): 5}, start)
		_ = l.Close()
	}
	t.Logf("%d of %d files refused at once", refused, rounds)
}

// A restored backup is detected, and so is one of the run that goes on.
func TestRestored(t *testing.T) {
	path := filled(t)
	dir := t.TempDir()
	old, _ := os.ReadFile(path)
	l := open(t, path)
	if l.Restored() {
		t.Error("restored, after a restart")
	}
	commit(t, l, spendEntry(client(1), 80, 11))
	live := filepath.Join(dir, "live")
	var copied bytes.Buffer
	if err := l.Snapshot(func(size int64, from io.WriterTo) error {
		n, err := from.WriteTo(&copied)
		if n != size {
			t.Errorf("%d bytes of %d", n, size)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := Receive(live, bytes.NewReader(copied.Bytes()[:copied.Len()/2])); !errors.Is(err, ErrDamaged) {
		t.Errorf("half a copy: %v", err)
	}
	if r, err := Receive(live, bytes.NewReader(copied.Bytes())); err != nil || r.Spent != 41 {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := Receive(live, &copied); !errors.Is(err, os.ErrExist) {
		t.Errorf("a backup was overwritten: %v", err)
	}
	_ = l.Close()
	backup, _ := os.ReadFile(live)
	for name, b := range map[string][]byte{"file of an earlier run": old, "backup of the last run": backup} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		l := open(t, path)
		if !l.Restored() || l.Stats().Restored != 1 {
			t.Errorf("%s: not detected", name)
		}
		_ = l.Close()
		l = open(t, path)
		if l.Restored() {
			t.Errorf("%s: detected again", name)
		}
		_ = l.Close()
	}
}

// Crashes between the first transaction of a run and its boot file do not look like a backup.
func TestCrashAtStartIsNoRestore(t *testing.T) {
	path := filled(t)
	boot, err := os.ReadFile(bootFile(path))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		l := open(t, path)
		if l.Restored() {
			t.Fatal("taken for a backup")
		}
		_ = l.Close()
		if err := os.WriteFile(bootFile(path), boot, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// The way back: a copy without the last transaction is whole, and has everything else.
func TestBackupPrevious(t *testing.T) {
	path := filled(t)
	dir := t.TempDir()
	if r, err := Backup(path, filepath.Join(dir, "copy")); err != nil || r.Spent != 40 {
		t.Fatalf("%+v, %v", r, err)
	}
	r, err := BackupPrevious(path, filepath.Join(dir, "previous"))
	if err != nil || r.Spent != 39 || r.Accounts != 39 {
		t.Fatalf("%+v, %v", r, err)
	}
	l := open(t, filepath.Join(dir, "previous"))
	if r := commit(t, l, spendEntry(client(39), 39, 11)); r.Outcome != New {
		t.Errorf("the ticket of the last transaction: %v", r.Outcome)
	}
	if _, err := BackupPrevious(filepath.Join(dir, "previous"), filepath.Join(dir, "other")); !errors.Is(err, ErrInUse) {
		t.Errorf("in use: %v", err)
	}
	if _, err := Backup(filepath.Join(dir, "none"), filepath.Join(dir, "other")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}

	// Damage in the last transaction only: the root of the newest meta page points nowhere.
	b, _ := os.ReadFile(path)
	last, _, err := readMetas(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	page := last.root * uint64(last.pageSize)
	clear(b[page : page+uint64(last.pageSize)])
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{Gateway: gateway, Now: start}); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "--previous") {
		t.Errorf("%v", err)
	}
	if _, err := Backup(path, filepath.Join(dir, "other")); !errors.Is(err, ErrDamaged) {
		t.Errorf("%v", err)
	}
	if r, err := BackupPrevious(path, filepath.Join(dir, "rescued")); err != nil || r.Spent != 39 {
		t.Errorf("%+v, %v", r, err)
	}
	if names, _ := filepath.Glob(filepath.Join(dir, "other*")); names != nil {
		t.Errorf("left behind: %v", names)
	}
}

// Each failure of the store has its error and its remedy.
func TestSentences(t *testing.T) {
	for _, test := range []struct {
		err    error
		want   error
		remedy string
	}{
		{&os.PathError{Op: "write", Path: "l", Err: syscall.ENOSPC}, ErrFull, "free space"},
		{fmt.Errorf("file resize error: %s", syscall.ENOSPC), ErrFull, "free space"},
		{&os.PathError{Op: "open", Path: "l", Err: syscall.EROFS}, ErrReadOnly, "writable"},
		{&os.PathError{Op: "open", Path: "l", Err: syscall.EACCES}, ErrReadOnly, "writable"},
		{syscall.EIO, ErrStorage, "check the disk"},
	} {
		err := sentence("l", classify(test.err))
		if !errors.Is(err, test.want) || !errors.Is(err, ErrStorage) || !strings.Contains(err.Error(), test.remedy) {
			t.Errorf("%v: %v", test.err, err)
		}
		if harmless(err) != (test.want == ErrFull) {
			t.Errorf("%v: harmless %v", test.err, harmless(err))
		}
	}
	if harmless(classify(syscall.ENOSPC)) {
		t.Error("a failed sync counts as harmless")
	}
}
