package wallet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"lewes/crypto/identity"
)

const (
	// lockWait is how long a change waits for the changes of other processes.
	lockWait = 10 * time.Second
	// lockRetry is the pause between two looks at a lock that is taken.
	lockRetry = 10 * time.Millisecond
	// keepUsedUp is how long an account without bandwidth is kept, in case another process tops it up, and
	// keepExpired how long one whose bandwidth has expired is, in case this machine's clock is wrong.
	keepUsedUp  = 24 * time.Hour
	keepExpired = 30 * 24 * time.Hour
)

// ErrInUse means that another process holds the wallet's lock for too long.
var ErrInUse = errors.New("in use by another process")

// Wallet is a file of tickets and accounts. Its methods are safe for concurrent use, by other
// processes too.
type Wallet struct {
	path string
	disk disk
	now  func() time.Time
}

// disk is how a wallet gets to its file; tests make it fail.
type disk struct {
	create  func(path string) (file, error)
	rename  func(from, to string) error
	syncDir func(path string) error
	lock    func(path string) (unlock func(), err error) // errLocked while another has it
}

type file interface {
	io.WriteCloser
	Sync() error
}

// errLocked is the error of disk.lock for a lock that is taken.
var errLocked = errors.New("locked")

// Open returns the wallet in a file, and checks it if it exists; the first change creates it.
// Its errors wrap ErrDamaged, ErrNewer, identity.ErrPermissions or the system's error.
func Open(path string) (*Wallet, error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // replace the file, not a link to it
	}
	w := &Wallet{
		path: path,
		disk: disk{
			create: func(path string) (file, error) {
				return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			},
			rename:  os.Rename,
			syncDir: identity.SyncDir,
			lock:    lockFile,
		},
		now: time.Now,
	}
	c, err := w.read()
	if err != nil {
		return nil, err
	}
	c.wipe()
	return w, nil
}

// Path returns the wallet's file.
func (w *Wallet) Path() string { return w.path }

// read returns the content of the file, or an empty one if there is none.
func (w *Wallet) read() (*content, error) {
	f, err := os.Open(w.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return new(content), nil
	case err != nil:
		return nil, fmt.Errorf("wallet: %s cannot be opened: %w", w.path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("wallet: %s: %w", w.path, err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return nil, fmt.Errorf("wallet: %s has mode %04o: %w; run: chmod 600 %s", w.path, mode, identity.ErrPermissions, w.path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	defer clear(data)
	if err != nil {
		return nil, fmt.Errorf("wallet: %s cannot be read: %w", w.path, err)
	}
	c, err := decode(data)
	switch {
	case errors.Is(err, ErrNewer):
		return nil, fmt.Errorf("wallet: %s was not opened: %w; update lewes", w.path, err)
	case err != nil:
		return nil, fmt.Errorf("wallet: %s is %w; it was not changed\nrestore it from a backup, or move it away to begin an empty one: its tickets are lost then", w.path, err)
	}
	return c, nil
}

// update changes the wallet. It holds the lock while it reads the file, calls change, and replaces the
// file unless change failed. When it returns nil, the change survives a crash; on an error the file is as before, or
// the change is complete.
func (w *Wallet) update(ctx context.Context, change func(*content) error) error {
	if err := os.MkdirAll(filepath.Dir(w.path), 0o700); err != nil {
		return fmt.Errorf("wallet: cannot create the directory of %s: %w", w.path, err)
	}
	unlock, err := w.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	c, err := w.read()
	if err != nil {
		return err
	}
	defer c.wipe()
	if err := change(c); err != nil {
		return err
	}
	c.prune(w.now())
	if err := w.write(c); err != nil {
		return fmt.Errorf("wallet: %s cannot be written: %w\nnothing was spent or asked for, since every step is stored first; make room on the disk or make it writable, and repeat the command", w.path, err)
	}
	return nil
}

func (w *Wallet) lock(ctx context.Context) (unlock func(), err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lockWait, ErrInUse)
	defer cancel()
	for {
		unlock, err := w.disk.lock(w.path + ".lock")
		if err == nil {
			return unlock, nil
		}
		if !errors.Is(err, errLocked) {
			return nil, fmt.Errorf("wallet: %s cannot be locked: %w\nnothing was spent or asked for, since every step is stored first; make its directory writable, and repeat the command", w.path, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wallet: %s was not changed: %w; end that process, or use another state directory", w.path, context.Cause(ctx))
		case <-time.After(lockRetry):
		}
	}
}

// write replaces the file. The lock makes the name of the new one unique.
func (w *Wallet) write(c *content) (err error) {
	data, err := c.encode()
	if err != nil {
		return err
	}
	defer clear(data)
	written, err := decode(data) // never replace a wallet by one that cannot be read
	if err != nil {
		return err
	}
	written.wipe()
	temp := w.path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a crash
		return err
	}
	f, err := w.disk.create(temp)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(temp)
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = w.disk.rename(temp, w.path)
	}
	if err == nil {
		err = w.disk.syncDir(filepath.Dir(w.path))
	}
	return err
}

// prune drops tickets that were refused, once they have expired too, and accounts that have ended long ago. It
// keeps every ticket that may be good: this machine's clock may be wrong.
func (c *content) prune(now time.Time) {
	c.Tickets = slices.DeleteFunc(c.Tickets, func(t *ticket) bool { return t.Refused != "" && t.past(now) })
	c.Accounts = slices.DeleteFunc(c.Accounts, func(a *account) bool {
		usedUp := a.Seen != 0 && a.Remaining == 0 && now.Unix() > a.Seen+int64(keepUsedUp/time.Second)
		expired := a.Expires != 0 && now.Unix() > a.Expires+int64(keepExpired/time.Second)
		return (usedUp || expired) && !c.binds(a.public())
	})
}

// binds reports whether a ticket is bound to an account.
func (c *content) binds(account hex32) bool {
	return slices.ContainsFunc(c.Tickets, func(t *ticket) bool { return t.Spend != nil && t.Spend.Account == account })
}
