package ledger

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"

	"lewes/crypto/identity"
)

const (
	queueSize = 1024 // changes that wait for a transaction
	batchSize = 256  // changes in one transaction
	lockWait  = 100 * time.Millisecond
	mapSize   = 256 << 20 // of addresses; a larger file is mapped again, which waits for readers, such as of a snapshot
)

// Options are those of Open.
type Options struct {
	Gateway identity.PublicKey // whose ledger it is
	Now     time.Time          // with its monotonic reading, as in all calls
}

// Ledger is an open ledger. Its methods are safe for concurrent use.
type Ledger struct {
	path     string
	db       database
	restored bool
	stopped  chan struct{} // closed when the committer has ended

	mu     sync.RWMutex // held for reading while a change is queued
	closed bool
	queue  chan *change

	// Owned by the committer.
	last             time.Time // the time of the last commit, with its monotonic reading
	marked           time.Time // the clock that was stored last
	account, address []byte    // at which sweep goes on
	stuck            bool      // the lock of a transaction could not be released

	fault                                     fault
	accounts, changes, transactions, failures atomic.Uint64
}

// fault is why the last transaction failed.
type fault struct {
	mu      sync.Mutex
	err     error // nil after one that was written
	lasting bool  // nothing is written any more
}

func (f *fault) get() (err error, lasting bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err, f.lasting
}

func (f *fault) set(err error, lasting bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err, f.lasting = err, lasting
}

// Stats are the counters and gauges of a ledger. The tags are those of router.Stats.
type Stats struct {
	Accounts     uint64 `metric:"ledger_accounts" kind:"gauge" help:"Accounts in the ledger."`
	Changes      uint64 `metric:"ledger_changes_total" help:"Changes of the ledger that were asked for, those that it refused included."`
	Transactions uint64 `metric:"ledger_transactions_total" help:"Transactions of the ledger; each has all changes that waited for it."`
	Failures     uint64 `metric:"ledger_failures_total" help:"Transactions of the ledger that could not be written."`
	Restored     uint64 `metric:"ledger_restored" kind:"gauge" help:"Whether the ledger was replaced by a backup before this start."`
}

// Stats returns the counters and gauges.
func (l *Ledger) Stats() Stats {
	s := Stats{Accounts: l.accounts.Load(), Changes: l.changes.Load(), Transactions: l.transactions.Load(), Failures: l.failures.Load()}
	if l.restored {
		s.Restored = 1
	}
	return s
}

// bootFile holds the boot id of the last run.
func bootFile(path string) string { return path + ".boot" }

// Open opens the ledger at path, and creates it with mode 0600 if there is none. An error has the path, the fault and
// the remedy; it is one of the faults of the store, and the file is then unchanged. ErrInUse comes after a tenth of a second: a
// successor tries again until its predecessor has closed the file.
func Open(path string, o Options) (*Ledger, error) {
	if !validTime(o.Now) {
		return nil, fmt.Errorf("%w: the clock shows %v", ErrClock, o.Now)
	}
	l := &Ledger{path: path, last: o.Now, queue: make(chan *change, queueSize), stopped: make(chan struct{})}
	boot, err := readBoot(path)
	if err == nil {
		err = create(path, o, boot != nil)
	}
	if err == nil {
		l.db, err = openFile(path, &bolt.Options{Timeout: lockWait, FreelistType: bolt.FreelistMapType})
	}
	if err != nil {
		return nil, sentence(path, classify(err))
	}
	if err := guard(func() error { return l.begin(o, boot) }); err != nil {
		_ = l.db.close()
		return nil, sentence(path, classify(err))
	}
	go l.run()
	return l, nil
}

// database is an open file of the engine.
type database struct {
	*bolt.DB
	file *os.File
}

// close closes the file in any case: after a panic, the engine leaves it open and locked.
func (d database) close() error {
	err := guard(d.Close)
	d.abandon()
	return err
}

func (d database) abandon() {
	if d.file != nil {
		unlock(d.file)
		_ = d.file.Close()
	}
}

// openFile opens an existing file of the engine, whose pages it checks.
func openFile(path string, o *bolt.Options) (db database, err error) {
	o.NoStatistics = true
	if runtime.GOOS != "windows" { // where the file would get this size
		o.InitialMmapSize = mapSize
	}
	o.OpenFile = func(name string, flag int, mode fs.FileMode) (_ *os.File, err error) {
		db.file, err = os.OpenFile(name, flag&^os.O_CREATE, mode)
		return db.file, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return db, err
	}
	if info.Size() == 0 { // the engine would fill it
		return db, fmt.Errorf("%w: the file is empty", ErrDamaged)
	}
	err = guard(func() error {
		if db.DB, err = bolt.Open(path, 0o600, o); err != nil {
			return err
		}
		if info, err = db.file.Stat(); err != nil {
			return err
		}
		return verifyPages(db.file, info.Size())
	})
	if err != nil && db.DB != nil {
		_ = db.close()
	} else if err != nil {
		db.abandon()
	}
	return db, err
}

