package ledger

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"

	"lewes/crypto/identity"
)

// Snapshot calls f with the bytes of the open ledger, as of its last transaction, and their number. Receive makes a
// file of them. f must not change the ledger.
func (l *Ledger) Snapshot(f func(size int64, from io.WriterTo) error) error {
	return l.view(func(t *txn) error { return f(t.Size(), t.Tx) })
}

// Receive makes a new file of the bytes of a snapshot, and checks it. A gateway that opens the file in the place of
// its ledger finds that it is Restored.
func Receive(to string, from io.Reader) (Report, error) {
	return copyTo(to, func(w io.Writer) error {
		_, err := io.Copy(w, from)
		return err
	})
}

// Backup copies a ledger that no process has open to a new file, as Receive does.
func Backup(from, to string) (Report, error) {
	db, err := openReadOnly(from)
	if err != nil {
		return Report{}, sentence(from, classify(err))
	}
	defer db.close()
	return copyTo(to, func(w io.Writer) error {
		err := guard(func() error {
			return db.View(func(tx *bolt.Tx) error {
				_, err := tx.WriteTo(w)
				return err
			})
		})
		return sentence(from, classify(err))
	})
}

// BackupPrevious copies a ledger that no process has open to a new file, in the state before its last transaction. The engine
// overwrites no page of that state before the next transaction, so that it is whole where only
// pages of the last one are damaged. Everything in the last transaction is lost: its tickets can be spent again.
func BackupPrevious(from, to string) (Report, error) {
	if db, err := openReadOnly(from); err == nil {
		_ = db.close()
	} else if err = classify(err); errors.Is(err, ErrInUse) || errors.Is(err, fs.ErrNotExist) {
		return Report{}, sentence(from, err)
	}
	return copyTo(to, func(w io.Writer) error {
		b, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		last, before, err := readMetas(bytes.NewReader(b))
		if err == nil && before == nil {
			err = fmt.Errorf("%w: one of the two meta pages; there is no transaction before the last", ErrDamaged)
		}
		if err != nil {
			return sentence(from, err)
		}
		clear(b[last.at : last.at+metaSize])
		_, err = w.Write(b)
		return err
	})
}

// copyTo makes a new ledger from the bytes that write produces, and checks it. There is no file after an error.
func copyTo(to string, write func(io.Writer) error) (r Report, err error) {
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return r, fmt.Errorf("backup %s: %w\nname a new file in a folder that exists and that you can write to", to, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(to)
		}
	}()
	if err = write(f); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return r, fmt.Errorf("backup %s: %w", to, err)
	}
	if err = stamp(to); err != nil {
		return r, sentence(to, classify(err))
	}
	if r, err = Check(to); err == nil {
		err = r.Err()
	}
	return r, errors.Join(err, identity.SyncDir(filepath.Dir(to)))
}

// stamp gives a copy boot ids of its own.
func stamp(path string) error {
	db, err := openFile(path, &bolt.Options{Timeout: lockWait, FreelistType: bolt.FreelistMapType})
	if err != nil {
		return err
	}
	defer db.close()
	return guard(func() error {
		tx, err := db.Begin(true)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		t, err := newTxn(tx)
		if err != nil {
			return err
		}
		_, _ = rand.Read(t.header.boot[:]) // never fails
		_, _ = rand.Read(t.header.previous[:])
		if t.putHeader(); t.fatal != nil {
			return t.fatal
		}
		return tx.Commit()
	})
}