// create makes an empty ledger unless there is one. It gets its name when it is complete.
func create(path string, o Options, existed bool) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if existed {
		return fmt.Errorf("%w: %s shows that there was one", ErrMissing, filepath.Base(bootFile(path)))
	}
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := bolt.Open(fresh, 0o600, &bolt.Options{Timeout: lockWait, FreelistType: bolt.FreelistMapType})
	if err != nil {
		return err
	}
	defer os.Remove(fresh)
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		t := txn{Tx: tx, header: header{version: version, gateway: o.Gateway, clock: o.Now}}
		copy(t.header.magic[:], magic)
		t.putHeader()
		return t.fatal
	})
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	err = os.Link(fresh, path) // never over another file
	if err != nil && !errors.Is(err, fs.ErrExist) {
		err = os.Rename(fresh, path) // no links in this file system
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return identity.SyncDir(filepath.Dir(path))
}

// begin checks the header and begins a run.
func (l *Ledger) begin(o Options, boot []byte) error {
	tx, err := l.db.Begin(true)
	if err != nil {
		return err
	}
	defer tx.Rollback() // without effect after the commit
	t, err := newTxn(tx)
	if err != nil {
		return err
	}
	if t.header.gateway != o.Gateway {
		return fmt.Errorf("%w: it belongs to %v", ErrForeign, identity.PublicKey(t.header.gateway))
	}
	// A crash between the commit and writeBoot leaves the file with the previous id, also the second time.
	if string(boot) != string(t.header.previous[:]) {
		l.restored = boot != nil && string(boot) != string(t.header.boot[:])
		t.header.previous = t.header.boot
	}
	_, _ = rand.Read(t.header.boot[:]) // never fails
	id := t.header.boot
	t.advance(o.Now, 0)
	l.marked = t.header.clock
	l.accounts.Store(t.bucket(bucketAccounts).Sequence())
	t.putHeader()
	if t.fatal != nil {
		return t.fatal
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	return writeBoot(l.path, id[:])
}

func readBoot(path string) ([]byte, error) {
	text, err := os.ReadFile(bootFile(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	id, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		id = []byte{} // damaged: it matches no ledger
	}
	return id, nil
}

func writeBoot(path string, id []byte) error {
	fresh := bootFile(path) + ".new"
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "%x\n", id)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(fresh, bootFile(path)); err != nil {
		return err
	}
	return identity.SyncDir(filepath.Dir(path))
}

// Restored reports whether the file is older than the last run with a ledger at this path: a backup was restored. Tickets
// that were spent since the backup can then be spent again.
func (l *Ledger) Restored() bool { return l.restored }

// Err returns why the last transaction was not written, or nil. After a full disk the next one tries again; after other
// faults nothing is written.
func (l *Ledger) Err() error {
	err, _ := l.fault.get()
	return err
}

// Close commits the changes that wait, and closes the file.
func (l *Ledger) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	close(l.queue)
	l.mu.Unlock()
	<-l.stopped
	if l.stuck { // the engine would wait for its own lock
		l.db.abandon()
		return nil
	}
	return sentence(l.path, classify(l.db.close()))
}

// view reads the ledger.
func (l *Ledger) view(f func(*txn) error) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return ErrClosed
	}
	return guard(func() error {
		return l.db.View(func(tx *bolt.Tx) error {
			t, err := newTxn(tx)
			if err != nil {
				return err
			}
			return f(t)
		})
	})
}

// change is a change that waits for its transaction.
type change struct {
	now    time.Time
	apply  func(*txn) error
	result chan error // of one element
}

// update makes a change durable.
func (l *Ledger) update(ctx context.Context, now time.Time, apply func(*txn) error) error {
	if !validTime(now) {
		return fmt.Errorf("%w: %v", ErrClock, now)
	}
	c := &change{now, apply, make(chan error, 1)}
	if err := l.enqueue(ctx, c); err != nil {
		return err
	}
	select {
	case err := <-c.result:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *Ledger) enqueue(ctx context.Context, c *change) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return ErrClosed
	}
	select {
	case l.queue <- c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
